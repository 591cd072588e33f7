"""Songs for the training of a controller: composed and played on the fly, as dry tracks.

A song follows from its seed and number alone. Its name, which composition and sounds are drawn
from, begins as that of no song of the generated data set, of the benchmarks or of a separator's
training, whatever their seeds: so none of these songs, instruments and voices is met. Sampled
instruments, of which the benchmarks hold out some, do not play.

    <number>/song.json    names, stems, and the gain of each track
    <number>/00.npy ...   a track: 16 bit, one or two channels, at most as loud as these hold

Shape suffixes: N track, C channel, T sample.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mixprint.fingerprint import code_version, fingerprint
from mixprint.schema import Range
from mixprint.storage.atomic import read_json, write_json
from mixprint.synthesis.compose import compose
from mixprint.synthesis.exact import Signal
from mixprint.synthesis.instruments import TRACK_ROLES, Track, render_tracks
from mixprint.training.pool import MadePool, PoolSize

SONG_FILE = "song.json"
_FULL_SCALE = 32_767
# A track whose channels differ by a factor alone was one microphone, turned to a side.
_ONE_SOURCE = 1.0 - 1e-6


@dataclass(frozen=True, kw_only=True)
class SongConfig(PoolSize):
    """Parameters of the songs.

    Attributes:
        duration_s: length of a song.
        seed: of all songs.
        num_valid: the first so many songs are for validation, and never drawn in training.
        num_generators: processes that make songs ahead of time. It changes no song.
    """

    duration_s: Annotated[float, Range(1.0)]
    seed: int
    num_valid: Annotated[int, Range(1)]
    num_generators: Annotated[int, Range(0)]


@dataclass(frozen=True)
class DrySong:
    """A song whose tracks lie in files.

    Attributes:
        path: its folder.
        names: of the tracks.
        scale_N: what a full 16 bits stand for, of each track.
        num_samples: length of each.
    """

    path: Path
    names: tuple[str, ...]
    scale_N: tuple[float, ...]
    num_samples: int

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the tracks."""
        return tuple(TRACK_ROLES[name] for name in self.names)

    def read(self, first: int, num_samples: int) -> list[Tensor]:
        """Read an excerpt: audio_CT of each track, float32, one or two channels."""
        excerpt = []
        for place, scale in enumerate(self.scale_N):
            pcm_CT = np.load(_track_path(self.path, place), mmap_mode="r")
            part_CT = np.array(pcm_CT[:, first : first + num_samples], dtype=np.float32)
            excerpt.append(torch.from_numpy(part_CT) * (scale / _FULL_SCALE))
        return excerpt


@dataclass(frozen=True)
class TrackWriter:
    """Writes songs as tracks.

    Attributes:
        seed: of all songs.
        duration_s: length of a song.
    """

    seed: int
    duration_s: float

    @property
    def fingerprint(self) -> str:
        """Hash what the songs depend on, the code included."""
        return fingerprint({**asdict(self), "code": code_version(__name__)})

    def __call__(self, number: int, folder: Path) -> None:
        """Compose, play and write a song."""
        tracks = self.play(number)
        scales = []
        for place, track in enumerate(tracks):
            scale = float(np.abs(track.signal_CT).max()) or 1.0
            pcm_CT = np.rint(track.signal_CT * (_FULL_SCALE / scale)).astype(np.int16)
            np.save(_track_path(folder, place), pcm_CT)
            scales.append(scale)
        write_json(folder / SONG_FILE, {"names": [t.name for t in tracks], "scales": scales})

    def name(self, number: int) -> str:
        """Name a song; all that it consists of is drawn from this name."""
        return f"controller{self.seed}-{number:08d}"

    def play(self, number: int) -> list[Track]:
        """Compose and play a song; a track that was one microphone has one channel."""
        score = compose(self.name(number), self.seed, self.duration_s)
        tracks = render_tracks(score, self.seed)
        return [Track(t.name, t.stem, _as_recorded(t.signal_CT)) for t in tracks]


def read_dry_song(path: Path) -> DrySong:
    """Read what is known about a song; its audio stays in its files."""
    about: dict[str, Any] = read_json(path / SONG_FILE)
    num_samples = np.load(_track_path(path, 0), mmap_mode="r").shape[-1]
    return DrySong(path, tuple(about["names"]), tuple(about["scales"]), num_samples)


def song_pool(folder: Path, config: SongConfig, *, valid: bool = False) -> MadePool[DrySong]:
    """Return the songs of a training, or (valid) those of its validation, which stay the same.

    Args:
        folder: receives the songs while they are needed.
        config: how many there are, and which.
        valid: whether those are meant that no training meets.
    """
    writer = TrackWriter(config.seed, config.duration_s)
    if not valid:
        return MadePool(folder, writer, read_dry_song, config, first_number=config.num_valid)
    size = PoolSize(pool_size=config.num_valid, refresh_steps=0, new_songs=1)
    return MadePool(folder, writer, read_dry_song, size, first_number=0)


def _as_recorded(signal_CT: Signal) -> Signal:
    """Undo the panning of what one microphone has heard."""
    if len(signal_CT) == 1:
        return signal_CT
    left_T, right_T = signal_CT
    left, right = float((left_T * left_T).sum()), float((right_T * right_T).sum())
    if float((left_T * right_T).sum()) ** 2 < _ONE_SOURCE * left * right:
        return signal_CT
    return signal_CT.mean(axis=0, keepdims=True)


def _track_path(folder: Path, place: int) -> Path:
    return folder / f"{place:02d}.npy"
