"""Mixes of a console as a folder of files.

    <out>/mix.wav             the mix, float WAV
    <out>/tracks/<track>.wav  the tracks as they sound in it; their sum is the mix
    <out>/sheet.md            the settings in words
    <out>/spread.json         how sure the settings are, where they were predicted
    <out>/console.html        the console, drawn and played: see `mixprint.console.page`
    <out>/settings.json       the settings; written last

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mixprint.console.excerpts import FramePower, busiest_second, part_of
from mixprint.console.page.building import console_page, excerpt_seconds
from mixprint.console.settings import Settings
from mixprint.console.spread import FILE_NAME, Spread
from mixprint.console.tracks import (
    check_not_among,
    common_rate_hz,
    file_stems,
    length_s,
    read_in_step,
)
from mixprint.console.words import markdown
from mixprint.console.writing import EXPORT_MARKER, write_song
from mixprint.storage.atomic import remove_all_leftovers, write_text
from mixprint.storage.outputs import Kind, check_folder, remove_result, reserved, result_in
from mixprint.text import shown

CONSOLE_MIX = Kind(
    noun="a mix of the console",
    marker="settings.json",
    keys=frozenset({"format", "version", "tracks"}),
    names=("mix.wav", "tracks/*.wav", "sheet.md", FILE_NAME, "console.html"),
    never_beside=EXPORT_MARKER,
)


def write_mix(
    tracks: Mapping[str, Path],
    settings: Settings,
    out_dir: Path,
    *,
    spread: Spread | None = None,
    notes: Mapping[str, Sequence[str]] = {},
    overwrite: bool = False,
) -> int:
    """Render tracks from files into a folder, in memory that does not grow with the song.

    Args:
        tracks: name -> file; the shorter ones are silent at the end.
        settings: of tracks of these names.
        out_dir: receives the files.
        spread: how sure the settings are, where they were predicted.
        notes: see `mixprint.console.words.markdown`.
        overwrite: an earlier mix there may be replaced.

    Returns:
        the sample rate in Hz: the highest of the files.

    Raises:
        ConfigError: the settings are of other tracks.
        AudioError: a file cannot be read.
        DataError: the folder cannot be written, or holds something else.
    """
    settings = settings.in_order(list(tracks))
    check_mix_folder(out_dir, tracks, overwrite=overwrite)
    paths = list(tracks.values())
    rate_hz, seconds = common_rate_hz(paths), length_s(paths)
    with reserved(out_dir, "a mix of the console"):
        remove_result(out_dir, CONSOLE_MIX)
        remove_all_leftovers(out_dir)
        with result_in(out_dir, CONSOLE_MIX):
            power_NM = _write_audio(paths, settings, out_dir, rate_hz, seconds)
            write_text(out_dir / "sheet.md", markdown(settings, spread, notes))
            if spread is not None:
                spread.save(out_dir / FILE_NAME)
            _write_page(paths, settings, out_dir, rate_hz, power_NM)
            replace(settings, sample_rate_hz=rate_hz).save(out_dir / CONSOLE_MIX.marker)
    return rate_hz


def check_mix_folder(
    out_dir: Path,
    tracks: Mapping[str, Path],
    *,
    others: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Refuse a folder for a mix, also that of the tracks: the next call would take it for one.

    Args:
        out_dir: receives the mix.
        tracks: name -> file.
        others: files that are read, too.
        overwrite: an earlier mix there may be replaced.

    Raises:
        DataError: see above, and `check_folder`.
    """
    inputs = [*tracks.values(), *others]
    check_folder(out_dir, CONSOLE_MIX, inputs=inputs, overwrite=overwrite)
    check_not_among(tracks, out_dir)


def _write_audio(
    paths: Sequence[Path], settings: Settings, out_dir: Path, rate_hz: int, seconds: float
) -> Tensor:
    """Write mix and tracks; return the power of the dry tracks, power_NM, in each second."""
    power = FramePower(rate_hz)
    write_song(
        power.watch(read_in_step(paths, rate_hz)),
        settings,
        rate_hz,
        seconds,
        mix=out_dir / "mix.wav",
        tracks=[out_dir / "tracks" / f"{n}.wav" for n in file_stems(settings.tracks).values()],
        as_they="sound",
    )
    return power.power()


def _write_page(
    paths: Sequence[Path], settings: Settings, out_dir: Path, rate_hz: int, power_NM: Tensor
) -> None:
    """Write the page, with the seconds of the song in which all tracks sound."""
    num_seconds = excerpt_seconds(len(paths))
    start = busiest_second(power_NM, num_seconds)
    excerpt_NCT = part_of(
        read_in_step(paths, rate_hz), start * rate_hz, (start + num_seconds) * rate_hz
    )
    page = console_page(
        settings,
        excerpt_NCT,
        rate_hz,
        before=settings.scaled(0.0),
        title=f"Console: {shown(out_dir.absolute().name)}",
        start_s=float(start),
    )
    write_text(out_dir / "console.html", page)
