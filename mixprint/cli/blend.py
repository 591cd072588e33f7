"""The command `blend`: the rhythm of one song with the harmony of another."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.options import (
    DeviceOption,
    OverwriteOption,
    SeparatorConfigOption,
    SeparatorOption,
)
from mixprint.progress import echo
from mixprint.text import shown


class Masking(StrEnum):
    """Ways to divide two songs."""

    stems = "stems"
    temporal = "temporal"
    frequency = "frequency"
    spectral = "spectral"
    energy = "energy"
    hybrid = "hybrid"


def blend(
    input_: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Gives the rhythm.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="Gives the harmony.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("--out", help="Receives the mix, .wav or .flac; a page lies beside it."),
    ],
    masking: Annotated[
        Masking,
        typer.Option(
            "--masking",
            help="stems: separate both, and take the input's drums and all else of the target. The "
            "others are fixed masks, which need no separator.",
        ),
    ] = Masking.stems,
    start: Annotated[
        float, typer.Option("--start", min=0.0, help="Where the part of the input begins, in s.")
    ] = 0.0,
    offset: Annotated[
        float, typer.Option("--offset", min=0.0, help="Where the part of the target begins, in s.")
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            min=1.0,
            help="Of the mix, in s. Default: to the end of the shorter song.",
            show_default=False,
        ),
    ] = None,
    balance: Annotated[
        float,
        typer.Option(
            "--balance",
            min=-40.0,
            max=40.0,
            help="Level of the input, in dB, beside the target, to whose loudness it is brought.",
        ),
    ] = 0.0,
    separator: SeparatorOption = "default",
    separator_config: SeparatorConfigOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Mix two songs: what is struck in one with what is held in the other.

    Neither tempo nor key is changed, so songs that fit in both make the best mixes. The page tells
    how much of whose rhythm and harmony is in the mix.
    """
    from mixprint.audio.files import read_audio
    from mixprint.cascade.blend import BlendSettings, in_words
    from mixprint.cascade.blend import blend as blended_songs
    from mixprint.cascade.report import check_outputs, write_blend
    from mixprint.separation.source import SeparatorSource

    check_outputs(out, [input_, target], overwrite=overwrite)
    settings = BlendSettings(masking=masking.value, balance_db=balance)
    songs = {
        "input": read_audio(input_, start_s=start, duration_s=duration),
        "target": read_audio(target, start_s=offset, duration_s=duration),
    }
    length = min(song_CT.shape[-1] for song_CT in songs.values())
    songs = {name: song_CT[:, :length] for name, song_CT in songs.items()}
    separate = None
    if masking is Masking.stems:
        separate = SeparatorSource(separator, separator_config, device).load().separate
    blended = blended_songs(songs["input"], songs["target"], settings, separate)
    about = {
        "input": str(input_),
        "target": str(target),
        "start_s": start,
        "offset_s": offset,
        "masking": masking.value,
        "balance_db": balance,
    }
    write_blend(out, blended, songs, about)
    echo("\n".join(in_words(blended)))
    echo(f"wrote {shown(out)} and {shown(out.with_suffix('.html'))}")
