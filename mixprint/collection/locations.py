"""Songs, wherever they lie: in the file system or in a bucket.

A URI of the catalogue is that of `mixprint.collection.catalogue.path_from_uri`, or
``gs://bucket/name`` with the name as it is. A song in a bucket is fetched for as long as it is
worked on.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mixprint.collection.building import Origin
from mixprint.collection.catalogue import path_from_uri
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import fingerprint
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import (
    FileInfo,
    GcsBucket,
    in_parallel,
    is_bucket,
    open_bucket,
    split_uri,
)
from mixprint.storage.scratch import Scratch

# Where a collection has stems, their lengths are read from the head of each file.
HEADED_SUFFIXES, HEAD_BYTES = (".wav", ".flac"), 16 << 10
TEXT_SUFFIXES = (".json", ".csv")
SOURCES_WITH_STEMS = ("musdbhq", "synthetic")

_SONGS = "songs"

Listing = list[list[str | int]]


@contextlib.contextmanager
def local_song(uri: str) -> Iterator[Path]:
    """Return a song as a local file; one from a bucket is fetched, and removed at the end.

    Raises:
        DataError: it is missing in the bucket, or there is no room for it.
    """
    if not is_bucket(uri):
        yield path_from_uri(uri)
        return
    with Scratch.from_environment().work_folder() as folder:
        path = fetched_song(uri, folder)
        if path is None:
            raise DataError(f"{uri}: expected a song, found none")
        yield path


def fetched_song(uri: str, folder: Path) -> Path | None:
    """Fetch a song out of a bucket, unless it was fetched before.

    Args:
        uri: ``gs://bucket/name``.
        folder: receives it.

    Returns:
        the file; None if there is none in the bucket.

    Raises:
        DataError: it cannot be read, or there is no room for it.
    """
    place, name = split_uri(uri)
    path = folder / f"{fingerprint(uri)[:16]}-{name}"
    bucket = open_bucket(place)
    if path.is_file():
        return path
    info = bucket.info(name)
    if info is None:
        return None
    Scratch.from_environment().make_room(info.num_bytes, uri)
    bucket.download(name, path)
    return path


def read_beside(uri: str, name: str) -> tuple[str, Any]:
    """Read a JSON file that lies beside a song.

    Args:
        uri: of the song.
        name: of the other file.

    Returns:
        where it lies, and its content.

    Raises:
        DataError: it is missing or no JSON.
    """
    if not is_bucket(uri):
        path = path_from_uri(uri).with_name(name)
        return str(path), read_json(path)
    place = split_uri(uri)[0]
    return f"{place}/{name}", open_bucket(place).read_json(name)


class Collection(Origin):
    """The files of a collection in the file system."""

    def __init__(self, locations: Sequence[str]) -> None:
        """Look at nothing yet."""
        self._locations = locations

    def listing(self) -> Listing:
        """List names, sizes and versions of all files: what changes them is an edit."""
        listing: Listing = []
        for location in self._locations:
            for path in sorted(Path(location).rglob("*")):
                try:
                    status = path.stat()
                except OSError:
                    continue  # a dangling link; the catalogue refuses it with its reason
                listing.append([str(path), status.st_size, status.st_mtime_ns])
        return listing

    def folders(self) -> list[Path]:
        """Return local folders for `mixprint.collection.building.build_catalogue`."""
        return [Path(location) for location in self._locations]


class BucketCollection(Collection):
    """The files of a collection in buckets, shadowed by local ones.

    A shadow has the name of its file, the size where only its head is there, and else nothing: that
    is enough to find out what songs there are. The song itself is fetched while it is inspected.
    """

    def __init__(self, locations: Sequence[str], folder: Path, *, with_heads: bool) -> None:
        """List the files.

        Args:
            locations: ``gs://bucket/folder`` each.
            folder: receives the shadows; part of `mixprint.storage.scratch`.
            with_heads: whether lengths of stems will be asked for.

        Raises:
            DataError: a location is empty or cannot be listed.
        """
        super().__init__([location.rstrip("/") for location in locations])
        self._folder = folder
        self._shadows: Path | None = None
        self._with_heads = with_heads
        self._scratch = Scratch.from_environment()
        self._infos: list[dict[str, FileInfo]] = []
        for location in self._locations:
            infos = open_bucket(location).infos()
            if not infos:
                raise DataError(f"{location}: expected a folder of songs, found none")
            self._infos.append(infos)

    def listing(self) -> Listing:
        """See `Collection.listing`."""
        return [
            [f"{location}/{name}", info.num_bytes, info.crc32c]
            for location, infos in zip(self._locations, self._infos, strict=True)
            for name, info in infos.items()
        ]

    def folders(self) -> list[Path]:
        """See `Collection.folders`: make the shadows."""
        num_bytes = sum(
            self._kept_bytes(name, info) for infos in self._infos for name, info in infos.items()
        )
        what = f"the tables and heads of the songs in {', '.join(self._locations)}"
        self._shadows = self._scratch.shadows(self._folder, num_bytes, what)
        folders = [self._shadows / str(number) for number in range(len(self._locations))]
        for folder, location, infos in zip(folders, self._locations, self._infos, strict=True):
            in_parallel(partial(self._shadow, open_bucket(location), folder), infos.items())
        return folders

    def _kept_bytes(self, name: str, info: FileInfo) -> int:
        """Say how much of a file is in its shadow, from the beginning on."""
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in TEXT_SUFFIXES:
            return info.num_bytes
        is_headed = self._with_heads and suffix in HEADED_SUFFIXES
        return min(HEAD_BYTES, info.num_bytes) if is_headed else 0

    def _shadow(self, bucket: GcsBucket, folder: Path, item: tuple[str, FileInfo]) -> None:
        name, info = item
        path, length = folder / name, self._kept_bytes(name, info)
        path.parent.mkdir(parents=True, exist_ok=True)
        if 0 < length == info.num_bytes:
            bucket.download(name, path)
            return
        with path.open("wb") as file:
            if length:
                file.write(bucket.read_range(name, 0, length, info.version))
                file.truncate(info.num_bytes)

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """See `Origin.opened`."""
        number, name = self._place(path)
        bucket = open_bucket(self._locations[number])
        fetched = self._folder / _SONGS / str(number) / name
        self._scratch.make_room(self._infos[number][name].num_bytes, bucket.uri(name))
        bucket.download(name, fetched)
        try:
            yield fetched
        finally:
            fetched.unlink()

    def uri(self, path: Path) -> str:
        """See `Origin.uri`."""
        number, name = self._place(path)
        return f"{self._locations[number]}/{name}"

    def told(self, text: str) -> str:
        """See `Origin.told`."""
        for number, location in enumerate(self._locations):
            for folder in (self._shadows, self._folder / _SONGS):
                text = text.replace(f"{folder}/{number}", location)
        return text

    def _place(self, path: Path) -> tuple[int, str]:
        assert self._shadows is not None
        number, _, name = path.relative_to(self._shadows).as_posix().partition("/")
        return int(number), name


@contextlib.contextmanager
def collection(locations: Sequence[str], source: str) -> Iterator[Collection]:
    """Open the files of a collection.

    Args:
        locations: its folders, all local or all in buckets.
        source: what layout they have.

    Raises:
        ConfigError: some are local and some are not.
        DataError: see `BucketCollection`.
    """
    if not any(map(is_bucket, locations)):
        yield Collection(locations)
        return
    if not all(map(is_bucket, locations)):
        raise ConfigError(f"locations: expected all of them in buckets, or none, got {locations}")
    with Scratch.from_environment().work_folder() as folder:
        yield BucketCollection(locations, folder, with_heads=source in SOURCES_WITH_STEMS)
