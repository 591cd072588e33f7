"""Locks between processes that see the same folder."""

import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mixprint.errors import DataError
from mixprint.schema import parse_json
from mixprint.storage.atomic import write_errors_named

POLL_S = 0.2
IN_USE_NAME = ".mixprint-in-use"


@contextmanager
def locked(path: Path, patience_s: float = math.inf) -> Iterator[None]:
    """Hold a lock that the system gives up when this process dies; wait for it first.

    Args:
        path: an empty file in an existing folder; it is created if it is missing, and stays: if it
            were removed, two could hold the lock at once.
        patience_s: how long to wait.

    Raises:
        TimeoutError: another process has held it all the time.
        DataError: the file system knows no locks.
    """
    lock = _taken(path, patience_s)
    if lock is None:
        raise TimeoutError(f"{path}: another process has held the lock for {patience_s:g} s")
    with lock:
        yield


@contextmanager
def sole_use(folder: Path, activity: str, name: str = IN_USE_NAME) -> Iterator[None]:
    """Keep every other run out of a folder that this one writes to.

    The folder holds a file meanwhile, which says who is at work; the lock itself is the
    system's, so a run that was killed keeps nobody out.

    Args:
        folder: created if it is missing.
        activity: what this run does there, for the other one's message: ``transfer of a.wav``.
        name: of the file; runs with different names do not meet.

    Raises:
        DataError: another run is at work there (the message names it), the file system knows no
            locks, or the folder cannot be written.
    """
    path = folder / name
    with write_errors_named(path):
        folder.mkdir(parents=True, exist_ok=True)
        while (lock := _taken(path, 0)) is None:
            if (found := _holder(path)) is not None:
                raise DataError(
                    f"{folder}: expected to be the only run at work there, found {found}; "
                    "wait for its end, or name another folder"
                )
    with lock:
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "activity": activity}
            path.write_text(json.dumps(holder), encoding="utf-8")
            yield
        finally:
            # While the lock is still held, so that nobody holds one on a file that is gone.
            path.unlink(missing_ok=True)


def _taken(path: Path, patience_s: float) -> AbstractContextManager[object] | None:
    """Return a lock that this process holds; None if another one has held it all the time.

    Raises:
        DataError: the file system knows no locks.
    """
    path.touch()
    # Without the kernel's locks filelock would go by a file's being there, which outlives a kill.
    lock = FileLock(
        path, timeout=patience_s, poll_interval=POLL_S, thread_local=False, fallback_to_soft=False
    )
    try:
        return lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise DataError(
            f"{path}: expected a file system with locks (flock), found: {error}"
        ) from error


def _holder(path: Path) -> str | None:
    """Describe who holds a folder, as far as its file tells; None if the file is gone."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"), IN_USE_NAME)
        return f"{found['activity']} (process {found['pid']} on {found['host']})"
    except FileNotFoundError:
        return None
    except (DataError, ValueError, TypeError, KeyError):
        return "another one"
