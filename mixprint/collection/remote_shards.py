"""A local folder that stands for a folder of stem shards in a bucket.

Whoever is given the folder reads the shards as if they were there: of each segment only the
columns that are asked for are fetched, and kept in the cache of `mixprint.storage.scratch`. What
lies in the folder is small, and tells any process where the rest is:

<folder>/bucket.json                  where the shards lie
<folder>/<shard>.done.json            copies of the markers: these shards are finished
<folder>/<shard>.index.parquet        copies of the indexes: all columns but the stems

`mixprint.collection.shard_upload` fills it, and brings new shards into the bucket.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from mixprint.errors import DataError
from mixprint.schema import read_record
from mixprint.storage.atomic import write_json
from mixprint.storage.bucket import GcsBucket, open_bucket, open_ranges
from mixprint.storage.scratch import Scratch

BUCKET_FILE = "bucket.json"
INDEX_SUFFIX = ".index.parquet"


@dataclass(frozen=True)
class ShardInBucket:
    """A version of a shard.

    Attributes:
        folder_uri: the folder in the bucket.
        name: of the shard.
        num_bytes: its size.
        version: its generation.
    """

    folder_uri: str
    name: str
    num_bytes: int
    version: int

    def open(self) -> BinaryIO:
        """Open it for reading at any place, through the cache."""
        scratch = Scratch.from_environment()

        def fetch(start: int, length: int) -> bytes:
            return scratch.piece(
                f"{self.folder_uri}/{self.name}#{self.version}:{start}+{length}",
                length,
                lambda: open_bucket(self.folder_uri).read_range(
                    self.name, start, length, self.version
                ),
            )

        return open_ranges(self.num_bytes, fetch)


def point_to_bucket(folder: Path, uri: str) -> None:
    """Write into a folder which one of a bucket it stands for."""
    write_json(folder / BUCKET_FILE, {"uri": uri})


def stands_for_bucket(folder: Path) -> bool:
    """Tell whether a folder stands for one in a bucket."""
    return (folder / BUCKET_FILE).is_file()


def bucket_of(folder: Path) -> GcsBucket:
    """Return the bucket that a folder stands for.

    Raises:
        DataError: it stands for none.
    """
    return open_bucket(_uri(folder))


def shard_in_bucket(path: Path) -> ShardInBucket | None:
    """Find the shard that a path in such a folder means; None if the path means itself.

    Raises:
        DataError: the bucket has no such shard.
    """
    if path.is_file() or not stands_for_bucket(path.parent):
        return None
    return _found(path)


def index_path(path: Path) -> Path:
    """Return the name of a shard's index."""
    return path.with_name(path.name + INDEX_SUFFIX)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Content of `BUCKET_FILE`."""

    uri: str


@lru_cache(maxsize=64)
def _uri(folder: Path) -> str:
    return read_record(folder / BUCKET_FILE, _Place).uri


# A folder serves one step, during which nobody writes a finished shard anew.
@lru_cache(maxsize=1024)
def _found(path: Path) -> ShardInBucket:
    storage = bucket_of(path.parent)
    info = storage.info(path.name)
    if info is None:
        raise DataError(f"{storage.uri(path.name)}: expected a stem shard, found none")
    return ShardInBucket(_uri(path.parent), path.name, info.num_bytes, info.version)
