"""Time the separator, and measure its memory: `python -m benchmarks.separation`.

Two networks: `small`, the shape of the small published checkpoint with random weights, on windows
of 11 s; and `shipped`, the one in `mixprint/weights`, on windows of 8 s. The baseline beside them
is `benchmarks.plain_scnet`: the same weights in plain torch modules, float32, one window after
the other, the whole song in memory.

Each configuration runs in a process of its own, so that its peak of resident memory is its own.
Seconds are medians of several runs after a first one, which warms up and compiles. `sdr_db`
compares the stems of one window with those of the plain float32 network. Writes
`benchmarks/results/separation.json` and the same figures as Markdown tables beside it.
"""

import argparse
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.own_process import run_in_own_process
from benchmarks.plain_scnet import PlainSCNet, separate
from benchmarks.publish import publish
from mixprint.log import setup_logging
from mixprint.progress import progress
from mixprint.separation import SCNetConfig, Separator, build_scnet, load_separator
from mixprint.separation.metrics import utterance_sdr
from mixprint.separation.runner import AUTO_BATCH_SIZE
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.separator import DEFAULT_OVERLAP
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

log = logging.getLogger("mixprint.benchmarks")

SMALL_WINDOW_S = 11.0
# Nine windows of the small network: one more than the largest batch.
DURATION_S = 77.0
TINY_DURATION_S = 2.0
MODELS = ("small", "shipped", "tiny")
BATCH_SIZES = (1, 4, 8)
THREADS = (1, 2)
MINUTES = (1.0, 6.0)
HOUR_MINUTES = 60.0
BLOCK_S = 5.0
TINY = {"dims": (4, 8, 8), "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}
BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Job:
    """Measurements of one process.

    Attributes:
        model: `small`, `shipped`, or `tiny` for a trial of this script.
        duration_s: length of the audio.
        is_plain: the baseline instead of `Separator`.
        device: `cpu` or `cuda`.
        threads: of torch on the CPU.
        precision: see `Separator.precision`.
        is_compiled: see `Separator.compiled`.
        batch_size: windows per run of the network; 0 lets the GPU's memory decide.
        runs: how often it is timed; 0: once, without warming up, and nothing is compared.
    """

    model: str
    duration_s: float
    is_plain: bool = False
    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    is_compiled: bool = False
    batch_size: int = 1
    runs: int = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=int, default=3, help="runs whose medians are reported")
    parser.add_argument(
        "--hour", action="store_true", help="measure the memory over 60 minutes of audio too"
    )
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["small", "shipped"], help="tiny: a trial"
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
    speed, memory = speed_jobs(args.models, args.runs), memory_jobs(args.models, args.hour)
    jobs = speed + memory
    shown = progress(jobs, len(jobs), "measured", "configurations", log)
    records = [run_in_own_process("benchmarks.separation", job, job.threads) for job in shown]
    values = {
        "machine": about,
        "runs": args.runs,
        "overlap": DEFAULT_OVERLAP,
        "speed": with_speedups(records[: len(speed)]),
        "memory": records[len(speed) :],
    }
    publish(args.out, "separation", values, table(values))


def speed_jobs(models: Sequence[str], runs: int) -> list[Job]:
    """List what is timed."""
    jobs = []
    for model in models:
        duration_s = TINY_DURATION_S if model == "tiny" else DURATION_S
        for threads in THREADS:
            common: dict[str, Any] = {
                "model": model,
                "duration_s": duration_s,
                "threads": threads,
                "runs": runs,
            }
            jobs.append(Job(**common, is_plain=True))
            jobs += [
                Job(**common, precision=precision, batch_size=batch_size)
                for precision in ("float32", "bfloat16")
                for batch_size in BATCH_SIZES
            ]
            # On a CPU minutes of compiling gain next to nothing; one network shows it.
            if model != "small":
                jobs.append(Job(**common, is_compiled=True))
        if torch.cuda.is_available():
            jobs += [
                Job(
                    model=model,
                    duration_s=duration_s,
                    device="cuda",
                    precision=precision,
                    is_compiled=is_compiled,
                    batch_size=batch_size,
                    runs=runs,
                )
                for precision in ("float32", "bfloat16", "float16")
                for is_compiled in (False, True)
                for batch_size in (*BATCH_SIZES, AUTO_BATCH_SIZE)
            ]
    return jobs


def memory_jobs(models: Sequence[str], is_hour: bool) -> list[Job]:
    """List lengths of audio whose memory should be alike."""
    if "small" not in models:
        return []
    minutes = (*MINUTES, HOUR_MINUTES) if is_hour else MINUTES
    threads = len(os.sched_getaffinity(0))
    return [
        Job(model="small", duration_s=60 * length, threads=threads, runs=0) for length in minutes
    ]


def measure(job: Job) -> dict[str, Any]:
    """Time a job, in this process."""
    torch.set_num_threads(job.threads)
    separator = load(job)
    window_s = separator.window_s
    audio_CT = None if job.runs == 0 else torch.cat(list(noise(job.duration_s)), dim=1)
    assert isinstance(separator.network, TrainedSCNet)
    trained = separator.network.model
    model = PlainSCNet(trained) if job.is_plain else None

    def once() -> float:
        started_s = time.perf_counter()
        if audio_CT is None:
            for _ in separator.stream(noise(job.duration_s), batch_size=job.batch_size):
                pass
        elif model is not None:
            separate(model, audio_CT, round(window_s * SAMPLE_RATE_HZ), DEFAULT_OVERLAP)
        else:
            separator.separate(audio_CT, batch_size=job.batch_size)
        return time.perf_counter() - started_s

    first_s = once() if audio_CT is not None else None
    seconds = median(once() for _ in range(max(job.runs, 1)))
    values: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "first_seconds": None if first_s is None else round(first_s, 3),
        "real_time_factor": round(seconds / job.duration_s, 4),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if job.device == "cuda":
        values["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    if audio_CT is not None and not job.is_plain:
        window_CT = audio_CT[:, : round(window_s * SAMPLE_RATE_HZ)]
        stems_SCT = separator.separate(window_CT, batch_size=job.batch_size)
        plain = PlainSCNet(trained.cpu())
        expected_SCT = separate(plain, window_CT, window_CT.shape[1], 0.0)
        values["sdr_db"] = round(utterance_sdr(stems_SCT, expected_SCT).min().item(), 1)
        values["max_difference"] = (stems_SCT - expected_SCT).abs().max().item()
    return values


def load(job: Job) -> Separator:
    """Make the separator of a job."""
    torch.manual_seed(0)
    if job.model == "shipped":
        separator = load_separator()
    else:
        model = build_scnet(SCNetConfig(**(TINY if job.model == "tiny" else {})), "plain")
        window_s = 0.5 if job.model == "tiny" else SMALL_WINDOW_S
        separator = Separator(TrainedSCNet(model, window_s=window_s))
    separator.network.to(torch.device(job.device))
    separator.precision = job.precision
    separator.compiled = job.is_compiled
    return separator


def noise(duration_s: float) -> Iterator[Tensor]:
    """Return blocks of noise at -20 dB of full scale; speed does not depend on what is heard."""
    generator = torch.Generator().manual_seed(0)
    block, total = round(BLOCK_S * SAMPLE_RATE_HZ), round(duration_s * SAMPLE_RATE_HZ)
    for start in range(0, total, block):
        length = min(block, total - start)
        yield 0.1 * torch.randn(NUM_CHANNELS, length, generator=generator)


def with_speedups(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each record how many times as fast as the baseline of its network and threads."""
    plain = {(r["model"], r["threads"]): r["seconds"] for r in records if r["is_plain"]}
    return [
        {**r, "speedup": round(plain[r["model"], r["threads"]] / r["seconds"], 2)} for r in records
    ]


def table(values: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [
        f"Overlap {values['overlap']}; medians of {values['runs']} runs; {about}.",
        "",
        "| network | device, threads | precision | batch | real-time factor | times the baseline "
        "| first run, s | peak memory, MB | SDR to plain float32, dB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in values["speed"]:
        place = f"{row['device']}, {row['threads']}"
        batch = "auto" if row["batch_size"] == AUTO_BATCH_SIZE else row["batch_size"]
        precision = row["precision"] + (", compiled" if row["is_compiled"] else "")
        gpu = f" + {row['gpu_peak_bytes'] / BYTES_PER_MB:.0f}" if "gpu_peak_bytes" in row else ""
        lines.append(
            f"| {row['model']}{', baseline' if row['is_plain'] else ''} | {place} "
            f"| {precision} | {batch} | {row['real_time_factor']:.3f} "
            f"| {row['speedup']:.2f} | {row['first_seconds']:.1f} "
            f"| {row['peak_bytes'] / BYTES_PER_MB:.0f}{gpu} "
            f"| {row.get('sdr_db', '')} |"
        )
    if values["memory"]:
        lines += [
            "",
            "| network | audio, minutes | seconds | peak memory, MB |",
            "| --- | ---: | ---: | ---: |",
        ]
    lines += [
        f"| {row['model']} | {row['duration_s'] / 60:.1f} | {row['seconds']:.1f} "
        f"| {row['peak_bytes'] / BYTES_PER_MB:.0f} |"
        for row in values["memory"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
