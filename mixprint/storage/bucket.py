"""Files in a bucket of Google Cloud Storage.

    bucket = open_bucket("gs://bucket/runs/7")
    bucket.upload(Path("catalogue.parquet"), "catalogue/catalogue.parquet")

Names are relative, with ``/`` between their parts. Writes are whole or not at all on both sides.

What a bucket does now and then (429, 5xx, connections that break) is tried again with growing
waits, for `PATIENCE_S` in all. Whole files are compared with their CRC32C in both directions.
"""

import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from mixprint.errors import DataError
from mixprint.schema import parse_json
from mixprint.storage.atomic import atomic_path

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

GCS_SCHEME = "gs://"
# How long a call is tried again, and the wait before the second attempt; each next one is doubled.
PATIENCE_S, FIRST_WAIT_S = 600.0, 1.0
# A file whose bytes do not fit their checksum is fetched again so often.
CORRUPT_ATTEMPTS = 3
# Transfers at a time; the client's own pool holds ten connections.
NUM_TRANSFERS = 8
# An upload that breaks goes on after the last whole part; each is held in memory.
UPLOAD_PART_BYTES = 32 << 20
# Names the file with the key of a service account.
KEY_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_WRITER = "mixprint-writer"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FileInfo:
    """Facts that a bucket knows of a file without reading it.

    Attributes:
        num_bytes: its size.
        version: another one whenever the file is written anew; 0 is that of no file.
        changed_s: when it was written, in seconds by the bucket's own clock.
        crc32c: checksum of its content, in base 64.
    """

    num_bytes: int
    version: int
    changed_s: float
    crc32c: str


class GcsBucket:
    """Objects under a prefix of a bucket.

    Credentials are found as Google's client finds them (a service account on a cluster, `gcloud
    auth application-default login` elsewhere); `STORAGE_EMULATOR_HOST` points it to an emulator.
    """

    def __init__(
        self,
        root: str,
        client: "Client | None" = None,
        *,
        patience_s: float = PATIENCE_S,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        """Open a bucket; nothing is asked of the server yet.

        Args:
            root: ``gs://bucket`` or ``gs://bucket/prefix``.
            client: for tests and for credentials of one's own; None makes the default one.
            patience_s: how long a call that fails in passing is tried again.
            first_wait_s: before the second attempt; the waits double, with a random part.

        Raises:
            DataError: root names no bucket, or there are no credentials.
        """
        bucket, _, prefix = root.removeprefix(GCS_SCHEME).partition("/")
        if not root.startswith(GCS_SCHEME) or not bucket:
            raise DataError(f"{root}: expected gs://bucket/prefix")
        from google.cloud.storage.retry import DEFAULT_RETRY

        self._root = f"{GCS_SCHEME}{bucket}"
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        # Connections must not be shared with a process that was forked.
        host = os.environ.get("STORAGE_EMULATOR_HOST", "")
        self._client = _default_client(os.getpid(), host) if client is None else client
        self._bucket = self._client.bucket(bucket)
        self._retry = DEFAULT_RETRY.with_timeout(patience_s).with_delay(initial=first_wait_s)

    def uri(self, name: str) -> str:
        """Say where a file lies, for messages and manifests."""
        return f"{self._root}/{self._prefix}{_checked(name)}"

    def info(self, name: str) -> FileInfo | None:
        """Look at a file, whose version is the object's generation; None if it is not there."""
        from google.api_core.exceptions import NotFound

        blob = self._blob(name)
        with _cloud_errors(self.uri(name)):
            try:
                blob.reload(retry=self._retry)
            except NotFound:
                return None
        return _info(blob)

    def infos(self, prefix: str = "") -> dict[str, FileInfo]:
        """Look at the files whose names begin with a prefix, in folders too, in their order."""
        with _cloud_errors(f"{self._root}/{self._prefix}{prefix}"):
            blobs = self._client.list_blobs(
                self._bucket, prefix=self._prefix + prefix, retry=self._retry
            )
            found = {blob.name.removeprefix(self._prefix): _info(blob) for blob in blobs}
        # Names that end with a slash are placeholders that consoles create for folders.
        return {name: found[name] for name in sorted(found) if not name.endswith("/")}

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading at any place; no more is read than what is asked for.

        What is read is always of the version that was opened.

        Raises:
            DataError: it is missing or cannot be read.
        """
        info = self.info(name)
        if info is None:
            raise DataError(f"{self.uri(name)}: expected an object, found none")
        return open_ranges(
            info.num_bytes, lambda start, length: self.read_range(name, start, length, info.version)
        )

    def read_range(self, name: str, start: int, length: int, version: int) -> bytes:
        """Read a part of a version of an object.

        Args:
            name: of the object.
            start: first byte.
            length: number of bytes, at least 1; all of them are there.
            version: its generation.

        Raises:
            DataError: this version is gone, or cannot be read.
        """
        uri = self.uri(name)
        with _cloud_errors(uri):
            # The checksum that the server knows is that of the whole object.
            content = bytes(
                self._blob(name).download_as_bytes(
                    start=start,
                    end=start + length - 1,
                    if_generation_match=version,
                    checksum=None,
                    retry=self._retry,
                )
            )
        if len(content) != length:
            raise DataError(f"{uri}: expected {length} bytes from {start} on, got {len(content)}")
        return content

    def read_bytes(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DataError: it is missing or cannot be read.
        """
        with _cloud_errors(self.uri(name)):
            return self._uncorrupted(
                lambda: bytes(self._blob(name).download_as_bytes(retry=self._retry))
            )

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            DataError: it cannot be written.
        """
        with _cloud_errors(self.uri(name)):
            self._send(self._blob(name), content)

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path, however large; the client compares the checksum.

        Raises:
            DataError: it is missing or cannot be read.
        """
        with _cloud_errors(self.uri(name)), atomic_path(path) as temporary:
            self._uncorrupted(
                lambda: self._blob(name).download_to_filename(str(temporary), retry=self._retry)
            )

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file into the bucket, however large; an upload that breaks goes on.

        The server compares the checksum.

        Raises:
            DataError: it is missing or cannot be written.
        """
        with _cloud_errors(f"{path} -> {self.uri(name)}"):
            self._send(self._blob(name), path)

    def create(self, source: Path | bytes, name: str, *, replaced: int = 0) -> bool:
        """Write a file unless another writer was faster; the bucket decides between the two.

        Args:
            source: a local file that is copied into the bucket, or what is written.
            name: what it becomes; the file is seen there only when it is whole.
            replaced: version that it replaces; 0: there is no such file.

        Returns:
            whether it was written; False if another version is there.

        Raises:
            DataError: it is missing or cannot be written.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with _cloud_errors(self.uri(name)):
            blob = self._blob(name)
            token = uuid.uuid4().hex
            blob.metadata = {_WRITER: token}
            try:
                self._send(blob, source, replaced)
            except PreconditionFailed:
                # Maybe an attempt of our own has won, and only its answer was lost.
                there = self._blob(name)
                try:
                    there.reload(retry=self._retry)
                except NotFound:
                    return False
                return (there.metadata or {}).get(_WRITER) == token
        return True

    def delete(self, name: str, *, version: int | None = None) -> bool:
        """Remove a file.

        Args:
            name: of the file.
            version: remove it only if it is this one.

        Returns:
            whether it was removed; False if it was not there, or another version is.

        Raises:
            DataError: it cannot be removed.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with _cloud_errors(self.uri(name)):
            try:
                self._blob(name).delete(if_generation_match=version, retry=self._retry)
            except (NotFound, PreconditionFailed):
                return False
        return True

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            DataError: it is missing, cannot be read or is no JSON.
        """
        return parse_json(self.read_bytes(name), self.uri(name))

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        return self.info(name) is not None

    def list(self, prefix: str = "") -> list[str]:
        """List the names that begin with a prefix, sorted, folders within folders included."""
        return list(self.infos(prefix))

    def download_all(self, names: Iterable[str], folder: Path) -> None:
        """Copy files into a folder under their own names, several at a time.

        Raises:
            DataError: see `download`; of several, the first.
        """
        in_parallel(lambda name: self.download(name, folder / name), names)

    def upload_all(self, files: Mapping[str, Path]) -> None:
        """Copy local files into the bucket, several at a time.

        Args:
            files: name -> local file.

        Raises:
            DataError: see `upload`; of several, the first.
        """
        in_parallel(lambda name: self.upload(files[name], name), files)

    def _send(self, blob: "Blob", source: Path | bytes, replaced: int | None = None) -> None:
        blob.chunk_size = UPLOAD_PART_BYTES
        opened = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        with opened as file:
            blob.upload_from_file(
                file,
                size=file.seek(0, io.SEEK_END),
                rewind=True,
                content_type="application/octet-stream",
                checksum="crc32c",
                if_generation_match=replaced,
                retry=self._retry,
            )

    def _uncorrupted(self, fetch: Callable[[], Result]) -> Result:
        """Fetch again what does not fit its checksum: networks flip bits."""
        from google.cloud.storage.exceptions import DataCorruption

        for _ in range(CORRUPT_ATTEMPTS - 1):
            try:
                return fetch()
            except DataCorruption:
                continue
        return fetch()

    def _blob(self, name: str) -> "Blob":
        return self._bucket.blob(self._prefix + _checked(name))


class _Ranges(io.RawIOBase):
    """A file that is read by ranges from somewhere else."""

    def __init__(self, num_bytes: int, fetch: Callable[[int, int], bytes]) -> None:
        self._num_bytes, self._fetch = num_bytes, fetch
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        length = min(len(buffer), self._num_bytes - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._fetch(self._position, length)
        self._position += length
        return length


def open_ranges(num_bytes: int, fetch: Callable[[int, int], bytes]) -> BinaryIO:
    """Make a file of a function that reads parts of it.

    Args:
        num_bytes: size of the file.
        fetch: gives the bytes from a place (first argument) on, so many (second argument).
    """
    return cast("BinaryIO", _Ranges(num_bytes, fetch))


def open_bucket(root: str) -> GcsBucket:
    """Open a bucket; all of a process share one client.

    Raises:
        DataError: see `GcsBucket`.
    """
    return GcsBucket(root)


def is_bucket(uri: str) -> bool:
    """Tell whether something lies in a bucket."""
    return uri.startswith(GCS_SCHEME)


def split_uri(uri: str) -> tuple[str, str]:
    """Split the place of a file into that of its folder and its name."""
    folder, _, name = uri.rpartition("/")
    return folder or ".", name


def copy_from(uri: str, path: Path | str) -> None:
    """Copy a file to a local path, wherever it lies.

    Raises:
        DataError: it is missing or cannot be read.
    """
    if is_bucket(uri):
        folder, name = split_uri(uri)
        open_bucket(folder).download(name, Path(path))
        return
    try:
        with atomic_path(Path(path)) as temporary:
            shutil.copyfile(uri, temporary)
    except OSError as error:
        raise DataError(f"{uri} -> {path}: cannot be copied: {error}") from error


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do something with each item, so many at a time as a bucket's client has connections for.

    Raises:
        whatever `work` raises, of the first item that failed; what has not begun is left undone.
    """
    with ThreadPoolExecutor(NUM_TRANSFERS, thread_name_prefix="storage") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _info(blob: "Blob") -> FileInfo:
    return FileInfo(
        int(blob.size), int(blob.generation), blob.updated.timestamp(), blob.crc32c or ""
    )


def _checked(name: str) -> str:
    """Refuse names that lead out of the root, or that folders read differently."""
    parts = name.split("/")
    if PurePosixPath(name).is_absolute() or not all(parts) or {".", ".."} & set(parts):
        raise DataError(f"{name!r}: expected a relative name without empty parts, . and ..")
    return name


@lru_cache(maxsize=4)
def _default_client(_pid: int, _host: str) -> "Client":
    """Make the client; its packages take a second to import, so only who needs it pays."""
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage import Client

    try:
        return Client()
    except (GoogleAuthError, OSError) as error:
        raise DataError(
            f"{GCS_SCHEME}: expected credentials for Google Cloud Storage, found none: {error}"
        ) from error


@contextmanager
def _cloud_errors(what: str) -> Iterator[None]:
    """Turn the client's errors into one that names the object."""
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption
    from requests.exceptions import RequestException

    try:
        yield
    except NotFound as error:
        raise DataError(f"{what}: expected an object, found none (404)") from error
    except (Unauthorized, GoogleAuthError) as error:
        raise DataError(
            f"{what}: expected valid credentials for Google Cloud Storage, they are refused or "
            f"have expired: {error}; renew them ({KEY_VARIABLE}, or `gcloud auth "
            "application-default login`)"
        ) from error
    except Forbidden as error:
        raise DataError(
            f"{what}: expected permission for this object, the account has none (403): {error}"
        ) from error
    except DataCorruption as error:
        raise DataError(
            f"{what}: expected bytes that fit their CRC32C, found others in "
            f"{CORRUPT_ATTEMPTS} attempts: {error}"
        ) from error
    except (GoogleAPIError, RequestException, OSError) as error:
        raise DataError(f"{what}: Google Cloud Storage answered: {error}") from error
