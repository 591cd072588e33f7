"""Signs of life of a training's ranks, and the end of a training in which one gives none.

A rank that hangs keeps the others waiting in their next exchange. Each rank of this machine touches
a file again and again from a thread of its own; the step that waits for `torchrun` looks at these
files, and at whether a process of the training is suspended. What it counts is its own time: after
it was suspended itself, together with all others maybe, it begins anew.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mixprint.errors import ConfigError

log = logging.getLogger("mixprint.train")

# Folder of the files of this machine's ranks.
FOLDER_VARIABLE = "MIXPRINT_SIGNS_OF_LIFE"
LIMIT_VARIABLE = "MIXPRINT_RANK_SILENT_S"
LIMIT_S, TOLD_S = 600.0, 60.0
BEAT_S, LOOK_S = 1.0, 1.0


def silence_limit_s() -> float:
    """Tell how long a rank may be silent before its training is ended.

    Raises:
        ConfigError: the variable says no such time.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_S)
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = math.nan
    if not limit_s > 0:
        raise ConfigError(f"{LIMIT_VARIABLE}: expected a number of seconds above 0, found {text!r}")
    return limit_s


@contextmanager
def signs_of_life() -> Iterator[None]:
    """Return signs of life of this rank, if whoever has started it looks for them."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        yield
        return
    path = Path(folder) / os.environ["RANK"]
    path.write_text(str(os.getpid()))
    is_over = threading.Event()

    def beat() -> None:
        # The folder goes when the step ends, and then this rank does, too.
        with suppress(FileNotFoundError):
            while not is_over.wait(BEAT_S):
                os.utime(path)

    thread = threading.Thread(target=beat, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Silent:
    """A process of the training that gives no sign of life.

    Attributes:
        name: what it is: ``rank 1``.
        pid: its process id.
        is_suspended: whether a signal or a debugger has stopped it.
        silent_s: for how long it has given none, in seconds.
    """

    name: str
    pid: int
    is_suspended: bool
    silent_s: float

    def __str__(self) -> str:
        """Describe it, for messages."""
        state = " and is suspended" if self.is_suspended else ""
        return (
            f"{self.name} (process {self.pid} on {socket.gethostname()}) has not answered for "
            f"{self.silent_s:.0f} s{state}"
        )


class Watch:
    """Looks at the processes of a training, from time to time."""

    def __init__(
        self, folder: Path, starter: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Have seen nothing yet.

        Args:
            folder: of the signs of life.
            starter: process id of `torchrun`.
            clock_s: this process's clock.
        """
        self._folder, self._starter, self._clock_s = folder, starter, clock_s
        self._looked_s = clock_s()
        self._seen: dict[int, tuple[int, float]] = {}
        self._told: set[int] = set()

    def look(self, limit_s: float) -> list[Silent]:
        """Look at all of them; a silence of a minute is told in the log.

        Args:
            limit_s: how long one may be silent.

        Returns:
            those that have been silent for so long.
        """
        now_s = self._clock_s()
        # No more than two looks' time can be said to have been waited.
        waited_s, self._looked_s = min(now_s - self._looked_s, 2 * LOOK_S), now_s
        found = [self._judged(*one, waited_s) for one in self._processes()]
        for silent in found:
            if silent.silent_s < TOLD_S:
                self._told.discard(silent.pid)
            elif silent.pid not in self._told:
                self._told.add(silent.pid)
                log.warning(
                    "%s; the training is ended after %g s (%s)", silent, limit_s, LIMIT_VARIABLE
                )
        return [silent for silent in found if silent.silent_s >= limit_s]

    def _judged(
        self, name: str, pid: int, is_suspended: bool, stamp: int, waited_s: float
    ) -> Silent:
        known_stamp, silent_s = self._seen.get(pid, (None, 0.0))
        silent_s = silent_s + waited_s if known_stamp == stamp else 0.0
        self._seen[pid] = stamp, silent_s
        return Silent(name, pid, is_suspended, silent_s)

    def _processes(self) -> Iterator[tuple[str, int, bool, int]]:
        """Return name, process id, whether it is suspended, and the stamp of its last sign of life.

        Of what is no rank, such as readers, being suspended is all that tells of a silence.
        """
        ranks = {}
        for path in self._folder.iterdir():
            # A rank that ends removes its file.
            with suppress(FileNotFoundError, ValueError):
                ranks[int(path.read_text())] = path.name, path.stat().st_mtime_ns
        with suppress(psutil.NoSuchProcess):
            torchrun = psutil.Process(self._starter)
            for process in (torchrun, *torchrun.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    is_suspended = process.status() in {
                        psutil.STATUS_STOPPED,
                        psutil.STATUS_TRACING_STOP,
                    }
                    if process.pid in ranks:
                        rank, stamp = ranks[process.pid]
                        yield f"rank {rank}", process.pid, is_suspended, stamp
                    else:
                        stamp = 0 if is_suspended else time.monotonic_ns()
                        yield process.name(), process.pid, is_suspended, stamp


def end_silent(found: list[Silent]) -> str:
    """Kill the processes that are silent, so that `torchrun` ends the others.

    Returns:
        what has happened, for the user.
    """
    for silent in found:
        with suppress(ProcessLookupError):
            os.kill(silent.pid, signal.SIGKILL)
    return (
        f"{'; '.join(map(str, found))}: ended the training, which goes on from its last saved "
        "state at the next start; look at that machine's disks, memory and GPUs, or raise "
        f"{LIMIT_VARIABLE}"
    )
