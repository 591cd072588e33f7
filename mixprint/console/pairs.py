"""Pairs of dry tracks and the mix that was made of them, found by name.

raw/vocal1.wav,      mixed/vocal1.wav   a track and its mix
raw/song7/*.wav,     mixed/song7.wav    tracks and their mix
raw/song8/*.wav,     mixed/song8/*.wav  tracks, and how each sounds in the mix, which is their sum

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.signatures import AUDIO_SUFFIXES, is_hidden
from mixprint.console.alignment import Alignment, align, aligned
from mixprint.console.tracks import (
    common_rate_hz,
    find_tracks,
    plain_name,
    read_in_step,
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
        mix: a file, or a folder of the tracks as they sound in the mix.
    """

    name: str
    tracks: Mapping[str, Path]
    mix: Path

    def mixed_tracks(self) -> dict[str, Path]:
        """Name the files whose sum is the mix.

        Raises:
            ConfigError, AudioError: see `find_tracks`.
        """
        return find_tracks([self.mix])


@dataclass(frozen=True)
class LoadedPair:
    """Tracks and their mix, aligned.

    Attributes:
        tracks_NCT: the tracks.
        mix_CT: the mix in their time and polarity.
        sample_rate_hz: of both.
        alignment: how the mix lay.
        mixed_NCT: the tracks as they sound in the mix, of which it is the sum; None: unknown.
    """

    tracks_NCT: Tensor
    mix_CT: Tensor
    sample_rate_hz: int
    alignment: Alignment
    mixed_NCT: Tensor | None = None

    def cut(self, start: int, stop: int) -> Self:
        """Return the samples from `start` to `stop`."""
        part = slice(start, stop)
        return replace(
            self,
            tracks_NCT=self.tracks_NCT[..., part],
            mix_CT=self.mix_CT[..., part],
            mixed_NCT=None if self.mixed_NCT is None else self.mixed_NCT[..., part],
        )


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
    mixes = _by_name(_named(mixed), unpaired)
    for name, path in _by_name(_named(raw), unpaired).items():
        if (mix := mixes.pop(name, None)) is None:
            reason = f"expected its mix {name}.* or {name}/ in {shown(mixed)}, found none"
            unpaired.append(Unpaired(path, reason))
            continue
        try:
            pair = Pair(name, find_tracks([path]), mix)
            pair.mixed_tracks()
            pairs.append(pair)
        except MixprintError as error:
            unpaired.append(Unpaired(path, str(error)))
    for name, path in mixes.items():
        reason = f"expected its tracks {name}.* or {name}/ in {shown(raw)}, found none"
        unpaired.append(Unpaired(path, reason))
    return pairs, unpaired


def load_pair(pair: Pair, sample_rate_hz: int | None = None) -> LoadedPair:
    """Read a pair, and align the mix.

    Args:
        pair: the files.
        sample_rate_hz: at which they are read; None: the highest of the files.

    Raises:
        AudioError: a file cannot be read.
        ConfigError: the mix is a folder without tracks, or with too many.
        DataError: they do not belong together; see `align`.
    """
    parts = pair.mixed_tracks()
    rate_hz = sample_rate_hz or common_rate_hz([*pair.tracks.values(), *parts.values()])
    tracks_NCT = read_whole(list(pair.tracks.values()), rate_hz)
    # A lone track is all of its mix. Of other mixes each track must be known.
    is_known = len(pair.tracks) == len(parts) == 1 or parts.keys() == pair.tracks.keys()
    if not is_known:
        return align_pair(tracks_NCT, _sum(list(parts.values()), rate_hz), rate_hz, pair.name)
    names = pair.tracks if len(parts) > 1 else parts
    parts_NCT = read_whole([parts[name] for name in names], rate_hz)
    loaded = align_pair(tracks_NCT, parts_NCT.sum(dim=0), rate_hz, pair.name)
    length = tracks_NCT.shape[-1]
    mixed_NCT = torch.stack(
        [aligned(part_CT, loaded.alignment, rate_hz, length) for part_CT in parts_NCT]
    )
    return replace(loaded, mixed_NCT=mixed_NCT)


def _sum(paths: Sequence[Path], sample_rate_hz: int) -> Tensor:
    """Add up files: mix_CT."""
    if len(paths) == 1:
        return read_audio(paths[0], sample_rate_hz=sample_rate_hz)
    return torch.cat([part.sum(dim=0) for part in read_in_step(paths, sample_rate_hz)], dim=-1)


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


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_dir():
            yield plain_name(path.name), path
        elif path.suffix.lower() in AUDIO_SUFFIXES:
            yield track_name(path), path
