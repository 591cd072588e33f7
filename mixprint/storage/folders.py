"""Folders that are replaced as a whole: whoever is killed leaves the older one or the newer one.

A folder is filled under a hidden name beside its final one. To replace an older folder takes two
renames, for the system's way of exchanging two folders at once is not known to every file system.
Between the two the older folder lies under a hidden name of its own, which follows from its final
name: `restore_folder` finds it there and puts it back.

`mixprint.storage.atomic` has files, and folders that no other process wants to make.
"""

import errno
import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from mixprint.storage.atomic import TEMPORARY_PREFIX, name_digest
from mixprint.text import shown

log = logging.getLogger("mixprint.folders")

# Not that of temporary folders: an older result that waits for its return is not abandoned.
OLDER_PREFIX = ".replaced-"
# A folder is locked within microseconds of its creation; one of another final name that is this old
# and unlocked is abandoned. Its own, a run removes at once: it can tell whether it was too fast.
ABANDONED_S = 60.0
NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name and rename it on success; an older one is replaced.

    What killed runs have left beside it is removed or put back first. Several processes may
    replace one folder; the last one stays.

    Args:
        path: the final name; its parent is created if it is missing. A link stays, and what it
            leads to is replaced.

    Yields:
        an empty folder beside it. When the body raises, it is removed and an older folder stays
        as it was.

    Raises:
        OSError: the system refuses to write.
    """
    final = _real(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(final)
    _remove_abandoned(final.parent)
    temporary, lock = _locked_temporary(final)
    try:
        yield temporary
        for file_path in temporary.rglob("*"):
            if file_path.is_file():
                with file_path.open("rb+") as file:
                    os.fsync(file.fileno())
        _replace(final, temporary)
    finally:
        os.close(lock)
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put back what a run that was killed while it replaced a folder has set aside.

    What such a run has half filled is removed.

    To be called before a look at a folder that `whole_folder` makes. Does nothing where all is in
    its place. A process that is just replacing the folder copes with it.

    Raises:
        OSError: the system refuses to rename.
    """
    final = _real(path)
    for temporary in _temporaries(final):
        if not (temporary.is_dir() and _removed_unlocked(temporary)):
            break
    older = _older(final)
    if not older.exists():
        return
    with suppress(FileNotFoundError):  # another process was faster
        if _renamed(older, final):
            log.info("restored %s, which a run that was killed was replacing", shown(final))
            return
        # The newer one is in its place. A rename comes first, so that no half of the older one
        # ever lies where it would be restored from.
        discarded = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        older.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)


def _replace(final: Path, newer: Path) -> None:
    """Rename a folder to its final name, and an older one that is there out of its way."""
    try:
        while not _renamed(newer, final):
            with suppress(FileNotFoundError):  # another process has set it aside
                if not _renamed(final, _older(final)):
                    restore_folder(final)
    finally:
        restore_folder(final)


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder, unless the new name is that of one that is not empty."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in NOT_EMPTY:
            raise
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of killed runs: the kernel has unlocked theirs."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if path.is_dir() and time.time() - path.stat().st_mtime >= ABANDONED_S:
                _removed_unlocked(path)
        except FileNotFoundError:
            continue


def _removed_unlocked(path: Path) -> bool:
    """Remove the temporary folder of a killed run; False if it is in use or cannot be told."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # in use, or a file system that cannot tell
    else:
        shutil.rmtree(path, ignore_errors=True)
        log.info("removed %s, which a killed run has left", shown(path))
        return True
    finally:
        os.close(handle)


def _locked_temporary(final: Path) -> tuple[Path, int]:
    """Make a folder beside a final one, with a lock that tells others that it is in use."""
    for path in _temporaries(final):
        while True:
            try:
                path.mkdir()
            except FileExistsError:
                if not (path.is_dir() and _removed_unlocked(path)):
                    break
                continue
            with suppress(FileNotFoundError):
                lock = os.open(path, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if path.stat().st_ino == os.fstat(lock).st_ino:
                    return path, lock
                os.close(lock)
    raise AssertionError("the names have no end")


def _temporaries(final: Path) -> Iterator[Path]:
    """Name the temporary folders of a final one, without end: all but the first are of a rush."""
    return (
        final.with_name(f"{TEMPORARY_PREFIX}{name_digest(final)}-{number}") for number in count()
    )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _older(final: Path) -> Path:
    """Name the place where a folder waits while another one takes its name."""
    return final.with_name(f"{OLDER_PREFIX}{name_digest(final)}")
