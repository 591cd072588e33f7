"""Stem shards on their way into a bucket, by way of a folder that stands for it.

A shard is written in the folder as on any disk, put into the bucket write-once, and removed here.
Of several workers that bring the same shard one wins. Its marker goes last: a shard without one is
not finished, and the next worker that claims it writes it anew.
"""

import logging
from pathlib import Path

import pyarrow.parquet as pq

from mixprint.atomic import atomic_path
from mixprint.claims import ClaimLostError
from mixprint.errors import DataError
from mixprint.shards import DONE_SUFFIX, SMALL_COLUMNS, done_path, is_done, is_of_other_set
from mixprint.stand_in import INDEX_SUFFIX, bucket_of, index_path
from mixprint.storage import in_parallel

log = logging.getLogger("mixprint.shards")


def fetch_markers(folder: Path) -> None:
    """Fetch the markers and indexes of the shards in the bucket, so that they can be read."""
    bucket = bucket_of(folder)
    names = [name for name in bucket.list() if name.endswith((DONE_SUFFIX, INDEX_SUFFIX))]
    bucket.download_all([name for name in names if "/" not in name], folder)


def is_in_bucket(path: Path, fingerprint: str) -> bool:
    """Tell whether a shard is whole in the bucket, as `mixprint.shards.is_done` does on a disk.

    Args:
        path: of the shard in the folder that stands for the bucket; receives its marker.
        fingerprint: of what it is made from.
    """
    bucket, marker = bucket_of(path.parent), done_path(path)
    info = bucket.info(path.name)
    if info is None or not bucket.exists(marker.name):
        return False
    try:
        bucket.download(marker.name, marker)
    except DataError:
        # It was there a moment ago: another worker writes the shard anew.
        return False
    return is_done(path, fingerprint, num_bytes=info.num_bytes)


def begin_shard(path: Path) -> int:
    """Take back the marker of a shard that will be written anew.

    Returns:
        version of the shard that will be replaced, for `publish_shard`; 0 if there is none.
    """
    bucket = bucket_of(path.parent)
    bucket.delete(done_path(path).name)
    info = bucket.info(path.name)
    return 0 if info is None else info.version


def publish_shard(path: Path, replaced: int) -> None:
    """Bring a finished shard into the bucket: itself, its index, its marker; then remove it here.

    Args:
        path: of the shard in the folder that stands for the bucket; its marker lies beside it.
        replaced: what `begin_shard` returned.

    Raises:
        ClaimLostError: another worker was faster; what is here is dropped.
        DataError: it could not be written.
    """
    bucket, index = bucket_of(path.parent), index_path(path)
    try:
        if not bucket.create(path, path.name, replaced=replaced):
            done_path(path).unlink()
            raise ClaimLostError(
                f"{bucket.uri(path.name)}: another worker was faster; ours is dropped"
            )
        with atomic_path(index) as temporary:
            pq.write_table(pq.ParquetFile(path).read(columns=SMALL_COLUMNS), temporary)
        bucket.upload(index, index.name)
        bucket.upload(done_path(path), done_path(path).name)
    finally:
        path.unlink()


def remove_other_shards_in_bucket(folder: Path, num_shards: int) -> list[str]:
    """Remove the shards of sets of another size, as `mixprint.shards.remove_other_shards`.

    Returns:
        where the shards that were removed lay.
    """
    bucket = bucket_of(folder)
    others = [name for name in bucket.list() if is_of_other_set(name, num_shards)]
    # The markers first: a shard without one is not finished.
    for suffix in (DONE_SUFFIX, INDEX_SUFFIX, ""):
        in_parallel(bucket.delete, [name + suffix for name in others])
    return [bucket.uri(name) for name in others]
