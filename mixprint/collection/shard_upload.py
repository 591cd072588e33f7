"""Stem shards on their way into a bucket, by way of a folder that stands for it.

A shard is written in the folder as on any disk, put into the bucket write-once, and removed here.
Of several workers that bring the same shard one wins. Its marker goes last: a shard without one is
not finished, and the next worker that claims it writes it anew.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from mixprint.collection.remote_shards import INDEX_SUFFIX, bucket_of, index_path
from mixprint.collection.shards import DONE_SUFFIX, done_path, is_done, is_of_other_set
from mixprint.errors import DataError
from mixprint.storage.bucket import in_parallel
from mixprint.storage.claims import ClaimLostError

log = logging.getLogger("mixprint.shards")


def fetch_markers(folder: Path) -> None:
    """Fetch the markers and indexes of the shards in the bucket, so that they can be read."""
    bucket = bucket_of(folder)
    names = [name for name in bucket.list() if name.endswith((DONE_SUFFIX, INDEX_SUFFIX))]
    bucket.download_all([name for name in names if "/" not in name], folder)


def is_in_bucket(path: Path, fingerprint: str) -> bool:
    """Tell whether a shard is whole in the bucket, as `is_done` of `shards` does on a disk.

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


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """Versions of a shard and of its marker that will be replaced; 0 where there is none."""

    shard: int = 0
    marker: int = 0


def begin_shard(path: Path) -> Replaced:
    """Look at what a shard that will be written anew is going to replace."""
    bucket = bucket_of(path.parent)
    marker, shard = (bucket.info(name) for name in (done_path(path).name, path.name))
    return Replaced(
        shard=0 if shard is None else shard.version, marker=0 if marker is None else marker.version
    )


def take_back_marker(path: Path, replaced: Replaced) -> None:
    """Remove the marker of a shard that is going to be replaced, and no newer one."""
    if replaced.marker:
        bucket_of(path.parent).delete(done_path(path).name, version=replaced.marker)


def publish_shard(path: Path, replaced: Replaced) -> None:
    """Bring a finished shard into the bucket: itself, its index, its marker; then remove it here.

    An older marker is taken back just before: a shard must not carry that of another one.

    Args:
        path: of the shard in the folder that stands for the bucket; its marker lies beside it.
        replaced: what `begin_shard` returned.

    Raises:
        ClaimLostError: another worker was faster; what is here is dropped.
        DataError: it could not be written.
    """
    bucket, index = bucket_of(path.parent), index_path(path)
    try:
        take_back_marker(path, replaced)
        if not bucket.create(path, path.name, replaced=replaced.shard):
            done_path(path).unlink()
            index.unlink()
            raise ClaimLostError(
                f"{bucket.uri(path.name)}: another worker was faster; ours is dropped"
            )
        bucket.upload(index, index.name)
        bucket.upload(done_path(path), done_path(path).name)
    finally:
        path.unlink()


def remove_other_shards_in_bucket(folder: Path, num_shards: int) -> list[str]:
    """Remove the shards of sets of another size, as `shards.remove_other_shards`.

    Returns:
        where the shards that were removed lay.
    """
    bucket = bucket_of(folder)
    others = [name for name in bucket.list() if is_of_other_set(name, num_shards)]
    # The markers first: a shard without one is not finished.
    for suffix in (DONE_SUFFIX, INDEX_SUFFIX, ""):
        in_parallel(bucket.delete, [name + suffix for name in others])
    return [bucket.uri(name) for name in others]
