"""Whole files in a local folder or in a Google Cloud Storage bucket, behind one interface.

    storage = open_storage("gs://bucket/runs/7")      # or "/data/runs/7", or "runs/7"
    storage.upload(Path("catalogue.parquet"), "catalogue/catalogue.parquet")

Names are relative, with ``/`` between their parts. Writes are whole or not at all on both sides.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mixprint.atomic import TEMPORARY_PREFIX, atomic_path
from mixprint.errors import DataError

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

GCS_SCHEME = "gs://"


class Storage(ABC):
    """Files under one root."""

    @abstractmethod
    def uri(self, name: str) -> str:
        """Say where a file lies, for messages and manifests."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """List the names that begin with a prefix, sorted, folders within folders included."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DataError: it is missing or cannot be read.
        """

    @abstractmethod
    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            DataError: it cannot be written.
        """

    @abstractmethod
    def download(self, name: str, path: Path) -> None:
        """Copy a file of the storage to a local path, however large.

        Raises:
            DataError: it is missing or cannot be read.
        """

    @abstractmethod
    def upload(self, path: Path, name: str) -> None:
        """Copy a local file into the storage, however large.

        Raises:
            DataError: it is missing or cannot be written.
        """


class LocalStorage(Storage):
    """Files under a local folder."""

    def __init__(self, root: Path) -> None:
        """Keep the folder; it is created by the first write."""
        self._root = root

    def uri(self, name: str) -> str:
        """See `Storage.uri`."""
        return str(self._path(name))

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return self._path(name).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`; files that are being written are not listed."""
        names = (
            path.relative_to(self._root).as_posix()
            for path in self._root.rglob("*")
            if path.is_file() and not path.name.startswith(TEMPORARY_PREFIX)
        )
        return sorted(name for name in names if name.startswith(prefix))

    def read_bytes(self, name: str) -> bytes:
        """See `Storage.read_bytes`."""
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.uri(name)}: cannot be read: {error}") from error

    def write_bytes(self, name: str, content: bytes) -> None:
        """See `Storage.write_bytes`."""
        try:
            with atomic_path(self._path(name)) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise DataError(f"{self.uri(name)}: cannot be written: {error}") from error

    def download(self, name: str, path: Path) -> None:
        """See `Storage.download`."""
        _copy(self._path(name), path)

    def upload(self, path: Path, name: str) -> None:
        """See `Storage.upload`."""
        _copy(path, self._path(name))

    def _path(self, name: str) -> Path:
        return self._root / _checked(name)


class GcsStorage(Storage):
    """Objects under a prefix of a bucket.

    Credentials are found as Google's client finds them (a service account on a cluster, `gcloud
    auth application-default login` elsewhere); `STORAGE_EMULATOR_HOST` points it to an emulator.
    """

    def __init__(self, root: str, client: "Client | None" = None) -> None:
        """Open a bucket; nothing is asked of the server yet.

        Args:
            root: ``gs://bucket`` or ``gs://bucket/prefix``.
            client: for tests and for credentials of one's own; None makes the default one.

        Raises:
            DataError: root names no bucket, or there are no credentials.
        """
        bucket, _, prefix = root.removeprefix(GCS_SCHEME).partition("/")
        if not root.startswith(GCS_SCHEME) or not bucket:
            raise DataError(f"{root}: expected gs://bucket/prefix")
        self._root = f"{GCS_SCHEME}{bucket}"
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = _default_client(root) if client is None else client
        self._bucket = self._client.bucket(bucket)

    def uri(self, name: str) -> str:
        """See `Storage.uri`."""
        return f"{self._root}/{self._prefix}{_checked(name)}"

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        with _cloud_errors(self.uri(name)):
            return bool(self._blob(name).exists())

    def list(self, prefix: str = "") -> list[str]:
        """See `Storage.list`."""
        with _cloud_errors(f"{self._root}/{self._prefix}{prefix}"):
            blobs = self._client.list_blobs(self._bucket, prefix=self._prefix + prefix)
            names = [blob.name.removeprefix(self._prefix) for blob in blobs]
        # Names that end with a slash are placeholders that consoles create for folders.
        return sorted(name for name in names if not name.endswith("/"))

    def read_bytes(self, name: str) -> bytes:
        """See `Storage.read_bytes`."""
        with _cloud_errors(self.uri(name)):
            return bytes(self._blob(name).download_as_bytes())

    def write_bytes(self, name: str, content: bytes) -> None:
        """See `Storage.write_bytes`."""
        with _cloud_errors(self.uri(name)):
            self._blob(name).upload_from_string(content, "application/octet-stream")

    def download(self, name: str, path: Path) -> None:
        """See `Storage.download`; the client compares the checksum."""
        with _cloud_errors(self.uri(name)), atomic_path(path) as temporary:
            self._blob(name).download_to_filename(str(temporary))

    def upload(self, path: Path, name: str) -> None:
        """See `Storage.upload`; the server compares the checksum."""
        with _cloud_errors(f"{path} -> {self.uri(name)}"):
            self._blob(name).upload_from_filename(str(path), checksum="crc32c")

    def _blob(self, name: str) -> "Blob":
        return self._bucket.blob(self._prefix + _checked(name))


def open_storage(root: str) -> Storage:
    """Open the storage that a root names: ``gs://...``, ``file:///...`` or a path.

    Raises:
        DataError: another scheme, no bucket, or no credentials.
    """
    if root.startswith(GCS_SCHEME):
        return GcsStorage(root)
    path = root.removeprefix("file://")
    if "://" in path:
        raise DataError(f"{root}: expected gs://, file:// or a path")
    return LocalStorage(Path(path))


def _checked(name: str) -> str:
    """Refuse names that lead out of the root, or that the two sides would read differently."""
    parts = name.split("/")
    if PurePosixPath(name).is_absolute() or not all(parts) or {".", ".."} & set(parts):
        raise DataError(f"{name!r}: expected a relative name without empty parts, . and ..")
    return name


def _copy(source: Path, target: Path) -> None:
    try:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise DataError(f"{source} -> {target}: cannot be copied: {error}") from error


def _default_client(root: str) -> "Client":
    """Make the client; its packages take a second to import, so only who needs it pays."""
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage import Client

    try:
        return Client()
    except (GoogleAuthError, OSError) as error:
        raise DataError(f"{root}: no credentials for Google Cloud Storage: {error}") from error


@contextmanager
def _cloud_errors(what: str) -> Iterator[None]:
    """Turn the client's errors into one that names the object."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, DataCorruption, RequestException, OSError) as error:
        raise DataError(f"{what}: Google Cloud Storage answered: {error}") from error
