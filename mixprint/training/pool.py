"""Songs that a program makes on the fly, for trainings without an end of new ones.

Which songs there are at a step depends on the step alone, so that a resumed training meets what
an undisturbed one would have met. Made songs are a cache: whoever needs one that is missing makes
it, and processes in the background make those that will be needed next.
"""

import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import torch

from mixprint.errors import DataError
from mixprint.schema import Range
from mixprint.storage.atomic import atomic_folder
from mixprint.storage.locks import locked

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

log = logging.getLogger("mixprint.training.pool")

NUM_LOCKS = 64
REFRESHES_AHEAD = 4
IDLE_S = 0.2
STOPPED = -1

Song = TypeVar("Song")


class SongWriter(Protocol):
    """Makes song after song, each from its number alone; it travels to other processes."""

    @property
    def fingerprint(self) -> str:
        """Tell writers apart whose songs of one number differ."""
        ...

    def __call__(self, number: int, folder: Path) -> None:
        """Write a song's files into an empty folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """Size of a pool of made songs, and how it is renewed.

    Attributes:
        pool_size: so many songs to draw from.
        refresh_steps: after so many steps the oldest of them make room; 0: never.
        new_songs: for so many new ones.
    """

    pool_size: Annotated[int, Range(1)]
    refresh_steps: Annotated[int, Range(0)]
    new_songs: Annotated[int, Range(1)]


class MadePool(Generic[Song]):
    """Songs that are made on the fly, numbered from `first_number` on."""

    def __init__(
        self,
        folder: Path,
        writer: SongWriter,
        read: Callable[[Path], Song],
        size: PoolSize,
        *,
        first_number: int,
    ) -> None:
        """Take a folder for the cache.

        Args:
            folder: receives a folder for this writer's songs; others' stay untouched.
            writer: makes them.
            read: reads a song from the folder that the writer has filled.
            size: how many there are at a time.
            first_number: the songs before it are never drawn: they are for validation.
        """
        self.folder = folder / writer.fingerprint[:16]
        self._writer = writer
        self._read = read
        self._size = size
        self._first_number = first_number
        self._known: dict[int, Song] = {}

    def numbers(self, step: int) -> range:
        """Return the numbers of the songs at a step."""
        size = self._size
        refreshes = step // size.refresh_steps if size.refresh_steps else 0
        first = self._first_number + refreshes * size.new_songs
        return range(first, first + size.pool_size)

    @property
    def size(self) -> int:
        """Number of songs."""
        return self._size.pool_size

    def song(self, step: int, index: int) -> Song:
        """Return one of them; make it if it is missing."""
        numbers = self.numbers(step)
        if numbers[index] not in self._known:
            self._known = {n: song for n, song in self._known.items() if n in numbers}
            self._known[numbers[index]] = self._read(self.make(numbers[index]))
        return self._known[numbers[index]]

    def make(self, number: int) -> Path:
        """Make a song unless it is there; of several processes one works and the others wait.

        Returns:
            the song's folder.

        Raises:
            DataError: it cannot be written.
        """
        path = self._path(number)
        if path.is_dir():
            return path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A lock per song would have to be removed, and then two could hold it at once.
            with locked(self.folder / f"lock-{number % NUM_LOCKS}"):
                if not path.is_dir():
                    with atomic_folder(path) as temporary:
                        self._writer(number, temporary)
        except OSError as error:
            raise DataError(f"{path}: expected to make a song, found: {error}") from error
        return path

    def next_missing(self, step: int, turn: int, num_turns: int) -> int | None:
        """Return the next song that has to be made for a step or for those soon after it.

        Args:
            step: of the training.
            turn: of the processes that share the work, this one.
            num_turns: how many there are.
        """
        last = self.numbers(step + REFRESHES_AHEAD * self._size.refresh_steps).stop
        wanted = range(self.numbers(step).start, last)
        mine = (number for number in wanted if number % num_turns == turn)
        return next((number for number in mine if not self._path(number).is_dir()), None)

    def forget_before(self, step: int) -> None:
        """Remove the songs that no step from this one on can ask for."""
        first = self.numbers(step).start
        for path in self.folder.glob("[0-9]*"):
            if self._first_number <= int(path.name) < first:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}"


class MakingAhead:
    """Processes that make a pool's songs before they are asked for.

    `with MakingAhead(pool, 2, step) as ahead: ... ahead.reached(step)`. They end with the block,
    and also when the process that started them is gone, however it ended.
    """

    def __init__(self, pool: MadePool[Any], num_processes: int, step: int) -> None:
        """Prepare them.

        Args:
            pool: whose songs are made.
            num_processes: how many work side by side.
            step: where the training begins.
        """
        # Forks of a process whose threads compute may never come to life.
        context = multiprocessing.get_context("spawn")
        self._step: Synchronized[int] = context.Value("q", step)
        self._processes = [
            context.Process(
                target=_make_ahead, args=(pool, self._step, turn, num_processes), daemon=True
            )
            for turn in range(num_processes)
        ]

    def __enter__(self) -> "MakingAhead":
        """Start them."""
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them; a song that is half made is left to the next who needs it."""
        self._step.value = STOPPED
        for process in self._processes:
            process.terminate()
            process.join()

    def reached(self, step: int) -> None:
        """Say how far the training is."""
        self._step.value = step
        for process in [p for p in self._processes if not p.is_alive()]:
            log.warning(
                "a process that makes songs has ended with code %s: the training makes the songs "
                "that are missing, more slowly",
                process.exitcode,
            )
            self._processes.remove(process)


def _make_ahead(pool: MadePool[Any], step: "Synchronized[int]", turn: int, num_turns: int) -> None:
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive() and step.value != STOPPED:
        number = pool.next_missing(step.value, turn, num_turns)
        if number is None:
            time.sleep(IDLE_S)
        else:
            pool.make(number)
