"""Sources: the files of a collection, one reader per layout; no audio is decoded here.

Folders are walked in sorted order, so the same files give the same list on every machine.
Hidden files and folders (one leading dot, as in what macOS keeps beside a file, ``._name``) are
counted and left out; names that begin with several dots are titles ("...And Justice"). Links to
folders are not followed (they can form loops), and files that are no audio by their suffix are
counted and left out. Audio of a kind that is not read is a reject: nobody should miss songs without
being told. So is, unless the caller follows links, a link to a file outside of the collection's
folder: whoever may write there could have any file on the machine read and published in its place.
"""

import csv
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from mixprint.audio.files import convert_advice, stated_duration_s
from mixprint.audio.signatures import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES, is_hidden
from mixprint.collection.catalogue import SPLITS
from mixprint.errors import AudioError, DataError, error_text
from mixprint.schema import shortened
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from mixprint.text import shown

log = logging.getLogger("mixprint.ingest")

MIXTURE = "mixture"
STEM_SUFFIXES = (".wav", ".flac")
SETTINGS = "settings.json"
UNKNOWN_LICENCE = "unknown"
SYNTHETIC_LICENCE = "CC0-1.0"
# Stems of one song may come from tools that pad or cut a few milliseconds.
STEM_TOLERANCE_S = 0.05


@dataclass(frozen=True)
class Candidate:
    """A song that a source found, not yet decoded.

    Attributes:
        path: the finished mix.
        title: for display.
        licence: as the source states it.
        song: content group, or empty if the song stands for itself.
        style: known mix style, or empty.
        has_stems: true stems lie beside the mix.
        pair: the song and its partner share this text; empty if there is no partner.
        split: `train`, `valid` or `test` where the collection says so, else empty.
    """

    path: Path
    title: str
    licence: str
    song: str = ""
    style: str = ""
    has_stems: bool = False
    pair: str = ""
    split: str = ""


@dataclass(frozen=True)
class Refusal:
    """A file or folder that cannot become a song, with the reason as in `AudioError`."""

    path: Path
    reason: str
    detail: str


Found = tuple[list[Candidate], list[Refusal]]


def find_songs(
    source: str,
    locations: Sequence[Path],
    licence: str = UNKNOWN_LICENCE,
    *,
    follow_links: bool = True,
) -> Found:
    """List a collection's songs.

    Args:
        source: a key of `SOURCES`.
        locations: one folder; for `pairs` two, first the raw mixes, then the finished ones.
        licence: what is noted where the source itself states nothing.
        follow_links: also take links to files outside of the locations.

    Returns:
        candidates in the order of their paths, and what was refused.

    Raises:
        DataError: the source is unknown, or a location is missing or no folder.
    """
    if source not in SOURCES:
        raise DataError(f"source {source!r}: expected one of {sorted(SOURCES)}")
    num_expected = 2 if source == "pairs" else 1
    if len(locations) != num_expected:
        raise DataError(
            f"source {source}: expected {num_expected} folder(s), found {len(locations)}: "
            f"{[shown(location) for location in locations]}"
        )
    for location in locations:
        if not location.is_dir():
            raise DataError(f"{shown(location)}: expected a folder of songs, found none")
    return SOURCES[source](locations, licence, follow_links)


def clean_text(text: str) -> str:
    """Make text fit for a table and a page: valid Unicode, one line, no control characters."""
    valid = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in valid).split())


def stem_files(folder: Path) -> dict[str, Path]:
    """Find the files of the MUSDB18-HQ layout: those of `mixture` and the four stems that exist.

    WAV comes before FLAC. Upper and lower case make no difference: `Vocals.WAV` is one, too.
    """
    if not folder.is_dir():
        return {}
    # Of two spellings the one in lower case stays, which sorts behind the other.
    listed = {name.casefold(): folder / name for name in sorted(os.listdir(folder))}  # noqa: PTH208
    found = {}
    for name in (MIXTURE, *STEMS):
        for suffix in STEM_SUFFIXES:
            path = listed.get(f"{name}{suffix}")
            if path is not None and path.is_file():
                found[name] = path
                break
    return found


def _find_folder(locations: Sequence[Path], licence: str, follow_links: bool) -> Found:
    """Read a plain folder of audio, recursively."""
    refusals: list[Refusal] = []
    paths = _audio_files(locations[0], follow_links, refusals)
    return [Candidate(path, clean_text(path.stem), licence) for path in paths], refusals


def _find_fma(locations: Sequence[Path], licence: str, follow_links: bool) -> Found:
    """Read FMA's layout: ``000/000002.mp3`` at any depth, `tracks.csv` where it is found."""
    location = locations[0]
    refusals: list[Refusal] = []
    table = _fma_table(location)
    candidates = []
    for path in _audio_files(location, follow_links, refusals):
        number = path.stem
        if not (number.isascii() and number.isdigit() and path.parent.name == number[:3]):
            refusals.append(
                Refusal(path, "layout", f"{shown(path)}: expected a name like 000/000002.mp3")
            )
            continue
        title, stated = table.get(int(number), ("", ""))
        candidates.append(Candidate(path, title or number, stated or licence))
    return candidates, refusals


def _find_musdbhq(locations: Sequence[Path], licence: str, follow_links: bool) -> Found:
    """Read MUSDB18-HQ: ``[train|test/]<artist - title>/{mixture,<stems>}.wav`` (or FLAC)."""
    refusals: list[Refusal] = []
    candidates = []
    for folder in _song_folders(locations[0], follow_links, refusals):
        if (mixture := _whole_song(folder, refusals)) is not None:
            candidates.append(Candidate(mixture, clean_text(folder.name), licence, has_stems=True))
    return candidates, refusals


def _find_synthetic(locations: Sequence[Path], licence: str, follow_links: bool) -> Found:
    """Read the generated set: the MUSDB18-HQ layout with the truth in `settings.json`."""
    # What mixprint generates it gives away, unless the caller says otherwise.
    stated = SYNTHETIC_LICENCE if licence == UNKNOWN_LICENCE else licence
    refusals: list[Refusal] = []
    candidates = []
    for folder in _song_folders(locations[0], follow_links, refusals):
        mixture = _whole_song(folder, refusals)
        if mixture is None:
            continue
        try:
            song, style, split = _read_settings(folder / SETTINGS)
        except DataError as error:
            refusals.append(Refusal(mixture, "settings", str(error)))
            continue
        title = clean_text(folder.name)
        candidates.append(
            Candidate(mixture, title, stated, song, style, has_stems=True, split=split)
        )
    return candidates, refusals


def _find_pairs(locations: Sequence[Path], licence: str, follow_links: bool) -> Found:
    """Read raw and finished mixes of the same songs: the same relative names in two folders."""
    refusals: list[Refusal] = []
    sides = {
        style: {path.relative_to(root): path for path in _audio_files(root, follow_links, refusals)}
        for style, root in zip(("raw", "mixed"), locations, strict=True)
    }
    candidates = []
    spelling = _spelling_of(sides["raw"].keys(), sides["mixed"].keys())
    sides["mixed"] = {spelling.get(name, name): path for name, path in sides["mixed"].items()}
    for name in sorted(sides["raw"].keys() | sides["mixed"].keys()):
        paths = {style: files[name] for style, files in sides.items() if name in files}
        if len(paths) == 1:
            path = next(iter(paths.values()))
            other = next(style for style in sides if style not in paths)
            refusals.append(
                Refusal(path, "unpaired", f"{shown(path)}: the {other} folder has no such file")
            )
            continue
        pair = os.fsencode(name).hex()
        candidates += [
            Candidate(path, clean_text(name.stem), licence, style=style, pair=pair)
            for style, path in paths.items()
        ]
    return candidates, refusals


def _spelling_of(raw: Set[Path], mixed: Set[Path]) -> dict[Path, Path]:
    """Find names that are one name in two spellings of Unicode.

    macOS writes an accent as a character of its own (NFD), others as part of its letter (NFC).

    Returns:
        spelling in `raw` by the one in `mixed`, of names that only one of them has as they are.
    """
    alone = {unicodedata.normalize("NFC", str(name)): name for name in sorted(raw - mixed)}
    candidates = {name: unicodedata.normalize("NFC", str(name)) for name in sorted(mixed - raw)}
    return {name: alone.pop(plain) for name, plain in candidates.items() if plain in alone}


SOURCES: Mapping[str, Callable[[Sequence[Path], str, bool], Found]] = {
    "folder": _find_folder,
    "fma": _find_fma,
    "musdbhq": _find_musdbhq,
    "pairs": _find_pairs,
    "synthetic": _find_synthetic,
}


def _walk(location: Path, refusals: list[Refusal]) -> list[tuple[Path, list[str]]]:
    """List folders and their file names, sorted, without hidden ones."""

    def refuse(error: OSError) -> None:
        path = Path(error.filename)
        refusals.append(
            Refusal(path, "unreadable", f"{shown(path)}: cannot list it: {error_text(error)}")
        )

    listed = []
    hidden: list[str] = []
    for folder, folders, files in os.walk(location, onerror=refuse):
        hidden += [f"{name}/" for name in folders if is_hidden(name)]
        hidden += [name for name in files if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        listed.append((Path(folder), sorted(name for name in files if not is_hidden(name))))
    if hidden:
        log.info(
            "%s: hidden files and folders (one leading dot) left out: %d, such as %s",
            shown(location),
            len(hidden),
            ", ".join(shown(name) for name in sorted(hidden)[:3]),
        )
    return listed


def _leads_out(path: Path, location: Path) -> bool:
    """Tell whether a file is a link to one outside of a folder."""
    # Unlike `Path.resolve` this takes loops for files, which then cannot be read.
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(location)
    )


def _outside(path: Path, location: Path) -> Refusal:
    detail = f"{shown(path)}: a link that leads out of {shown(location)}"
    return Refusal(path, "outside", detail)


def _audio_files(location: Path, follow_links: bool, refusals: list[Refusal]) -> list[Path]:
    """List audio files by suffix."""
    paths: list[Path] = []
    num_ignored = 0
    for folder, names in _walk(location, refusals):
        for path in (folder / name for name in names):
            suffix = path.suffix.lower()
            if suffix in AUDIO_SUFFIXES and not follow_links and _leads_out(path, location):
                refusals.append(_outside(path, location))
            elif suffix in AUDIO_SUFFIXES:
                paths.append(path)
            elif suffix in UNREADABLE_SUFFIXES:
                refusals.append(
                    Refusal(
                        path,
                        "unsupported_format",
                        f"{shown(path)}: expected one of {', '.join(sorted(AUDIO_SUFFIXES))}, "
                        f"found {suffix}: {convert_advice(path)}",
                    )
                )
            else:
                num_ignored += 1
    if num_ignored:
        log.info("%s: files left out that are no audio: %d", shown(location), num_ignored)
    return sorted(paths)


def _song_folders(location: Path, follow_links: bool, refusals: list[Refusal]) -> list[Path]:
    """List the folders that hold at least one file of the MUSDB18-HQ layout."""
    folders = []
    for folder, names in _walk(location, refusals):
        files = stem_files(folder) if names else {}
        if not files:
            continue
        parts = [*files.values(), folder / SETTINGS]
        outside = [path for path in parts if not follow_links and _leads_out(path, location)]
        refusals += [_outside(path, location) for path in outside]
        if not outside:
            folders.append(folder)
    return folders


def _whole_song(folder: Path, refusals: list[Refusal]) -> Path | None:
    """Return a folder's mixture if all stems are there, readable and as long as it is."""
    files = stem_files(folder)
    if missing := [name for name in (MIXTURE, *STEMS) if name not in files]:
        refusals.append(
            Refusal(
                files.get(MIXTURE, folder),
                "missing_stems",
                f"{shown(folder)}: expected {MIXTURE} and {', '.join(STEMS)}, missing are "
                f"{', '.join(missing)}",
            )
        )
        return None
    mixture = files[MIXTURE]
    try:
        durations_s = {name: stated_duration_s(path) for name, path in files.items()}
    except AudioError as error:
        refusals.append(Refusal(mixture, error.reason, error.detail))
        return None
    spread_s = max(durations_s.values()) - min(durations_s.values())
    if spread_s > STEM_TOLERANCE_S:
        found = ", ".join(f"{name} {length:.3f} s" for name, length in durations_s.items())
        refusals.append(
            Refusal(
                mixture,
                "stems_mismatch",
                f"{shown(folder)}: expected stems as long as the mixture, found {found}",
            )
        )
        return None
    return mixture


def _read_settings(path: Path) -> tuple[str, str, str]:
    """Read song, style and split of a generated mix; most name no split.

    Raises:
        DataError: the file is missing or no JSON, song or style are not there, or the split is
            none.
    """
    try:
        settings = read_json(path)
    except DataError as error:
        raise DataError(f"{shown(path)}: expected a JSON file, found: {error}") from error
    values = [
        settings.get(key) if isinstance(settings, dict) else None for key in ("song", "style")
    ]
    song, style = (clean_text(v) if isinstance(v, str) else "" for v in values)
    if not song or not style:
        raise DataError(
            f"{shown(path)}: expected texts for song and style, found {shortened(values)}"
        )
    split = settings.get("split", "")
    if split not in ("", *SPLITS):
        raise DataError(f"{shown(path)}: expected a split of {SPLITS}, found {shortened(split)}")
    return song, style, split


def _fma_table(location: Path) -> dict[int, tuple[str, str]]:
    """Read title and licence per track number from FMA's metadata, if it is there.

    Source: github.com/mdeff/fma, usage.ipynb: `tracks.csv` has two header rows, the group and
    the field, and a third that names the index.

    Raises:
        DataError: the table has other headers.
    """
    places = (location, location / "fma_metadata", location.parent / "fma_metadata")
    path = next((p for folder in places if (p := folder / "tracks.csv").is_file()), None)
    if path is None:
        log.info("%s: no tracks.csv, so titles are track numbers", shown(location))
        return {}
    # Artists' biographies exceed the default limit of 128 KiB.
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file)
        groups, names = next(rows, []), next(rows, [])
        columns = {pair: index for index, pair in enumerate(zip(groups, names, strict=False))}
        wanted = [("track", "title"), ("artist", "name"), ("track", "license")]
        if missing := [pair for pair in wanted if pair not in columns]:
            raise DataError(
                f"{shown(path)}: expected FMA's columns {wanted}, missing are {missing}"
            )
        title_at, artist_at, licence_at = (columns[pair] for pair in wanted)
        table = {}
        for row in rows:
            if len(row) > max(title_at, artist_at, licence_at) and row[0].isdecimal():
                title = " - ".join(filter(None, (row[artist_at], row[title_at])))
                table[int(row[0])] = (clean_text(title), clean_text(row[licence_at]))
    log.info("%s: titles and licences of %d tracks", shown(path), len(table))
    return table
