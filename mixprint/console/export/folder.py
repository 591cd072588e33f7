"""Exports of a song as a folder of files that belong together, and can be moved together.

    <out>/dry/<track>.wav      the tracks as they were given: float WAV, stereo, of one rate, all
                               from the beginning to the end of the song
    <out>/mix.wav              the mix as the console makes it, to compare with
    <out>/song.dawproject ...  what each format writes, see `registry`
    <out>/notes.md             what other programs do in another way, or not at all
    <out>/export.json          what was written; written last

Float samples hold those of 16 and 24 bits exactly, and overs as well. Stereo, because most programs
turn the pan of a stereo track into a balance, which is what the console's is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mixprint.console.export.registry import FORMATS, Format
from mixprint.console.export.song import Export, Plugins
from mixprint.console.settings import Settings
from mixprint.console.tracks import (
    check_not_among,
    common_rate_hz,
    file_stems,
    length_s,
    read_in_step,
)
from mixprint.console.writing import EXPORT_MARKER, write_song
from mixprint.errors import ConfigError
from mixprint.storage.atomic import remove_leftovers, write_json, write_text
from mixprint.storage.outputs import Kind, check_folder, remove_result, reserved, result_in
from mixprint.text import printable

VERSION = 1
TEMPOS_BPM = (10.0, 1_000.0)
CONSOLE_EXPORT = Kind(
    noun="an export of the console",
    marker=EXPORT_MARKER,
    keys=frozenset({"format", "version", "formats", "notes"}),
    names=(
        "dry/*.wav",
        "mix.wav",
        "notes.md",
        *(pattern for each in FORMATS.values() for pattern in each.files),
    ),
)


def write_export(
    tracks: Mapping[str, Path],
    settings: Settings,
    out_dir: Path,
    formats: Sequence[Format],
    *,
    title: str,
    tempo_bpm: float | None = None,
    plugins: Plugins = "jsfx",
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> list[str]:
    """Export settings in some formats, in memory that does not grow with the song.

    Args:
        tracks: name -> file; the shorter ones are silent at the end.
        settings: of tracks of these names.
        out_dir: receives the files.
        formats: at least one; where one needs audio, the dry tracks and the mix are written too.
        title: of the song.
        tempo_bpm: if it is known.
        plugins: of a project for REAPER.
        inputs: other files that are read and must stay.
        overwrite: an earlier export there may be replaced.

    Returns:
        what the formats hold in another way, or not at all, in sentences.

    Raises:
        ConfigError: the settings are of other tracks, or the tempo is out of range.
        AudioError: a file cannot be read.
        DataError: the folder cannot be written, or holds something else.
    """
    settings = settings.in_order(list(tracks))
    if tempo_bpm is not None and not TEMPOS_BPM[0] <= tempo_bpm <= TEMPOS_BPM[1]:
        low, high = TEMPOS_BPM
        raise ConfigError(f"tempo_bpm: expected {low:g} to {high:g}, found {tempo_bpm:g}")
    check_export_folder(out_dir, tracks, inputs=inputs, overwrite=overwrite)
    paths = dict(tracks)
    rate_hz = common_rate_hz(paths.values())
    settings = replace(settings, sample_rate_hz=rate_hz)
    with reserved(out_dir, CONSOLE_EXPORT.noun):
        remove_result(out_dir, CONSOLE_EXPORT)
        with result_in(out_dir, CONSOLE_EXPORT):
            for name in (pattern for each in formats for pattern in each.files):
                remove_leftovers(out_dir / name)
            stems: dict[str, Path] = {}
            if any(each.needs_audio for each in formats):
                stems = _write_audio(paths, settings, out_dir, rate_hz)
            export = Export(
                settings=settings,
                stems=stems,
                out_dir=out_dir,
                title=title,
                tempo_bpm=tempo_bpm,
                plugins=plugins,
            )
            notes = [note for each in formats for note in each.write(export)]
            _write_notes(notes, out_dir / "notes.md")
            values = {
                "format": "mixprint export",
                "version": VERSION,
                "title": title,
                "tempo_bpm": tempo_bpm,
                "formats": [each.name for each in formats],
                "notes": notes,
            }
            write_json(out_dir / CONSOLE_EXPORT.marker, values)
    return notes


def check_export_folder(
    out_dir: Path,
    tracks: Mapping[str, Path],
    *,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Refuse a folder for an export, also that of the tracks; see `write_export`.

    Raises:
        DataError: the folder cannot be written, or holds something else.
    """
    check_folder(out_dir, CONSOLE_EXPORT, inputs=[*tracks.values(), *inputs], overwrite=overwrite)
    check_not_among(tracks, out_dir)


def _write_audio(
    paths: Mapping[str, Path], settings: Settings, out_dir: Path, rate_hz: int
) -> dict[str, Path]:
    """Write the dry tracks and the mix side by side."""
    stems = {
        name: out_dir / "dry" / f"{stem}.wav" for name, stem in file_stems(settings.tracks).items()
    }
    write_song(
        read_in_step(list(paths.values()), rate_hz),
        settings,
        rate_hz,
        length_s(paths.values()),
        mix=out_dir / "mix.wav",
        tracks=list(stems.values()),
        as_they="came",
    )
    return stems


def _write_notes(notes: Sequence[str], path: Path) -> None:
    if not notes:
        return
    lines = ["# What other programs do in another way", "", *(f"- {printable(n)}" for n in notes)]
    write_text(path, "\n".join(lines) + "\n")
