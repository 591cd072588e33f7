"""Locks between the processes of one machine."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system gives up when this process dies; wait for it first.

    Args:
        path: an empty file in an existing folder; it is created if it is missing, and stays: if it
            were removed, two could hold the lock at once.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
