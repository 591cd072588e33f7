"""Songs with true stems: a folder per song as in MUSDB18-HQ, or a file per song as in MUSDB18.

Shape suffixes: S stem (in the order of `STEMS`), C channel, T sample.
"""

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.signatures import is_hidden
from mixprint.collection.sources import MIXTURE, stem_files
from mixprint.errors import DataError
from mixprint.schema import shortened
from mixprint.separation.material.musdb import (
    MUSDB18_HQ,
    MUSDB_VALIDATION,
    STEM_FILE_SUFFIX,
    decoded_files,
    is_stem_file,
    title,
)
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ, STEMS
from mixprint.storage.archives import Archive, fetch_unpacked
from mixprint.storage.atomic import read_json, write_errors_named
from mixprint.storage.locks import locked
from mixprint.text import first_of, shown

log = logging.getLogger("mixprint.separation.songs")

SETTINGS_FILE = "settings.json"
MAX_REASONS = 10
# Of MUSDB18-HQ; their spelling differs between copies, and so do upper and lower case.
TRAIN_FOLDER, TEST_FOLDER = "train", "test"
_DOWNLOADED, _LOCK = "musdb18hq", ".mixprint-download"


class UnreadableStemError(DataError):
    """A song cannot be used: a stem is missing, broken, too short or of another kind."""

    def __init__(self, song: Path, detail: str) -> None:
        """Keep the song apart from the message.

        Args:
            song: its folder, or its file.
            detail: names the file, what was expected and what was found.
        """
        super().__init__(detail)
        self.song = song


@dataclass(frozen=True)
class Song:
    """A song with its true stems.

    Attributes:
        path: its folder, or its file.
        composition: what the song is a mix of; all mixes of it go to one side of the split.
        num_samples: length of the shortest stem.
        files: of the four stems and, where there is one, of the mixture; see
            `mixprint.collection.sources.stem_files`.
    """

    path: Path
    composition: str
    num_samples: int
    files: Mapping[str, Path]


def find_songs(folder: Path, *, max_bad_fraction: float = 0.0) -> list[Song]:
    """List the songs under a folder, at any depth, by path.

    Args:
        folder: is searched for folders that hold a stem, and for files of MUSDB18.
        max_bad_fraction: songs that cannot be used are left out with a warning up to this part of
            all; beyond it they are an error.

    Raises:
        DataError: there are no songs, or too many cannot be used: a stem is missing or
            unreadable, has another sampling rate or more than two channels.
        ConfigError: there are files of MUSDB18, and what decodes them is not installed.
    """
    return _read_songs(folder, _song_paths(folder), max_bad_fraction)


def _song_paths(folder: Path) -> list[Path]:
    """List songs at any depth, without hidden folders and links to folders.

    Returns:
        folders that hold a stem, and files of MUSDB18.
    """
    if is_stem_file(folder):
        return [folder]
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if names and not stem_files(Path(path)).keys().isdisjoint(STEMS):
            found.append(Path(path))
        found += [each for name in names if is_stem_file(each := Path(path, name))]
    return sorted(found)


def _read_songs(folder: Path, paths: Sequence[Path], max_bad_fraction: float) -> list[Song]:
    songs, reasons = [], []
    for path in paths:
        try:
            songs.append(read_song(path))
        except DataError as error:
            reasons.append(str(error))
    check_bad_songs(reasons, len(songs) + len(reasons), max_bad_fraction)
    for reason in reasons:
        log.warning("leaves out a song: %s", reason)
    if not songs:
        raise DataError(
            f"{shown(folder)}: expected folders with {STEMS[0]}.wav or {STEMS[0]}.flac, or files "
            f"*{STEM_FILE_SUFFIX}, found none: {_contents(folder)}"
        )
    return songs


def _contents(folder: Path) -> str:
    """Say what is in a folder without songs."""
    if not folder.is_dir():
        return "there is no such folder"
    files, links = [], []
    errors: list[OSError] = []
    for path, folders, names in os.walk(folder, onerror=errors.append):
        files += [Path(path, name).relative_to(folder) for name in names]
        links += [each for name in folders if (each := Path(path, name)).is_symlink()]
    found = [f"it holds {len(files)} other files, such as {shown(min(files))}"] if files else []
    if links:
        named = first_of([shown(each.relative_to(folder)) for each in sorted(links)], ", ")
        found.append(f"links to folders are not followed: {named}")
    found += [f"{shown(error.filename)} cannot be listed: {error.strerror}" for error in errors]
    return "; ".join(found) or "it is empty"


def download_songs(folder: Path, archive: Archive = MUSDB18_HQ) -> None:
    """Download songs to a folder, unless there are some; whoever else does the same waits.

    Args:
        folder: receives them, in a folder of their own.
        archive: of songs.

    Raises:
        DataError: see `mixprint.storage.archives.fetch_unpacked`.
    """
    if _song_paths(folder):
        return
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / _LOCK):
            if not _song_paths(folder):
                fetch_unpacked(archive, folder / _DOWNLOADED)


def check_bad_songs(reasons: Sequence[str], num_songs: int, max_bad_fraction: float) -> None:
    """Refuse a collection of which too much cannot be used.

    Args:
        reasons: why, one per song.
        num_songs: size of the collection.
        max_bad_fraction: what is tolerable, rounded up: above 0 one bad song never stops a small
            collection, unless it is the only one.

    Raises:
        DataError: it is too much; the message lists the reasons.
    """
    num_tolerable = min(math.ceil(max_bad_fraction * num_songs), max(num_songs - 1, 0))
    if len(reasons) > num_tolerable:
        shown = "; ".join(reasons[:MAX_REASONS])
        more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
        raise DataError(
            f"expected at most {num_tolerable} of {num_songs} songs to be unusable, found "
            f"{len(reasons)}: {shown}{more}"
        )


def read_song(path: Path) -> Song:
    """Read the headers of a song's stems; those of a file of MUSDB18 are decoded first.

    Args:
        path: of its folder, or of its file.

    Raises:
        DataError: a stem is missing, unreadable, empty or of another kind; or the settings are
            no JSON.
        ConfigError: see `mixprint.separation.material.musdb.decoded_files`.
    """
    lengths = []
    files = decoded_files(path) if is_stem_file(path) else stem_files(path)
    for stem in STEMS:
        if (file := files.get(stem)) is None:
            raise UnreadableStemError(
                path, f"{path / stem}.wav: expected a readable stem, found no such file"
            )
        try:
            info = sf.info(file)
        except (sf.LibsndfileError, OSError) as error:
            raise UnreadableStemError(
                path, f"{file}: expected a readable stem, found: {error}"
            ) from error
        if info.samplerate != SAMPLE_RATE_HZ or info.channels > NUM_CHANNELS:
            raise UnreadableStemError(
                path,
                f"{file}: expected {SAMPLE_RATE_HZ} Hz and at most {NUM_CHANNELS} channels, "
                f"found {info.samplerate} Hz and {info.channels}",
            )
        if not info.frames:
            raise UnreadableStemError(path, f"{file}: expected audio, found none")
        lengths.append(info.frames)
    return Song(path, _composition(path), min(lengths), files)


def _composition(path: Path) -> str:
    """Read what a song is a mix of; its own name where it does not say."""
    settings = path / SETTINGS_FILE
    if not settings.exists():
        return title(path)
    values = read_json(settings)
    composition = values.get("song", path.name) if isinstance(values, dict) else None
    if not isinstance(composition, str):
        raise UnreadableStemError(
            path,
            f"{settings}: expected a mapping with a text under `song`, found {shortened(values)}",
        )
    return composition


def training_songs(
    folder: Path, num_valid: int, *, max_bad_fraction: float = 0.0
) -> tuple[list[Song], list[Song]]:
    """Find the songs to train on and those to validate on.

    Args:
        folder: songs; or MUSDB18, in either form and at any depth, of which only `train` is
            looked at: `test` is for what is published. Upper and lower case make no difference.
        num_valid: how many compositions are held out, see `split_songs`. Where songs of MUSDB18's
            own validation split are among the songs, these are held out instead.
        max_bad_fraction: see `find_songs`.

    Returns:
        songs to train on, songs held out.

    Raises:
        DataError: see `find_songs` and `split_songs`; or there are songs in `test`, and none in
            `train` beside it; or all songs are of MUSDB18's validation split.
    """
    songs = _read_songs(folder, _for_training(folder, _song_paths(folder)), max_bad_fraction)
    official = [song for song in songs if title(song.path) in MUSDB_VALIDATION]
    if not official or not num_valid:
        return split_songs(songs, num_valid)
    if len(official) == len(songs):
        raise DataError(
            f"{shown(folder)}: expected songs beside those of MUSDB18's validation split, found "
            f"only these {len(songs)}"
        )
    return [song for song in songs if song not in official], official


def _for_training(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Choose from songs those that MUSDB18's layout gives to the training.

    Raises:
        DataError: there are songs for tests, and none beside them to train on.
    """
    named = {path: path.relative_to(folder).parts for path in paths}
    # A song's own folder or file may be called as it likes.
    split = {
        parts[:depth]
        for parts in named.values()
        for depth, name in enumerate(parts[:-1])
        if name.casefold() == TRAIN_FOLDER
    }
    chosen = []
    for path, parts in named.items():
        if any(
            parts[:depth] in split and name.casefold() != TRAIN_FOLDER
            for depth, name in enumerate(parts)
        ):
            continue
        for depth, name in enumerate(parts[:-1]):
            if name.casefold() == TEST_FOLDER:
                test = folder.joinpath(*parts[: depth + 1])
                raise DataError(
                    f"{test}: expected a folder {TRAIN_FOLDER} with songs beside it, found none; "
                    "to train on songs for tests, name their folder itself"
                )
        chosen.append(path)
    return chosen


def long_enough(songs: Sequence[Song], num_samples: int) -> list[Song]:
    """Choose the songs that have at least so many samples.

    Raises:
        DataError: none is long enough.
    """
    chosen = [song for song in songs if song.num_samples >= num_samples]
    if not chosen:
        raise DataError(
            f"expected songs of at least {num_samples / SAMPLE_RATE_HZ:.1f} s, found "
            f"{len(songs)} shorter ones"
        )
    if len(chosen) < len(songs):
        log.warning("leaves out %d songs that are too short", len(songs) - len(chosen))
    return chosen


def split_songs(songs: Sequence[Song], num_valid: int) -> tuple[list[Song], list[Song]]:
    """Hold out songs for validation, whole compositions only.

    Args:
        songs: the songs.
        num_valid: how many compositions are held out: the first by a hash of their name.

    Returns:
        songs to train on, songs held out.

    Raises:
        DataError: nothing would be left to train on.
    """
    names = sorted(
        {song.composition for song in songs}, key=lambda n: hashlib.sha256(n.encode()).hexdigest()
    )
    if num_valid >= len(names):
        raise DataError(
            f"expected more than {num_valid} compositions to hold out {num_valid}, "
            f"found {len(names)}"
        )
    held_out = set(names[:num_valid])
    train = [song for song in songs if song.composition not in held_out]
    return train, [song for song in songs if song.composition in held_out]


def read_stems(song: Song, start: int = 0, num_samples: int | None = None) -> Tensor:
    """Read an excerpt of all stems.

    Args:
        song: the song.
        start: first sample.
        num_samples: length; to the end of the shortest stem when None.

    Returns:
        stems_SCT in the order of `STEMS`.
    """
    if num_samples is None:
        num_samples = song.num_samples - start
    return torch.stack([read_clip(song, stem, start, num_samples) for stem in STEMS])


def read_mixture(song: Song, start: int = 0, num_samples: int | None = None) -> Tensor:
    """Read an excerpt of the mixture: of its file if there is one, else the stems' sum.

    A released mixture was mastered and is not quite the sum of its stems.

    Args:
        song: the song.
        start: first sample.
        num_samples: length; to the end of the shortest stem when None.

    Returns:
        mixture_CT.
    """
    if MIXTURE not in song.files:
        return read_stems(song, start, num_samples).sum(dim=0)
    return read_clip(song, MIXTURE, start, num_samples or song.num_samples - start)


def read_clip(song: Song, stem: str, start: int, num_samples: int) -> Tensor:
    """Read an excerpt of one stem.

    Returns:
        audio_CT; one channel is copied to both sides.

    Raises:
        UnreadableStemError: the file is broken, ends early, or holds NaN or infinities.
    """
    path = song.files[stem]
    try:
        audio_TC, _ = sf.read(
            path, frames=num_samples, start=start, dtype="float32", always_2d=True
        )
    except (sf.LibsndfileError, OSError) as error:
        raise UnreadableStemError(
            song.path, f"{path}: expected a readable stem, found: {error}"
        ) from error
    if len(audio_TC) != num_samples:
        raise UnreadableStemError(
            song.path,
            f"{path}: expected {num_samples} samples from {start} on, found {len(audio_TC)}",
        )
    audio_CT = torch.from_numpy(audio_TC).T.expand(NUM_CHANNELS, -1)
    if not audio_CT.isfinite().all():
        raise UnreadableStemError(
            song.path, f"{path}: expected finite samples, found NaN or an infinity"
        )
    return audio_CT
