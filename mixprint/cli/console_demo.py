"""The command `mixprint console demo`: a generated song, mixed, taken apart and mixed anew.

<out>/song/<track>.wav   the dry tracks
<out>/true/              the mix that was made of them by known settings
<out>/found/             what was found of it: as `mixprint console recover` writes it
<out>/changed/           the same with other settings of vocals and drums
<out>/comparison.md      what was found beside what is true
<out>/comparison.json    the same as figures; written last
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixprint.cli.options import OverwriteOption
from mixprint.progress import echo
from mixprint.storage.outputs import Kind
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.console.recovery import RecoveredPair
    from mixprint.console.settings import Settings

log = logging.getLogger("mixprint.console")

DEMO = Kind(
    noun="a demo of the console",
    marker="comparison.json",
    keys=frozenset({"distance", "plain_distance", "tracks"}),
    names=("comparison.md", "song/*.wav"),
)
PARTS = ("true", "found", "changed")
NUM_STEPS = 90
DURATION_S = 8.0
# Of the composer: a rock song in which all tracks sound at once.
SONG, SEED = "demo", 4
# The mix whose settings are to be found.
TRUTH: Mapping[str, float] = {
    "vocals.eq.low.gain_db": -5.0,
    "vocals.eq.high.gain_db": 4.0,
    "vocals.comp.threshold_db": -24.0,
    "vocals.comp.slope": 0.6,
    "vocals.room.send_db": -12.0,
    "vocals.room.time_s": 1.6,
    "vocals.fader_db": 1.0,
    "bass.eq.low.gain_db": 3.0,
    "bass.eq.high.gain_db": -6.0,
    "bass.fader_db": -2.0,
    "drums.eq.bell1.gain_db": -4.0,
    "drums.eq.high.gain_db": 3.0,
    "drums.fader_db": -3.0,
    "other.eq.bell2.gain_db": -4.0,
    "other.width": 1.6,
    "other.pan": -0.3,
    "other.fader_db": -4.0,
}
# What is changed then, and in words.
CHANGES: Mapping[str, float | str] = {
    "vocals.fader_db": "+=3",
    "drums.room.send_db": -9.0,
    "drums.room.time_s": 1.8,
}
CHANGES_IN_WORDS = "vocals 3 dB louder, drums in a room of 1.8 s"


def demo(
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Receives all results.")],
    num_steps: Annotated[
        int, typer.Option("--num_steps", min=0, help="Number of search steps; more come nearer.")
    ] = NUM_STEPS,
    duration: Annotated[
        float, typer.Option("--duration", min=2.0, max=60.0, help="Of the song, in s.")
    ] = DURATION_S,
    overwrite: OverwriteOption = False,
) -> None:
    """Show what the console does: on a generated song, in two minutes or so.

    mixprint composes and plays a song and mixes it by known settings. The mix is then taken apart,
    what is found is compared with the truth, and the song is mixed anew with some of it changed.
    """
    from mixprint.console.pairs import Pair
    from mixprint.console.recovery import recover_pair
    from mixprint.console.results import CONSOLE_MIX, write_mix
    from mixprint.console.settings import Settings
    from mixprint.console.tracks import find_tracks
    from mixprint.storage.outputs import check_folder, remove_result, reserved, result_in

    check_folder(output_dir, DEMO, overwrite=overwrite)
    for part in PARTS:
        check_folder(output_dir / part, CONSOLE_MIX, overwrite=overwrite)
    with reserved(output_dir, DEMO.noun):
        remove_result(output_dir, DEMO)
        with result_in(output_dir, DEMO):
            _write_song(output_dir / "song", duration)
            tracks = find_tracks([output_dir / "song"])
            true = Settings.neutral(list(tracks)).edit(TRUTH)
            log.info("mixing the song by known settings")
            write_mix(tracks, true, output_dir / "true", overwrite=overwrite)
            log.info("taking the mix apart")
            pair = Pair("demo", tracks, output_dir / "true" / "mix.wav")
            done = recover_pair(
                pair, output_dir / "found", num_steps=num_steps, overwrite=overwrite
            )
            found = Settings.load(output_dir / "found" / CONSOLE_MIX.marker)
            log.info("mixing it anew: %s", CHANGES_IN_WORDS)
            write_mix(tracks, found.edit(CHANGES), output_dir / "changed", overwrite=overwrite)
            lines = _write_comparison(output_dir, found, true, done)
    for line in lines:
        echo(line)
    echo(f"the mix            {shown(output_dir / 'true' / 'mix.wav')}")
    echo(f"as it was found    {shown(output_dir / 'found' / 'mix.wav')}, and sheet.md beside it")
    echo(CHANGES_IN_WORDS)
    echo(f"                   {shown(output_dir / 'changed' / 'mix.wav')}")
    echo(f"to move its faders {shown(output_dir / 'found' / 'console.html')}")


def _write_song(folder: Path, duration_s: float) -> None:
    """Compose and play the song."""
    import torch

    from mixprint.audio.files import write_audio
    from mixprint.stems import SAMPLE_RATE_HZ
    from mixprint.synthesis.compose import compose
    from mixprint.synthesis.instruments import render

    log.info("composing and playing %g s of a song", duration_s)
    dry = render(compose(SONG, SEED, duration_s), SEED)
    for track, audio_CT in dry.items():
        audio = torch.from_numpy(audio_CT).float()
        write_audio(folder / f"{track}.wav", audio, SAMPLE_RATE_HZ, subtype="FLOAT")


def _write_comparison(
    folder: Path, found: "Settings", true: "Settings", done: "RecoveredPair"
) -> list[str]:
    """Compare what was found with the truth.

    Returns:
        lines for the terminal.
    """
    from mixprint.console.tracks import common_rate_hz, read_whole
    from mixprint.console.words import in_words
    from mixprint.evaluation.console_comparison import compare, table
    from mixprint.storage.atomic import atomic_path, write_json

    paths = [folder / "song" / f"{track}.wav" for track in true.tracks]
    rate_hz = common_rate_hz(paths)
    effects = compare(read_whole(paths, rate_hz), found, true, rate_hz)
    rows = [("track", "effect", "found", "true"), *table(effects)]
    near = (
        f"distance to the mix {done.distance:.3f}; a plain sum of the tracks has "
        f"{done.plain_distance:.3f}"
    )
    farthest = max((e for e in effects if e.unit.startswith("dB")), key=lambda e: e.difference)
    near += (
        f"; farthest from the truth: {farthest.track}, {farthest.name}, by "
        f"{farthest.difference:.1f} dB"
    )
    words = [
        f"- {track}, {side}: {'; '.join(in_words(settings)[track]) or 'nothing'}"
        for track in true.strips()
        for side, settings in (("found", found), ("true", true))
    ]
    with atomic_path(folder / "comparison.md") as temporary:
        text = [f"| {' | '.join(row)} |" for row in rows]
        text.insert(1, "| --- | --- | ---: | ---: |")
        lines = ["# What was found, beside what is true", "", *text, "", f"{near}.", "", *words]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {
        "distance": done.distance,
        "plain_distance": done.plain_distance,
        "tracks": {
            track: {
                each.name: {"unit": each.unit, "found": each.found, "true": each.true}
                for each in effects
                if each.track == track
            }
            for track in true.tracks
        },
    }
    write_json(folder / DEMO.marker, values)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}"
        for row in rows
    ] + ["", near]
