"""Songs that a separator learns from: those of a folder, or new ones."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixprint.fingerprint import fingerprint
from mixprint.progress import progress
from mixprint.separation.material.pool import (
    FixedPool,
    MadePool,
    SongPool,
    SynthesisWriter,
)
from mixprint.separation.material.songs import Song, long_enough, read_song, training_songs
from mixprint.separation.training.settings import SongTrainConfig
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.pool import SongWriter

log = logging.getLogger("mixprint.separation.training")


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


def found_or_made(
    data_dir: str | Path | None, folder: Path, config: SongTrainConfig, writer: SongWriter | None
) -> Material:
    """Find the songs of a folder, or make songs while the training goes on.

    Args:
        data_dir: the songs; None: they are made.
        folder: see `made_songs`.
        config: of the training.
        writer: see `made_songs`.

    Raises:
        DataError: see `songs_of_folder`.
        ConfigError: see `made_songs`.
    """
    if data_dir is None:
        return made_songs(folder, config, writer)
    return songs_of_folder(Path(data_dir), config)


def songs_of_folder(data_dir: Path, config: SongTrainConfig) -> Material:
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


def made_songs(folder: Path, config: SongTrainConfig, writer: SongWriter | None) -> Material:
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
