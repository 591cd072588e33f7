"""Locks between processes that see the same folder."""

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
    with path.open("w") as file:
        try:
            is_taken = _take(file, patience_s)
        except OSError as error:
            raise DataError(
                f"{path}: expected a file system with locks (flock), found: {error}"
            ) from error
        if not is_taken:
            raise TimeoutError(f"{path}: another process has held the lock for {patience_s:g} s")
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
    while True:
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{folder}: expected to be the only run at work there, found {_holder(file)}; "
                    "wait for its end, or name another folder"
                ) from None
            except OSError as error:
                raise DataError(
                    f"{path}: expected a file system with locks (flock), found: {error}"
                ) from error
            if not _is_at(path, file):
                continue  # its last holder has removed it between our two calls
            try:
                file.truncate(0)
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "activity": activity}
                file.write(json.dumps(holder))
                file.flush()
                yield
            finally:
                # While the lock is still held, so that nobody holds one on a file that is gone.
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> IO[str]:
    """Open a lock's file, and make its folder."""
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")


def _holder(file: IO[str]) -> str:
    """Describe who holds a folder, as far as its file tells."""
    file.seek(0)
    try:
        found = parse_json(file.read(), IN_USE_NAME)
        return f"{found['activity']} (process {found['pid']} on {found['host']})"
    except (DataError, ValueError, TypeError, KeyError):
        return "another one"


def _is_at(path: Path, file: IO[str]) -> bool:
    """Tell whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _take(file: IO[str], patience_s: float) -> bool:
    if patience_s == math.inf:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        else:
            return True
