"""Memory of the index of a large collection, and of a reader that goes through its shards.

`python -m benchmarks.shard_memory --songs 2500` makes shards of the right number of rows whose
segments are a few samples short: footers and indexes, which are what stays in memory, have the size
of those of real stems. Each figure is the peak of a process of its own, less what it held before.
"""

import argparse
import json
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil
import torch

from benchmarks.own_process import run_in_own_process
from mixprint.collection.remote_shards import index_path
from mixprint.collection.shards import (
    SeparatorFingerprint,
    read_index,
    read_segment,
    shard_name,
    write_shard,
)
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ

Work = Literal["index", "a segment of each shard", "index without sidecars"]
SEGMENTS_PER_SONG = 24  # four minutes
SONGS_PER_SHARD = 40  # 10,000 songs in the 256 shards of the profile full
SEGMENT_SAMPLES = 8


@dataclass(frozen=True)
class Job:
    """A measurement."""

    folder: str
    work: Work


def write_set(folder: Path, num_songs: int) -> None:
    """Write the shards of a collection."""
    separator = SeparatorFingerprint("benchmark", "0" * 64, "0" * 64)
    stems_SCT = torch.zeros(NUM_STEMS, NUM_CHANNELS, SEGMENT_SAMPLES)
    num_shards = -(-num_songs // SONGS_PER_SHARD)
    for number in range(num_shards):
        with write_shard(
            folder / shard_name(number, num_shards),
            fingerprint="benchmark",
            sample_rate_hz=SAMPLE_RATE_HZ,
            separator=separator,
        ) as writer:
            for song in range(number, num_songs, num_shards):
                for segment in range(SEGMENTS_PER_SONG):
                    writer.write(f"{song:016x}", segment, 10.0 * segment, stems_SCT)


def measure(job: Job) -> dict[str, float]:
    """Do the work; give what it has added to the resident memory at its peak."""
    before_bytes = psutil.Process().memory_info().rss
    references = read_index(Path(job.folder))
    if job.work == "a segment of each shard":
        for reference in {reference.shard_path: reference for reference in references}.values():
            read_segment(reference)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"segments": len(references), "peak_mb": round((peak_bytes - before_bytes) / 1e6, 1)}


def main() -> None:
    """Make the shards, measure, and print a line of JSON for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=2_500)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        print(json.dumps(measure(Job(**args.job))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), args.songs)
        for work in get_args(Work):
            if work == "index without sidecars":
                for path in Path(folder).glob("*.done.json"):
                    index_path(path.with_name(path.name.removesuffix(".done.json"))).unlink()
            print(json.dumps(run_in_own_process("benchmarks.shard_memory", Job(folder, work), 1)))


if __name__ == "__main__":
    main()
