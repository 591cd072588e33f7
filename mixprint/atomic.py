"""Files that are either whole or absent.

A killed step must leave no half file, so everything is written under a temporary name in the
same folder (a rename across file systems is a copy) and renamed when it is complete.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixprint.errors import DataError

TEMPORARY_PREFIX = ".writing-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name and rename it on success.

    Args:
        path: the final name; its folder is created if it is missing.

    Yields:
        a path in the same folder with the same suffix, because some writers choose the format
        by suffix. The body must create that file. When the body raises, the file is removed and
        an older file under the final name stays as it was.

    Raises:
        DataError: the disk is full.
    """
    final = Path(path)
    with disk_full_named(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.parent / f"{_temporary_stem(final)}{uuid.uuid4().hex}{final.suffix}"
        try:
            yield temporary
            # Without fsync a power cut can leave the new name with the old length of zero.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


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


def remove_leftovers(path: Path | str) -> list[Path]:
    """Remove what killed writers of a file have left beside it.

    Only for who alone writes that file now: a writer that lives would lose its work.

    Returns:
        the temporary files that were removed.
    """
    final = Path(path)
    leftovers = sorted(final.parent.glob(f"{_temporary_stem(final)}*"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


@contextmanager
def disk_full_named(path: Path | str) -> Iterator[None]:
    """Turn the error of a full disk or a used-up quota into one that names the file.

    Raises:
        DataError: in place of such an error; others pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DataError(
            f"{path}: expected room to write it, found the disk full "
            f"({errno.errorcode[error.errno]}); what is finished is intact"
        ) from error


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
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a readable JSON file, found: {error}") from error


def name_digest(final: Path) -> str:
    """Stand for a name in other names: as a hash, because a name may have full length."""
    return hashlib.sha256(os.fsencode(final.name)).hexdigest()[:16]


def _temporary_stem(final: Path) -> str:
    """Begin the names of a file's temporaries."""
    return f"{TEMPORARY_PREFIX}{name_digest(final)}-"
