"""Storage of claims: as files in a folder, or as objects in a bucket.

Both can do what `mixprint.storage.claims` asks for: create a claim exclusively, tell whether it was
renewed since an earlier look, and list, renew and remove claims. Nobody's clock is asked.
"""

import errno
import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixprint.errors import DataError
from mixprint.storage.atomic import TEMPORARY_PREFIX
from mixprint.storage.bucket import GcsBucket

# How a file system says that it knows no hard links.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Written:
    """Content of a claim, and a stamp that is another one after each renewal."""

    content: bytes
    stamp: Hashable


class ClaimFiles(ABC):
    """The claims of one place."""

    @abstractmethod
    def make(self) -> None:
        """Make the place if it is missing."""

    @abstractmethod
    def names(self) -> list[str]:
        """List the claims, and those that are being written; none if the place is missing."""

    @abstractmethod
    def create(self, name: str, value: Mapping[str, Any]) -> bool:
        """Write a claim; False if there is one of this name."""

    @abstractmethod
    def look(self, name: str) -> Written | None:
        """Read a claim; None if it is gone."""

    @abstractmethod
    def renew(self, name: str) -> None:
        """Put another stamp on a claim.

        Raises:
            OSError, DataError: the place is away for a moment, or the claim is gone.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a claim; one that is gone is no matter."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Say where a claim lies, for messages."""


class FolderClaims(ClaimFiles):
    """Claims as files of a folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        """Touch nothing yet."""
        self._folder = folder

    def make(self) -> None:
        """See `ClaimFiles.make`."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """See `ClaimFiles.names`."""
        try:
            return os.listdir(self._folder)  # noqa: PTH208 - names alone, without a Path for each
        except FileNotFoundError:
            return []

    def create(self, name: str, value: Mapping[str, Any]) -> bool:
        """See `ClaimFiles.create`: written under another name, then linked, so it is never torn.

        A file system without links shows it to others while it is written: they find no owner.
        """
        path = self._folder / name
        prepared = self._folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            with prepared.open("x", encoding="utf-8") as file:
                json.dump(value, file)
            return self._link(prepared, path)
        finally:
            prepared.unlink(missing_ok=True)

    def _link(self, prepared: Path, path: Path) -> bool:
        try:
            os.link(prepared, path)
        except FileExistsError:
            # A file server that was asked twice refuses the second time what it has done.
            return _is_same(prepared, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _written_anew(path, prepared.read_bytes())
        return True

    def look(self, name: str) -> Written | None:
        """See `ClaimFiles.look`."""
        try:
            # Stamp and content from one open file: on NFS, opening it asks the server.
            with (self._folder / name).open("rb") as file:
                return Written(stamp=_stamp(os.fstat(file.fileno())), content=file.read())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    def renew(self, name: str) -> None:
        """See `ClaimFiles.renew`: its time is set to now; if that changes nothing, it grows."""
        path = self._folder / name
        before = _stamp(path.stat())
        os.utime(path)
        if _stamp(path.stat()) == before:
            with path.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")

    def remove(self, name: str) -> None:
        """See `ClaimFiles.remove`."""
        (self._folder / name).unlink(missing_ok=True)

    def where(self, name: str) -> str:
        """See `ClaimFiles.where`."""
        return str(self._folder / name)


class BucketClaims(ClaimFiles):
    """Claims as objects, each created write-once."""

    def __init__(self, bucket: GcsBucket) -> None:
        """Touch nothing yet."""
        self._bucket = bucket

    def make(self) -> None:
        """See `ClaimFiles.make`: a bucket has no folders."""

    def names(self) -> list[str]:
        """See `ClaimFiles.names`."""
        return self._bucket.list()

    def create(self, name: str, value: Mapping[str, Any]) -> bool:
        """See `ClaimFiles.create`."""
        return self._bucket.create(json.dumps(value).encode(), name)

    def look(self, name: str) -> Written | None:
        """See `ClaimFiles.look`."""
        info = self._bucket.info(name)
        if info is None:
            return None
        try:
            return Written(self._bucket.read_bytes(name), info.version)
        except DataError:
            if self._bucket.exists(name):
                raise
            return None

    def renew(self, name: str) -> None:
        """See `ClaimFiles.renew`: the same content is written anew."""
        info = self._bucket.info(name)
        content = self._bucket.read_bytes(name)
        if info is None or not self._bucket.create(content, name, replaced=info.version):
            raise DataError(f"{self.where(name)}: expected a claim to renew, found none")

    def remove(self, name: str) -> None:
        """See `ClaimFiles.remove`."""
        self._bucket.delete(name)

    def where(self, name: str) -> str:
        """See `ClaimFiles.where`."""
        return self._bucket.uri(name)


def claim_files(place: Path | GcsBucket) -> ClaimFiles:
    """Return the claims of a folder or of a bucket."""
    return FolderClaims(place) if isinstance(place, Path) else BucketClaims(place)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _written_anew(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True
