"""Songs of a separator's training: those of a folder, or new ones that a program makes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from mixprint.fingerprint import code_version, fingerprint
from mixprint.schema import Range
from mixprint.separation.material.songs import Song, read_song
from mixprint.training import pool

if TYPE_CHECKING:
    from mixprint.synthesis.training_songs import SongSource


@dataclass(frozen=True, kw_only=True)
class PoolConfig(pool.PoolSize):
    """Parameters of songs that are made on the fly.

    Attributes:
        duration_s: length of a song.
        seed: of the songs.
        sampled: play sampled instruments and sung speech too, for which a sound bank and programs
            must be installed; else only instruments that are computed.
        num_generators: processes that make songs ahead of time. It changes no song.
    """

    duration_s: Annotated[float, Range(1.0)]
    seed: int
    sampled: bool
    num_generators: Annotated[int, Range(0)]


@dataclass(frozen=True)
class SynthesisWriter:
    """Writes songs of `mixprint.synthesis`.

    Attributes:
        source: makes the songs.
        num_held_out: the first so many songs are for validation: when instruments are sampled,
            those play them that play in no other song.
    """

    source: "SongSource"
    num_held_out: int

    def check_installed(self) -> None:
        """Make sure that all is there that makes the songs.

        Raises:
            ConfigError: something is missing; the message names the packages.
        """
        from mixprint.synthesis import training_songs

        if self.source.sampled:
            training_songs.check_installed()

    @property
    def fingerprint(self) -> str:
        """Hash what the songs depend on, the code included."""
        return fingerprint(
            {**asdict(self), "code": code_version("mixprint.synthesis.training_songs")}
        )

    def __call__(self, number: int, folder: Path) -> None:
        """Make a song."""
        from mixprint.synthesis.dataset import write_files

        source = replace(self.source, held_out=number < self.num_held_out)
        write_files(folder, *source.make(number))


class SongPool(Protocol):
    """The songs that there are at a step."""

    @property
    def size(self) -> int:
        """Number of songs, at every step."""
        ...

    def song(self, step: int, index: int) -> Song:
        """Return one of them."""
        ...


class FixedPool:
    """Songs that stay the same."""

    def __init__(self, songs: Sequence[Song]) -> None:
        self.songs = list(songs)

    @property
    def size(self) -> int:
        """Number of songs."""
        return len(self.songs)

    def song(self, step: int, index: int) -> Song:  # noqa: ARG002 - the same at every step
        """Return one of them."""
        return self.songs[index]


class MadePool(pool.MadePool[Song]):
    """Songs that are made on the fly, numbered from `first_number` on."""

    def __init__(
        self, folder: Path, writer: pool.SongWriter, config: PoolConfig, *, first_number: int
    ) -> None:
        """Take a folder for the cache; see `mixprint.training.pool.MadePool`."""
        super().__init__(folder, writer, read_song, config, first_number=first_number)
