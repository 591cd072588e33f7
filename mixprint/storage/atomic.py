"""Files that are either whole or absent.

A killed step must leave no half file, so everything is written under a temporary name in the
same folder (a rename across file systems is a copy) and renamed when it is complete.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mixprint.errors import DataError
from mixprint.schema import parse_json, read_text

TEMPORARY_PREFIX = ".writing-"
# See `_temporary_stem`; other programs may begin names so, too.
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{16}}-[0-9a-f]{{32}}")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a person can mend: the rights, the medium, the name, or what stands in its way.
MENDABLE = (
    *DISK_FULL,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
)


@contextmanager
def atomic_path(
    path: Path | str, before_rename: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Write a file under a temporary name and rename it on success.

    Args:
        path: the final name; its folder is created if it is missing.
        before_rename: called at the last moment, when the file is whole; it may raise.

    Yields:
        a path in the same folder with the same suffix, because some writers choose the format
        by suffix. The body must create that file. When the body raises, the file is removed and
        an older file under the final name stays as it was.

    Raises:
        DataError: it cannot be written, see `write_errors_named`.
    """
    final = Path(path)
    with write_errors_named(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.parent / f"{_temporary_stem(final)}{uuid.uuid4().hex}{final.suffix}"
        try:
            yield temporary
            # Without fsync a power cut can leave the new name with the old length of zero.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if before_rename is not None:
                before_rename()
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


def remove_exactly(path: Path, content: bytes | None) -> bool:
    """Remove a file if it is what it was at an earlier look.

    It is moved away before it is looked at: whoever is suspended in between, for however long,
    finds what another one has put there meanwhile, and puts it back.

    Args:
        path: of the file.
        content: what it held at that look; None: there was none.

    Returns:
        whether the file is gone, or there was none; False if it is another one.
    """
    aside = path.parent / f"{_temporary_stem(path)}{uuid.uuid4().hex}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if aside.read_bytes() == content:
        aside.unlink()
        return True
    aside.rename(path)
    return False


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder under a temporary name and rename it on success.

    Only for who alone makes that folder now. What a killed maker has left is removed first.

    Args:
        path: the final name, which does not exist yet; its parent exists.

    Yields:
        an empty folder beside it.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    temporary.rename(path)


def remove_leftovers(path: Path | str, *, older_than_s: float = 0.0) -> list[Path]:
    """Remove what killed writers of a file have left beside it.

    Only for who alone writes that file now: a writer that lives would lose its work.

    Args:
        path: of the file.
        older_than_s: age of what is removed, where others may write the file at the same time: so
            long that they have certainly ended. 0: all.

    Returns:
        the temporary files that were removed.
    """
    final = Path(path)
    leftovers = []
    for leftover in sorted(final.parent.glob(f"{_temporary_stem(final)}*")):
        with suppress(FileNotFoundError):
            # The clock of a file server may be ahead.
            if not older_than_s or time.time() - leftover.stat().st_mtime > older_than_s:
                leftovers.append(leftover)
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


def remove_all_leftovers(folder: Path) -> list[Path]:
    """Remove what killed writers of any files have left in a folder, and in folders inside.

    Only for who alone writes there now: a writer that lives would lose its work.

    Returns:
        the temporary files that were removed.
    """
    leftovers = [
        path for path in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")) if _TEMPORARY.match(path.name)
    ]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


@contextmanager
def write_errors_named(path: Path | str) -> Iterator[None]:
    """Turn what the system says against writing, and a person can mend, into one sentence.

    Args:
        path: what is written, where the error itself names nothing.

    Raises:
        DataError: in place of such an error; others pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        name = errno.errorcode[error.errno]
        if error.errno in DISK_FULL:
            raise DataError(
                f"{path}: expected room to write it, found the disk full ({name}); what is "
                "finished is intact"
            ) from error
        named = error.filename2 or error.filename
        if not isinstance(named, str) or Path(named).name.startswith(TEMPORARY_PREFIX):
            named = path
        raise DataError(
            f"{named}: expected to read or write it, found: {os.strerror(error.errno)} ({name})"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, with the line ends that it has.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON: sorted keys, two spaces, a newline at the end, so that it diffs well.

    Raises:
        DataError: the value holds NaN, an infinity or something that JSON cannot express.
    """
    try:
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected finite JSON values, found: {error}") from error
    with atomic_path(path) as temporary:
        # A name of a file that is no text has lone surrogates, which JSON can only escape.
        temporary.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path | str) -> Any:
    """Read a JSON file, within the limits of `mixprint.schema`.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    return parse_json(read_text(path), path)


def name_digest(final: Path) -> str:
    """Stand for a name in other names: as a hash, because a name may have full length."""
    return hashlib.sha256(os.fsencode(final.name)).hexdigest()[:16]


def _temporary_stem(final: Path) -> str:
    """Begin the names of a file's temporaries."""
    return f"{TEMPORARY_PREFIX}{name_digest(final)}-"
