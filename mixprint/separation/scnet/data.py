"""Songs that a separator learns from, and the examples that they become.

Shape suffixes: B batch of this rank, S stem, C channel, T sample, F frequency row.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from mixprint.fingerprint import fingerprint
from mixprint.progress import progress
from mixprint.separation.material.pool import (
    FixedPool,
    MadePool,
    SongPool,
    SynthesisWriter,
)
from mixprint.separation.material.remix import Remixer
from mixprint.separation.material.songs import Song, long_enough, read_song, training_songs
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.training.pool import SongWriter

log = logging.getLogger("mixprint.separation.training")

# stems_BSCT and gain_BSF of one rank.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Material:
    """Songs that a separator is trained and validated on.

    Attributes:
        pool: songs to draw from.
        held_out: returns the songs to validate on.
        fingerprint: tells other songs apart.
        num_songs: so many are trained on, or made at a time.
    """

    pool: SongPool
    held_out: Callable[[], list[Song]]
    fingerprint: str
    num_songs: int


class Examples(Dataset[Batch]):
    """Examples of a rank, by the number of the step."""

    def __init__(
        self, remixer: Remixer, rows: range, num_bins: int, sources: Sequence[str]
    ) -> None:
        self._remixer, self._rows, self._num_bins = remixer, rows, num_bins
        self._order = [STEMS.index(stem) for stem in sources]

    def __getitem__(self, step: int) -> Batch:
        size, first = len(self._rows), self._rows.start
        stems_BSCT = self._remixer.batch(step, size, first)
        gain_BSF = self._remixer.equalisers(step, size, self._num_bins, first)
        return stems_BSCT[:, self._order], gain_BSF[:, self._order]


def songs_of_folder(data_dir: Path, config: SeparatorTrainConfig) -> Material:
    """Find the songs of a folder.

    Raises:
        DataError: there are too few, or too many that cannot be used.
    """
    training = config.training
    songs, held_out = training_songs(
        data_dir, training.num_valid, max_bad_fraction=training.max_bad_fraction
    )
    num_samples = round(training.segment_s * SAMPLE_RATE_HZ)
    songs = long_enough(songs, config.remix.longest_clip(num_samples))
    # By names and lengths: hashing hours of audio would take minutes.
    names = [[str(song.path.relative_to(data_dir)), song.num_samples] for song in songs]
    return Material(FixedPool(songs), lambda: held_out, fingerprint(names), len(songs))


def made_songs(folder: Path, config: SeparatorTrainConfig, writer: SongWriter | None) -> Material:
    """Make songs while the training goes on.

    Args:
        folder: receives them.
        config: says which.
        writer: makes them; by default `mixprint.synthesis`.

    Raises:
        ConfigError: what makes them is not installed.
    """
    songs, num_valid = config.songs, config.training.num_valid
    if writer is None:
        from mixprint.synthesis.training_songs import SongSource

        source = SongSource(seed=songs.seed, duration_s=songs.duration_s, sampled=songs.sampled)
        writer = SynthesisWriter(source, num_valid)
        writer.check_installed()
    pool = MadePool(folder, writer, songs, first_number=num_valid)

    def held_out() -> list[Song]:
        numbers = progress(range(num_valid), num_valid, "made", "songs to validate on", log)
        return [read_song(pool.make(number)) for number in numbers]

    known = [writer.fingerprint, songs.pool_size, songs.refresh_steps, songs.new_songs]
    return Material(pool, held_out, fingerprint(known), songs.pool_size)
