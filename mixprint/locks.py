"""Locks between processes that see the same folder."""

import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mixprint.errors import DataError

POLL_S = 0.2


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
