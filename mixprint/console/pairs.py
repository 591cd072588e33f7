"""Pairs of dry tracks and the mix that was made of them, found by name.

raw/vocal1.wav,      mixed/vocal1.wav   a track and its mix
raw/song7/*.wav,     mixed/song7.wav    tracks and their mix
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.signatures import AUDIO_SUFFIXES, is_hidden
from mixprint.console.alignment import Alignment, align, aligned
from mixprint.console.tracks import (
    common_rate_hz,
    find_tracks,
    plain_name,
    read_whole,
    track_name,
)
from mixprint.errors import DataError, MixprintError
from mixprint.text import first_of, shown


@dataclass(frozen=True)
class Pair:
    """Tracks and their mix.

    Attributes:
        name: of the song.
        tracks: name -> file.
        mix: file.
    """

    name: str
    tracks: Mapping[str, Path]
    mix: Path


@dataclass(frozen=True)
class LoadedPair:
    """Tracks and their mix, aligned.

    Attributes:
        tracks_NCT: the tracks.
        mix_CT: the mix in their time and polarity.
        sample_rate_hz: of both.
        alignment: how the mix lay.
    """

    tracks_NCT: Tensor
    mix_CT: Tensor
    sample_rate_hz: int
    alignment: Alignment


@dataclass(frozen=True)
class Unpaired:
    """A file or folder without its other half, or a pair that cannot be used."""

    path: Path
    reason: str


def find_pairs(raw: Path, mixed: Path) -> tuple[list[Pair], list[Unpaired]]:
    """Pair what lies in two folders by name.

    Hidden files and those that are no audio are left out.

    Raises:
        DataError: one is no folder.
    """
    for folder in (raw, mixed):
        if not folder.is_dir():
            raise DataError(f"{shown(folder)}: expected a folder, found none")
    pairs: list[Pair] = []
    unpaired: list[Unpaired] = []
    mixes = _by_name(_named(mixed, folders=False), unpaired)
    for name, path in _by_name(_named(raw, folders=True), unpaired).items():
        if (mix := mixes.pop(name, None)) is None:
            reason = f"expected its mix {name}.* in {shown(mixed)}, found none"
            unpaired.append(Unpaired(path, reason))
            continue
        try:
            pairs.append(Pair(name, find_tracks([path]), mix))
        except MixprintError as error:
            unpaired.append(Unpaired(path, str(error)))
    for name, path in mixes.items():
        reason = f"expected its tracks {name}.* or {name}/ in {shown(raw)}, found none"
        unpaired.append(Unpaired(path, reason))
    return pairs, unpaired


def load_pair(pair: Pair) -> LoadedPair:
    """Read a pair, and align the mix.

    Raises:
        AudioError: a file cannot be read.
        DataError: they do not belong together; see `align`.
    """
    paths = [*pair.tracks.values(), pair.mix]
    rate_hz = common_rate_hz(paths)
    tracks_NCT = read_whole(list(pair.tracks.values()), rate_hz)
    return align_pair(tracks_NCT, read_audio(pair.mix, sample_rate_hz=rate_hz), rate_hz, pair.name)


def align_pair(tracks_NCT: Tensor, mix_CT: Tensor, sample_rate_hz: int, where: str) -> LoadedPair:
    """Align a mix with its tracks.

    Args:
        tracks_NCT: the tracks, stereo.
        mix_CT: the mix, stereo, of any length.
        sample_rate_hz: of both.
        where: what they are, for messages.

    Raises:
        DataError: they do not belong together; see `align`.
    """
    found = align(tracks_NCT.sum(dim=0), mix_CT, sample_rate_hz, where)
    mix_CT = aligned(mix_CT, found, sample_rate_hz, tracks_NCT.shape[-1])
    return LoadedPair(tracks_NCT, mix_CT, sample_rate_hz, found)


def _by_name(named: Iterator[tuple[str, Path]], unpaired: list[Unpaired]) -> dict[str, Path]:
    """Keep what has a name of its own; the others would be paired by chance."""
    paths: dict[str, list[Path]] = {}
    for name, path in named:
        paths.setdefault(name, []).append(path)
    for name, several in paths.items():
        if len(several) > 1:
            found = first_of([shown(path.name) for path in several], ", ")
            reason = f"expected one file or folder called {name}, found {found}"
            unpaired.append(Unpaired(several[0], reason))
    return {name: several[0] for name, several in paths.items() if len(several) == 1}


def _named(folder: Path, *, folders: bool) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_dir():
            if folders:
                yield plain_name(path.name), path
        elif path.suffix.lower() in AUDIO_SUFFIXES:
            yield track_name(path), path
