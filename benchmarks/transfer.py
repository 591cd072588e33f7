"""Time the transfer: `python -m benchmarks.transfer`.

Two tables:

- `steps`: one step of each optimisation on a segment of 10 s, and a TCN of 13 blocks alone, beside
  `PlainTCN`, the same stack of dilated `Conv1d`; the two take turns in one process;
- `pairs`: the whole command on two songs, separation included.

How near the methods come to the truth is measured by `benchmarks.console`, on the same songs: those
of the test split of `mixprint.synthesis.style_benchmark`, whose styles and instruments nothing
shipped has met.

Each configuration runs in a process of its own, so that its peak of resident memory is its own.
Seconds are medians of several runs after one that warms up; the command runs as it is.
Writes `benchmarks/results/transfer.json` and the same figures as Markdown tables beside it.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.own_process import run_in_own_process
from benchmarks.publish import publish
from mixprint.audio.levels import loudness_lufs
from mixprint.audio.streamed_levels import stream_levels
from mixprint.dsp.decibels import amplitude
from mixprint.encoder.checkpoint import Encoder, load_checkpoint
from mixprint.evaluation.transfer_benchmark import Method, draw_cases
from mixprint.log import setup_logging
from mixprint.machine.memory import keep_freed_memory
from mixprint.progress import progress
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ
from mixprint.synthesis.style_benchmark import SplitSize, StyleBenchmark, generate_benchmark
from mixprint.transfer.fit import fit_style
from mixprint.transfer.methods.registry import (
    METHODS,
    load_models_of,
    model_fingerprints,
    shipped_methods,
)
from mixprint.transfer.methods.result import TransferResult
from mixprint.transfer.methods.tcn import KERNEL_SIZE, NUM_STEM_CHANNELS, TCN
from mixprint.transfer.settings import Controls, Hyperparameters, Loudness
from mixprint.transfer.style import Style
from mixprint.weights import SHIPPED_ENCODER

log = logging.getLogger("mixprint.benchmarks")

START_S, SEGMENT_S = 4.0, 10.0
THREADS = (1, 2)
TCN_DILATIONS = tuple(2**n for n in range(13))
TCN_STEP = "TCN of 13 blocks"
LOUDNESS: Loudness = "style"
BYTES_PER_MB = 1e6
# Twice as many songs and styles as where representations are proved: four cases a song make 96.
TEST_SONGS = SplitSize(num_songs=24, num_styles=12, styles_per_song=6)


# With the defaults of the command, but for the number of steps.
PLAIN = Hyperparameters(
    optimize_target="features",
    method="console",
    num_steps=0,
    lr=0.001,
    receptive_field=2.0,
    segment_duration=SEGMENT_S,
    segment_offset=START_S,
    seed=1,
)
WAYS: Mapping[str, Hyperparameters] = {
    **{method: replace(PLAIN, method=method) for method in METHODS},
    "console, embeddings": replace(PLAIN, optimize_target="embeddings"),
    "console, aim target": replace(PLAIN, aim="target"),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Timings of one process.

    Attributes:
        work: a key of `WAYS`, or `TCN_STEP`.
        device: `cpu` or `cuda`.
        threads: of torch on the CPU.
        runs: how often.
    """

    work: str
    device: str = "cpu"
    threads: int = 1
    runs: int = 5


class PlainTCN(nn.Module):
    """The stack of `mixprint.transfer.methods.tcn.TCN` in plain modules."""

    def __init__(self, dilations: Sequence[int]) -> None:
        super().__init__()
        C = NUM_STEM_CHANNELS
        self.convs = nn.ModuleList(
            nn.Conv1d(
                C,
                C,
                KERNEL_SIZE,
                dilation=d,
                padding=KERNEL_SIZE // 2 * d,
                groups=NUM_STEMS,
                bias=False,
            )
            for d in dilations
        )
        self.mixes = nn.ModuleList(
            nn.Conv1d(C, C, 1, groups=NUM_STEMS, bias=False) for _ in dilations
        )

    def forward(self, stems_BCT: Tensor) -> Tensor:
        """Add what each block changes."""
        for conv, mix in zip(self.convs, self.mixes, strict=True):
            stems_BCT = stems_BCT + mix(torch.tanh(conv(stems_BCT)))
        return stems_BCT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--songs", type=Path, default=Path("results/transfer-benchmark"))
    shipped = shipped_methods()
    ways = [name for name, way in WAYS.items() if way.method in shipped]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=ways)
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are reported")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        json.dump(measure(Job(**json.loads(args.job))), sys.stdout)
        return
    # Imported here, for the measured processes should hold nothing of it.
    from benchmarks.pipeline import machine

    setup_logging()
    about = machine()
    if "pairs" in args.tables:
        write_songs(args.songs)
    values = {
        "machine": about,
        "runs": args.runs,
        **{name: TABLES[name](args) for name in args.tables},
    }
    publish(args.out, "transfer", values, table(values))


def write_songs(folder: Path) -> None:
    """Make the test songs with their dry stems; what is there already stays."""
    none = SplitSize(num_songs=0, num_styles=1, styles_per_song=1)
    songs = replace(StyleBenchmark(), train=none, valid=none, test=TEST_SONGS, has_dry=True)
    generate_benchmark(folder, songs, num_workers=2)


def as_method(way: Hyperparameters, encoder: Encoder, num_steps: int) -> Method:
    """Make a method of the benchmark: what the command writes, from stems that are given."""

    def transfer(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
        output_SCT = fit(way, encoder, input_SCT, target_SCT, num_steps).stems_SCT
        source, processed = (stream_levels([x_SCT.sum(0)]) for x_SCT in (input_SCT, output_SCT))
        target_lufs = loudness_lufs(target_SCT.sum(0), SAMPLE_RATE_HZ)
        gains_db = Controls(loudness=LOUDNESS).gains_db(source, processed, target_lufs)
        return output_SCT * amplitude(sum(gains_db))

    return transfer


def fit(
    way: Hyperparameters,
    encoder: Encoder,
    input_SCT: Tensor,
    target_SCT: Tensor,
    num_steps: int,
) -> TransferResult:
    """Fit one segment."""
    models = load_models_of([way.method], {}, input_SCT.device)
    return fit_style(
        [input_SCT],
        Style.of("target", [target_SCT], SAMPLE_RATE_HZ, encoder=encoder),
        SAMPLE_RATE_HZ,
        replace(way, num_steps=num_steps),
        standardisation=encoder.standardisation,
        encoder=encoder,
        model=next(iter(models.values()), None),
        reference_SCT=target_SCT,
        device=input_SCT.device,
    )


def networks_of(way: Hyperparameters, encoder: Encoder) -> dict[str, str | None]:
    """Return the fingerprints of the networks that a method listens with, by their names."""
    models = load_models_of([way.method], {}, "cpu")
    return {
        "encoder": encoder.fingerprint if way.embeds else None,
        **model_fingerprints(way.method, next(iter(models.values()), None)),
    }


def steps(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time single steps."""
    jobs = [
        Job(work=work, threads=threads, runs=args.runs)
        for work in (TCN_STEP, *args.ways)
        for threads in THREADS
    ]
    if torch.cuda.is_available():
        jobs += [Job(work=work, device="cuda", runs=args.runs) for work in (TCN_STEP, *args.ways)]
    shown = progress(jobs, len(jobs), "measured", "configurations", log)
    return [run_in_own_process("benchmarks.transfer", job, job.threads) for job in shown]


def measure(job: Job) -> dict[str, Any]:
    """Time one configuration on noise: the speed does not depend on what is heard."""
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (2, NUM_STEMS, NUM_CHANNELS, round(SEGMENT_S * SAMPLE_RATE_HZ))
    input_SCT, target_SCT = 0.1 * torch.randn(shape, generator=generator).to(job.device)
    if job.work == TCN_STEP:
        found = tcn_seconds(input_SCT.flatten(0, 1).unsqueeze(0), job.runs)
    else:
        encoder = load_checkpoint(SHIPPED_ENCODER, job.device)
        way = WAYS[job.work]
        fit(way, encoder, input_SCT, target_SCT, job.runs)
        found = {"seconds": fit(way, encoder, input_SCT, target_SCT, job.runs).step_s}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"peak_bytes": peak}


def tcn_seconds(stems_BCT: Tensor, runs: int) -> dict[str, float]:
    """Time forward and backward passes of both stacks in turns."""
    stacks = {"seconds": TCN(TCN_DILATIONS), "plain_seconds": PlainTCN(TCN_DILATIONS)}
    taken: dict[str, list[float]] = {name: [] for name in stacks}
    for run in range(runs + 1):
        for name, stack in stacks.items():
            seconds = timed(stack.to(stems_BCT.device), stems_BCT)
            if run > 0:
                taken[name].append(seconds)
    return {name: median(seconds) for name, seconds in taken.items()}


def timed(stack: nn.Module, stems_BCT: Tensor) -> float:
    """Time one forward and backward pass."""
    wait: Callable[[], None] = torch.cuda.synchronize if stems_BCT.is_cuda else lambda: None
    wait()
    started_s = time.perf_counter()
    stack(stems_BCT).square().mean().backward()
    wait()
    return time.perf_counter() - started_s


def pairs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the command on the first case, as a person runs it."""
    case = draw_cases(args.songs, 1)[0]
    rows = []
    for name in progress(args.ways, len(args.ways), "measured", "commands", log):
        way = WAYS[name]
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "mixprint", "transfer", "--output_dir", out]
            command += ["--input_audio", str(case.input / "mixture.wav")]
            command += ["--target_audio", str(case.target / "mixture.wav")]
            command += ["--optimize_target", way.optimize_target, "--method", way.method]
            started_s = time.perf_counter()
            subprocess.run([*command, "--aim", way.aim], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started_s
            metrics = json.loads((Path(out) / "metrics.json").read_text())
        kept = {key: metrics[key] for key in ("num_steps_run", "device", "timings")}
        rows.append({"way": name, "seconds": seconds, **kept})
    return rows


TABLES: Mapping[str, Callable[[argparse.Namespace], Any]] = {
    "steps": steps,
    "pairs": pairs,
}


def table(values: Mapping[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [f"Medians; {about}.", ""]
    if "steps" in values:
        lines += [
            "",
            "| step | device | threads | seconds | times the plain stack | peak memory, MB |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *(step_row(row) for row in values["steps"]),
        ]
    if "pairs" in values:
        lines += [
            "",
            "| command | seconds | separation | fit | steps | device |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *(pair_row(row) for row in values["pairs"]),
        ]
    return "\n".join(lines) + "\n"


def step_row(row: Mapping[str, Any]) -> str:
    gain = f"{row['plain_seconds'] / row['seconds']:.1f}" if "plain_seconds" in row else ""
    return (
        f"| {row['work']} | {row['device']} | {row['threads']} | {row['seconds']:.2f} | {gain} "
        f"| {row['peak_bytes'] / BYTES_PER_MB:.0f} |"
    )


def pair_row(row: Mapping[str, Any]) -> str:
    timings = row["timings"]
    return (
        f"| {row['way']} | {row['seconds']:.0f} | {timings['separation_s']:.0f} "
        f"| {timings['optimisation_s']:.0f} | {row['num_steps_run']} | {row['device']} |"
    )


if __name__ == "__main__":
    main()
