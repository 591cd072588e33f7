"""Time the representation: `python -m benchmarks.representation`.

The mixing features, the sub-bands of the encoder (all at once, and one after the other as in
`benchmarks.looped_bands`), and the encoder as a whole, on noise: segments of 10 s of four stereo
stems, by the sizes of a profile of `params.yaml`.

Each configuration runs in a process of its own, so that its peak of resident memory is its own;
freed memory is kept, as in training. Seconds are medians of several runs after one that warms up.
The two forms of the sub-bands take turns in one process, so that both meet the same machine.
Writes `benchmarks/results/representation.json` and the same figures as a Markdown table beside it.
"""

import argparse
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.apart import run_apart
from benchmarks.looped_bands import looped_bands
from benchmarks.publish import publish
from mixprint.config import load_params
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig, TrainConfig
from mixprint.features import FEATURE_NAMES, extract
from mixprint.log import setup_logging
from mixprint.memory import keep_freed_memory
from mixprint.progress import progress
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ

log = logging.getLogger("mixprint.benchmarks")

PARAMS_PATH = Path(__file__).resolve().parents[1] / "params.yaml"
SEGMENT_S = 10.0
QUICK_SEGMENT_S = 3.0
PROFILES = ("tiny", "full")
THREADS = (1, 2)
CPU_BATCH_SIZES = {"tiny": 8, "full": 4}
GPU_BATCH_SIZES = (24, 96, 384)
BYTES_PER_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process measures.

    Attributes:
        work: a key of `WORK`.
        profile: whose sizes the encoder has.
        batch_size: segments at a time.
        segment_s: their length.
        device: `cpu` or `cuda`.
        threads: of torch on the CPU.
        precision: `float32`, or `bfloat16` by autocast.
        is_compiled: whether the encoder goes through `torch.compile`.
        runs: how often it is timed.
    """

    work: str
    profile: str
    batch_size: int
    segment_s: float = SEGMENT_S
    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    is_compiled: bool = False
    runs: int = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=int, default=5, help="runs whose medians are reported")
    parser.add_argument("--quick", action="store_true", help="one small batch of 3 s, as a trial")
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
    todo = jobs(runs, args.quick)
    shown = progress(todo, len(todo), "measured", "configurations", log)
    records = [run_apart("benchmarks.representation", job, job.threads) for job in shown]
    values = {"machine": about, "runs": runs, "speed": records}
    publish(args.out, "representation", values, table(values))


def jobs(runs: int, is_quick: bool) -> list[Job]:
    """List what is timed."""
    if is_quick:
        common: dict[str, Any] = {"segment_s": QUICK_SEGMENT_S, "batch_size": 1, "runs": runs}
        return [Job(work=work, profile="tiny", **common) for work in WORK]
    found = []
    for profile in PROFILES:
        for threads in THREADS:
            found += [
                Job(
                    work=work,
                    profile=profile,
                    threads=threads,
                    batch_size=CPU_BATCH_SIZES[profile],
                    runs=runs,
                )
                for work in WORK
                # Features know no profile.
                if profile == PROFILES[0] or not work.startswith("features")
            ]
    if torch.cuda.is_available():
        found += [
            Job(
                work=work,
                profile="full",
                device="cuda",
                precision=precision,
                is_compiled=is_compiled,
                batch_size=batch_size,
                runs=runs,
            )
            for work, precisions, compiled in (
                ("features", ("float32",), (False,)),
                ("bands", ("float32", "bfloat16"), (False,)),
                ("encoder", ("float32", "bfloat16"), (False, True)),
            )
            for precision in precisions
            for is_compiled in compiled
            for batch_size in GPU_BATCH_SIZES
        ]
    return found


def measure(job: Job) -> dict[str, Any]:
    """Time a job, in this process."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    if job.device == "cpu":
        keep_freed_memory()
    forms = WORK[job.work](job)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for count in range(job.runs + 1):
        for name, work in forms.items():
            passed_s = timed(work, job)
            if count > 0:
                seconds[name].append(passed_s)
    values: dict[str, Any] = {
        name: round(median(passed) / job.batch_size, 6) for name, passed in seconds.items()
    }
    values["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if job.device == "cuda":
        values["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    return values


def timed(work: Callable[[], object], job: Job) -> float:
    """Give the seconds of one run; CUDA returns before the work is done."""
    if job.device == "cuda":
        torch.cuda.synchronize()
    started_s = time.perf_counter()
    with torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bfloat16"):
        work()
    if job.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def encoder_config(job: Job) -> EncoderConfig:
    """Give the architecture of the job's profile."""
    values = load_params(PARAMS_PATH, job.profile)["train"]
    return TrainConfig.from_values(values).encoder_config(SAMPLE_RATE_HZ)


def noise(job: Job) -> Tensor:
    """Give stems at -20 dB of full scale; speed does not depend on what is heard."""
    num_samples = round(job.segment_s * SAMPLE_RATE_HZ)
    shape = (job.batch_size, NUM_STEMS, NUM_CHANNELS, num_samples)
    return 0.1 * torch.randn(shape, device=job.device)


Forms = dict[str, Callable[[], object]]
"""`seconds` and, where there is one, `looped_seconds` -> what is timed for it."""


def features(job: Job) -> Forms:
    """Extract features."""
    stems_BSCT = noise(job)

    def forward() -> None:
        with torch.inference_mode():
            extract(stems_BSCT, SAMPLE_RATE_HZ)

    return {"seconds": forward}


def features_gradient(job: Job) -> Forms:
    """Extract features, and their gradient."""
    stems_BSCT = noise(job).requires_grad_()

    def both() -> None:
        stems_BSCT.grad = None
        extract(stems_BSCT, SAMPLE_RATE_HZ).sum().backward()

    return {"seconds": both}


def bands(job: Job, *, has_input_gradient: bool = False) -> Forms:
    """Run the sub-bands forward and backward, in both forms."""
    encoder = MixEncoder(encoder_config(job)).to(job.device)
    with torch.no_grad():
        levels_BIMN = encoder.log_mel(noise(job))
    levels_BIMN.requires_grad_(has_input_gradient)
    films = [
        torch.randn(2, job.batch_size, block.conv.out_channels, device=job.device) * 0.2
        + torch.tensor([1.0, 0.0], device=job.device).view(2, 1, 1)
        for block in (encoder.block_1, encoder.block_2)
    ]
    films = [film_2BH.requires_grad_() for film_2BH in films]

    def both(form: Callable[..., Tensor]) -> None:
        for tensor in (levels_BIMN, *films, *encoder.parameters()):
            tensor.grad = None
        form(levels_BIMN, films).square().mean().backward()

    return {
        "seconds": lambda: both(encoder.bands),
        "looped_seconds": lambda: both(lambda *inputs: looped_bands(encoder, *inputs)),
    }


def bands_input_gradient(job: Job) -> Forms:
    """Run the sub-bands as transfer does, which asks for the gradient of the audio."""
    return bands(job, has_input_gradient=True)


def encoder_forward(job: Job) -> Forms:
    """Embed segments."""
    network, stems_BSCT, features_BD = encoder_inputs(job)

    def forward() -> None:
        with torch.inference_mode():
            network(stems_BSCT, features_BD)

    return {"seconds": forward}


def encoder(job: Job) -> Forms:
    """Embed segments, and the gradient of the weights."""
    network, stems_BSCT, features_BD = encoder_inputs(job)

    def both() -> None:
        network.zero_grad()
        network(stems_BSCT, features_BD).square().sum(dim=0).mean().backward()

    return {"seconds": both}


def encoder_inputs(job: Job) -> tuple[Any, Tensor, Tensor]:
    """Make an encoder with random weights, and what it takes."""
    network: Any = MixEncoder(encoder_config(job)).to(job.device)
    if job.is_compiled:
        network = torch.compile(network)
    return network, noise(job), torch.randn(job.batch_size, len(FEATURE_NAMES), device=job.device)


WORK: dict[str, Callable[[Job], Forms]] = {
    "features": features,
    "features, gradient": features_gradient,
    "bands": bands,
    "bands, input gradient": bands_input_gradient,
    "encoder, forward": encoder_forward,
    "encoder": encoder,
}


def table(values: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [
        f"Medians of {values['runs']} runs; {about}.",
        "",
        "| work | profile | device, threads | precision | batch | ms per segment "
        "| segments per second | times the loop | peak memory, MB |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [line(row) for row in values["speed"]]
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """Write one row."""
    precision = row["precision"] + (", compiled" if row["is_compiled"] else "")
    gain = f"{row['looped_seconds'] / row['seconds']:.2f}" if "looped_seconds" in row else ""
    gpu = f" + {row['gpu_peak_bytes'] / BYTES_PER_MB:.0f}" if "gpu_peak_bytes" in row else ""
    cells: Sequence[object] = (
        row["work"],
        row["profile"],
        f"{row['device']}, {row['threads']}",
        precision,
        row["batch_size"],
        f"{1e3 * row['seconds']:.1f}",
        f"{1 / row['seconds']:.1f}",
        gain,
        f"{row['peak_bytes'] / BYTES_PER_MB:.0f}{gpu}",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
