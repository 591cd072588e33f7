"""Audio of a song, rendered block by block into files.

Shape suffixes: N track, C channel, T sample.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from torch import Tensor

from mixprint.audio.writing import FLOAT, StereoFile
from mixprint.console.rendering import render_blocks
from mixprint.console.settings import Settings
from mixprint.progress import Progress
from mixprint.storage.atomic import atomic_path, remove_leftovers

log = logging.getLogger("mixprint.console")

# Written last in a folder of exports. The settings beside it are no sign of a mix.
EXPORT_MARKER = "export.json"


def write_song(
    blocks: Iterable[Tensor],
    settings: Settings,
    rate_hz: int,
    seconds: float,
    *,
    mix: Path,
    tracks: Sequence[Path],
    as_they: Literal["came", "sound"],
) -> None:
    """Render a song into float WAV files, each there as a whole or not at all.

    Args:
        blocks: of the dry tracks_NCT.
        settings: of these tracks.
        rate_hz: sample rate of the blocks.
        seconds: of the song, about.
        mix: file of the mix.
        tracks: a file for each track.
        as_they: whether these hold the dry tracks, or the tracks as they sound in the mix.
    """
    with ExitStack() as stack:
        sum_file, *files = (_opened(path, rate_hz, seconds, stack) for path in (mix, *tracks))

        def write(audio_NCT: Tensor) -> None:
            for file, audio_CT in zip(files, audio_NCT, strict=True):
                file.add(audio_CT)

        def copied() -> Iterator[Tensor]:
            for dry_NCT in blocks:
                if as_they == "came":
                    write(dry_NCT)
                yield dry_NCT

        for mixed_NCT in _rendered(copied(), settings, rate_hz, seconds):
            sum_file.add(mixed_NCT.sum(dim=0))
            if as_they == "sound":
                write(mixed_NCT)


def _opened(path: Path, rate_hz: int, seconds: float, stack: ExitStack) -> StereoFile:
    """Open a float WAV file that is there when the stack is closed, whole or not at all.

    Args:
        path: in a folder that may be missing.
        rate_hz: its sample rate.
        seconds: of audio, which a file of more than 4 GB must know before; about.
        stack: closes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    num_declared = math.ceil((seconds + 1) * rate_hz)
    return stack.enter_context(
        StereoFile(
            stack.enter_context(atomic_path(path)),
            bit_depth=FLOAT,
            sample_rate_hz=rate_hz,
            num_declared=num_declared,
        )
    )


def _rendered(
    blocks: Iterable[Tensor], settings: Settings, rate_hz: int, seconds: float
) -> Iterator[Tensor]:
    """Render a song and say how far it is.

    Args:
        blocks: of the dry tracks_NCT.
        settings: of these tracks.
        rate_hz: sample rate of the blocks.
        seconds: of the song.

    Yields:
        blocks of the mixed tracks_NCT.
    """
    with Progress(log, "rendered", total=math.ceil(seconds), unit="s of audio") as progress:
        num_samples = 0
        for mixed_NCT in render_blocks(blocks, settings, rate_hz):
            yield mixed_NCT
            num_samples += mixed_NCT.shape[-1]
            progress.advance(num_samples // rate_hz - progress.done)
