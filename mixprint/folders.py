"""Folders that are replaced as a whole: whoever is killed leaves the older one or the newer one.

A folder is filled under a hidden name beside its final one. To replace an older folder takes two
renames, for the system's way of exchanging two folders at once is not known to every file system.
Between the two the older folder lies under a hidden name of its own, which follows from its final
name: `restore_folder` finds it there and puts it back.

`mixprint.atomic` has files, and folders that no other process wants to make.
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
from pathlib import Path

from mixprint.atomic import TEMPORARY_PREFIX, name_digest
from mixprint.audio import shown

log = logging.getLogger("mixprint.folders")

# Not that of temporary folders: an older result that waits for its return is not abandoned.
OLDER_PREFIX = ".replaced-"
# A folder is locked within microseconds of its creation; one this old and unlocked is abandoned.
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
    temporary = _temporary_beside(final)
    temporary.mkdir()
    lock = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield temporary
        for file_path in temporary.iterdir():
            with file_path.open("rb+") as file:
                os.fsync(file.fileno())
        _replace(final, temporary)
    finally:
        os.close(lock)
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put back what a run that was killed while it replaced a folder has set aside.

    To be called before a look at a folder that `whole_folder` makes. Does nothing where all is in
    its place. A process that is just replacing the folder copes with it.

    Raises:
        OSError: the system refuses to rename.
    """
    final = _real(path)
    older = _older(final)
    if not older.exists():
        return
    with suppress(FileNotFoundError):  # another process was faster
        if _renamed(older, final):
            log.info("restored %s, which a run that was killed was replacing", shown(final))
            return
        # The newer one is in its place. A rename comes first, so that no half of the older one
        # ever lies where it would be restored from.
        discarded = _temporary_beside(final)
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
            if not path.is_dir() or time.time() - path.stat().st_mtime < ABANDONED_S:
                continue
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use, or a file system that cannot tell
        else:
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed %s, which a killed run has left", shown(path))
        finally:
            os.close(handle)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _temporary_beside(final: Path) -> Path:
    return final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")


def _older(final: Path) -> Path:
    """Name the place where a folder waits while another one takes its name."""
    return final.with_name(f"{OLDER_PREFIX}{name_digest(final)}")
