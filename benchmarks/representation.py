"""Time the representation: `python -m benchmarks.representation`.

The training of the encoder as it is, under `torchrun`, and the parts of its step one by one, with
segments of 10 s of four stereo stems and the sizes of a profile of `params.yaml`:

- reading from local shards, with features from the table or measured;
- augmentation, mixing features, and the encoder, on noise: their speed does not depend on what is
  heard;
- the sub-bands of the encoder, all at once and one after the other as in
  `benchmarks.looped_bands`; the two take turns in one process, so that both meet the same machine.

A step of the training takes for each pair two readings, one augmentation, one measurement of
features (the others are in the table), and three passes through the encoder. What is read is made
for it in a temporary folder, of the songs of `mixprint.synthesis` (`benchmarks.segment_set`). It
lies in the system's memory then, as that of a small collection does after an epoch; mixprint's own
memory of segments (`cache_gib`) is off.

Each configuration runs in a process of its own, so that its peak of resident memory is its own;
freed memory is kept, as in training. Of a training that is the sum over its ranks; processes that
read are left out. Seconds are medians of several runs, or epochs of a training, after such that
warm up. Writes `benchmarks/results/representation.json` and the same figures as a Markdown table
beside it.

All takes a quarter of an hour on two cores, and more where there is a GPU; `--works` chooses parts.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.own_process import run_in_own_process
from benchmarks.publish import publish
from benchmarks.representation_work import (
    PARTS,
    READING,
    SEGMENT_S,
    TRAINING,
    WORKS,
    Job,
    measure,
)
from mixprint.encoder.data import batch_bytes
from mixprint.log import setup_logging
from mixprint.machine.processes import threads_each
from mixprint.progress import progress
from mixprint.storage.atomic import read_json
from mixprint.training.loading import BATCHES_AHEAD

log = logging.getLogger("mixprint.benchmarks")

NAME = "representation"
QUICK_SEGMENT_S = 3.0
PROFILES = ("tiny", "full")
# What does not depend on the sizes of the encoder.
WITHOUT_PROFILE = ("augmentation", "features", "features, gradient")
THREADS = (1, 2)
CPU_BATCH_SIZES = {"tiny": 8, "full": 4}
GPU_BATCH_SIZES = (24, 96, 384)
# Processes and threads of a training.
RANKS = ((1, 1), (1, 2), (2, 1))
LOADER_PAIRS, LOADER_BATCH_SIZE = 32, 4
# Whole rounds of them read an epoch: without, epochs would take unequally long.
LOADER_WORKERS = (0, 1, 2, 4, 8)
GPU_WORKERS = 4  # as in the profile `full`
QUICK_PAIRS = 4  # the smallest batch of a training
NUM_SONGS, NUM_QUICK_SONGS = 2, 1
BYTES_PER_MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are reported")
    parser.add_argument("--quick", action="store_true", help="one small batch of 3 s, as a trial")
    parser.add_argument(
        "--works",
        nargs="+",
        choices=WORKS,
        default=WORKS,
        metavar="WORK",
        help="what is timed; figures of the others that the same machine has written before are "
        f"kept. One or more of: {'; '.join(WORKS)}",
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        json.dump(measure(Job(**json.loads(args.job))), sys.stdout)
        return
    # Imported here, for the measured processes should hold nothing of it.
    from benchmarks.pipeline import machine

    setup_logging()
    about = machine()
    runs = 1 if args.quick else args.runs
    todo = [job for job in jobs(runs, args.quick) if job.work in args.works]
    kept = [row for row in rows_of(args.out, about, runs) if row["work"] not in args.works]
    with tempfile.TemporaryDirectory() as data:
        if reading := [job for job in todo if job.work in READING]:
            write_data(Path(data), reading, NUM_QUICK_SONGS if args.quick else NUM_SONGS)
        shown = progress(todo, len(todo), "measured", "configurations", log)
        measured = [run(replace(job, data=data)) for job in shown]
    rows = sorted(kept + measured, key=lambda row: WORKS.index(row["work"]))
    values = {"machine": about, "runs": runs, "speed": rows}
    publish(args.out, NAME, values, table(values))


def write_data(folder: Path, reading: Sequence[Job], num_songs: int) -> None:
    """Write what the jobs read."""
    # Imported here, for the measured processes should hold nothing of it.
    from benchmarks.segment_set import write_apart

    log.info("making the songs that are read")
    write_apart(
        folder,
        num_train=max(job.num_pairs for job in reading),
        num_songs=num_songs,
        segment_s=reading[0].segment_s,
    )


def run(job: Job) -> dict[str, Any]:
    """Measure in a process of its own; give the job and the figures."""
    row = run_in_own_process("benchmarks.representation", job, job.threads)
    del row["data"]  # a folder that is gone, by a name that means nothing
    return row


def rows_of(out_dir: Path, about: dict[str, Any], runs: int) -> list[dict[str, Any]]:
    """Return the figures that were written before, if they are of the same machine and versions."""
    path = out_dir / f"{NAME}.json"
    before = read_json(path) if path.exists() else {"machine": {}, "runs": 0}
    same_load = {"load_before": about["load_before"]}
    if before["machine"] | same_load != about or before["runs"] != runs:
        return []
    rows: list[dict[str, Any]] = before["speed"]
    return rows


def jobs(runs: int, is_quick: bool) -> list[Job]:
    """List what is timed."""
    if is_quick:
        common: dict[str, Any] = {"segment_s": QUICK_SEGMENT_S, "runs": runs, "profile": "tiny"}
        return [Job(work=work, batch_size=1, **common) for work in PARTS if work not in READING] + [
            Job(work=work, batch_size=QUICK_PAIRS, num_pairs=QUICK_PAIRS, **common)
            for work in READING
        ]
    found = loader_jobs(runs) + cpu_jobs(runs)
    return found + gpu_jobs(runs) if torch.cuda.is_available() else found


def loader_jobs(runs: int) -> list[Job]:
    """List the ways of reading: in one process on one core or two, or by others."""
    cores = len(os.sched_getaffinity(0))
    return [
        Job(
            work=work,
            profile=PROFILES[0],
            threads=threads,
            workers=workers,
            batch_size=LOADER_BATCH_SIZE,
            num_pairs=LOADER_PAIRS,
            runs=runs,
        )
        for work in READING
        if work != TRAINING
        for threads, workers in [(2, 0), *((1, workers) for workers in LOADER_WORKERS)]
        if max(threads, workers) <= cores
    ]


def cpu_jobs(runs: int) -> list[Job]:
    """List what is timed on the CPU; an epoch of a training is one step."""
    found = []
    for profile in PROFILES:
        common: dict[str, Any] = {
            "profile": profile,
            "batch_size": CPU_BATCH_SIZES[profile],
            "runs": runs,
        }
        found += [
            Job(work=work, threads=threads, **common)
            for threads in THREADS
            for work in PARTS
            if work not in READING and (profile == PROFILES[0] or work not in WITHOUT_PROFILE)
        ]
        found += [
            Job(
                work=TRAINING,
                processes=processes,
                threads=threads,
                num_pairs=CPU_BATCH_SIZES[profile],
                **common,
            )
            for processes, threads in RANKS
        ]
    return found


def gpu_jobs(runs: int) -> list[Job]:
    """List what is timed on a GPU, and a training on two where there are two."""
    common: dict[str, Any] = {"profile": "full", "device": "cuda", "runs": runs}
    both = ("float32", "bfloat16")
    found = [
        Job(
            work=work,
            precision=precision,
            is_compiled=is_compiled,
            batch_size=batch_size,
            **common,
        )
        for work, precisions, compiled in (
            ("augmentation", ("float32",), (False,)),
            ("features", ("float32",), (False,)),
            ("bands", both, (False,)),
            ("encoder", both, (False, True)),
        )
        for precision in precisions
        for is_compiled in compiled
        for batch_size in GPU_BATCH_SIZES
    ]
    found += [
        Job(
            work=TRAINING,
            precision=precision,
            is_compiled=is_compiled,
            batch_size=batch_size,
            num_pairs=max(GPU_BATCH_SIZES),
            processes=processes,
            workers=gpu_workers(batch_size, processes),
            threads=threads_each(processes),
            **common,
        )
        for processes in (1, 2)
        if processes <= torch.cuda.device_count()
        for precision in both
        for is_compiled in (False, True)
        for batch_size in GPU_BATCH_SIZES
    ]
    return found


def gpu_workers(batch_size: int, processes: int) -> int:
    """Say how many processes can read ahead of a rank, in cores and in shared memory."""
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    room_bytes = min(shared, psutil.virtual_memory().available) / 2
    ahead_bytes = BATCHES_AHEAD * batch_bytes(batch_size, SEGMENT_S)
    cores = len(os.sched_getaffinity(0))
    return min(GPU_WORKERS, cores // processes, int(room_bytes // ahead_bytes))


def table(values: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [
        f"Medians of {values['runs']} runs; {about}. Batches of what reads ({', '.join(READING)}) "
        "are pairs of segments; the encoder of a training hears three segments for each pair.",
        "",
        "| work | profile | device | processes, readers of each, threads | precision | batch "
        "| ms per segment | segments per second | times the loop | GPU busy, % "
        "| peak memory, MB |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [line(row) for row in values["speed"]]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """Write one row."""
    cells: list[object] = [
        row["work"],
        row["profile"],
        row["device"],
        f"{row['processes']}, {row['workers']}, {row['threads']}",
        row["precision"] + (", compiled" if row["is_compiled"] else ""),
        row["batch_size"],
    ]
    if "is_too_large" in row:
        cells += ["", "out of memory", "", "", ""]
    else:
        gain = f"{row['looped_seconds'] / row['seconds']:.2f}" if "looped_seconds" in row else ""
        gpu = f" + {row['gpu_peak_bytes'] / BYTES_PER_MB:.0f}" if "gpu_peak_bytes" in row else ""
        cells += [
            f"{1e3 * row['seconds']:.1f}",
            f"{1 / row['seconds']:.1f}",
            gain,
            f"{row['gpu_busy_percent']:.0f}" if "gpu_busy_percent" in row else "",
            f"{row['peak_bytes'] / BYTES_PER_MB:.0f}{gpu}",
        ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
