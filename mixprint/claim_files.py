"""Where claims lie: as files in a folder, or as objects in a bucket.

Both can do what `mixprint.claims` asks for: create a claim exclusively, tell when it was last
renewed by a clock that all claims there share, and list, renew and remove claims.
"""

import errno
import json
import os
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixprint.errors import DataError
from mixprint.storage import Storage


@dataclass(frozen=True)
class Written:
    """What a claim says, and when it was written or renewed, in seconds."""

    content: bytes
    renewed_s: float


class ClaimFiles(ABC):
    """The claims of one place."""

    @abstractmethod
    def make(self) -> None:
        """Make the place if it is missing."""

    @abstractmethod
    def names(self) -> list[str]:
        """List the claims; none if the place is missing."""

    @abstractmethod
    def create(self, name: str, value: Mapping[str, Any]) -> bool:
        """Write a claim; False if there is one of this name."""

    @abstractmethod
    def look(self, name: str) -> Written | None:
        """Read a claim; None if it is gone."""

    @abstractmethod
    def renew(self, name: str) -> None:
        """Set a claim's time to now.

        Raises:
            OSError, DataError: the place is away for a moment, or the claim is gone.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a claim; one that is gone is no matter."""

    @abstractmethod
    def now_s(self) -> float:
        """Tell the time by the clock that dates the claims: clocks of two machines differ."""

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
        """See `ClaimFiles.create`.

        Whoever looks between creation and writing sees a claim without an owner, and judges it by
        its age. A hard link would bring the content with it, but not every file system has those.
        """
        path = self._folder / name
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(value, file)
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def look(self, name: str) -> Written | None:
        """See `ClaimFiles.look`."""
        try:
            # Time and content from one open file: on NFS, opening it asks the server.
            with (self._folder / name).open("rb") as file:
                return Written(renewed_s=os.fstat(file.fileno()).st_mtime, content=file.read())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    def renew(self, name: str) -> None:
        """See `ClaimFiles.renew`."""
        os.utime(self._folder / name)

    def remove(self, name: str) -> None:
        """See `ClaimFiles.remove`."""
        (self._folder / name).unlink(missing_ok=True)

    def now_s(self) -> float:
        """See `ClaimFiles.now_s`: by a new file."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".clock-") as probe:
            return os.fstat(probe.fileno()).st_mtime

    def where(self, name: str) -> str:
        """See `ClaimFiles.where`."""
        return str(self._folder / name)


class BucketClaims(ClaimFiles):
    """Claims as objects, each created write-once."""

    def __init__(self, storage: Storage) -> None:
        """Touch nothing yet."""
        self._storage = storage

    def make(self) -> None:
        """See `ClaimFiles.make`: a bucket has no folders."""

    def names(self) -> list[str]:
        """See `ClaimFiles.names`."""
        return self._storage.list()

    def create(self, name: str, value: Mapping[str, Any]) -> bool:
        """See `ClaimFiles.create`."""
        return self._storage.create(json.dumps(value).encode(), name)

    def look(self, name: str) -> Written | None:
        """See `ClaimFiles.look`."""
        info = self._storage.info(name)
        if info is None:
            return None
        try:
            return Written(self._storage.read_bytes(name), info.changed_s)
        except DataError:
            if self._storage.exists(name):
                raise
            return None

    def renew(self, name: str) -> None:
        """See `ClaimFiles.renew`: the same content is written anew."""
        info = self._storage.info(name)
        content = self._storage.read_bytes(name)
        if info is None or not self._storage.create(content, name, replaced=info.version):
            raise DataError(f"{self.where(name)}: expected a claim to renew, found none")

    def remove(self, name: str) -> None:
        """See `ClaimFiles.remove`."""
        self._storage.delete(name)

    def now_s(self) -> float:
        """See `ClaimFiles.now_s`: by a new object."""
        name = f".clock-{uuid.uuid4().hex}"
        self._storage.write_bytes(name, b"")
        info = self._storage.info(name)
        with suppress(DataError):
            self._storage.delete(name)
        assert info is not None
        return info.changed_s

    def where(self, name: str) -> str:
        """See `ClaimFiles.where`."""
        return self._storage.uri(name)


def claim_files(place: Path | Storage) -> ClaimFiles:
    """Give the claims of a folder or of a bucket."""
    return FolderClaims(place) if isinstance(place, Path) else BucketClaims(place)
