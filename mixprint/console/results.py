"""Mixes of a console as a folder of files.

    <out>/mix.wav             the mix, float WAV
    <out>/tracks/<track>.wav  the tracks as they sound in it; their sum is the mix
    <out>/sheet.md            the settings in words
    <out>/settings.json       the settings; written last

Shape suffixes: N track, C channel, T sample.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from mixprint.audio.writing import FLOAT, StereoFile
from mixprint.console.rendering import render_blocks
from mixprint.console.settings import Settings
from mixprint.console.tracks import (
    check_names,
    common_rate_hz,
    file_stems,
    length_s,
    read_in_step,
)
from mixprint.console.words import markdown
from mixprint.progress import Progress
from mixprint.storage.atomic import atomic_path
from mixprint.storage.outputs import Kind, check_folder, remove_result, reserved, result_in

log = logging.getLogger("mixprint.console")

CONSOLE_MIX = Kind(
    noun="a mix of the console",
    marker="settings.json",
    keys=frozenset({"format", "version", "tracks"}),
    names=("mix.wav", "tracks/*.wav", "sheet.md"),
)


def write_mix(
    tracks: Mapping[str, Path], settings: Settings, out_dir: Path, *, overwrite: bool = False
) -> int:
    """Render tracks from files into a folder, in memory that does not grow with the song.

    Args:
        tracks: name -> file; the shorter ones are silent at the end.
        settings: of tracks of these names.
        out_dir: receives the files.
        overwrite: an earlier mix there may be replaced.

    Returns:
        the sample rate in Hz: the highest of the files.

    Raises:
        ConfigError: the settings are of other tracks.
        AudioError: a file cannot be read.
        DataError: the folder cannot be written, or holds something else.
    """
    check_names(tracks, settings, "settings")
    check_folder(out_dir, CONSOLE_MIX, inputs=list(tracks.values()), overwrite=overwrite)
    paths = [tracks[name] for name in settings.tracks]
    rate_hz, seconds = common_rate_hz(paths), length_s(paths)
    with reserved(out_dir, "a mix of the console"):
        remove_result(out_dir, CONSOLE_MIX)
        with result_in(out_dir, CONSOLE_MIX):
            _write_audio(paths, settings, out_dir, rate_hz, seconds)
            with atomic_path(out_dir / "sheet.md") as temporary:
                temporary.write_text(markdown(settings), encoding="utf-8")
            settings.save(out_dir / CONSOLE_MIX.marker)
    return rate_hz


def _write_audio(
    paths: Sequence[Path], settings: Settings, out_dir: Path, rate_hz: int, seconds: float
) -> None:
    num_declared = math.ceil((seconds + 1) * rate_hz)
    (out_dir / "tracks").mkdir(exist_ok=True)
    with ExitStack() as stack:

        def opened(path: Path) -> StereoFile:
            temporary = stack.enter_context(atomic_path(path))
            return stack.enter_context(
                StereoFile(
                    temporary, bit_depth=FLOAT, sample_rate_hz=rate_hz, num_declared=num_declared
                )
            )

        mix = opened(out_dir / "mix.wav")
        files = [
            opened(out_dir / "tracks" / f"{stem}.wav")
            for stem in file_stems(settings.tracks).values()
        ]
        progress = stack.enter_context(
            Progress(log, "rendered", total=math.ceil(seconds), unit="s of audio")
        )
        num_samples = 0
        for mixed_NCT in render_blocks(read_in_step(paths, rate_hz), settings, rate_hz):
            mix.add(mixed_NCT.sum(dim=0))
            for file, mixed_CT in zip(files, mixed_NCT, strict=True):
                file.add(mixed_CT)
            num_samples += mixed_NCT.shape[-1]
            progress.advance(num_samples // rate_hz - progress.done)
