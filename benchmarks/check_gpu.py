"""Check what only a GPU does: `python -m benchmarks.check_gpu`, at most 8 minutes on one GPU.

For a machine that has torch, and neither a network nor the rest of mixprint's environment: each
check is a process of its own, and one whose packages are missing is left out by their names. What
the GPU computes is held against what the CPU computes of the same. Without a GPU the checks that
need one are left out, and the others compare the CPU with itself.

Writes `check_gpu.json` and the same as a Markdown table. Ends with 1 where something has failed.
"""

import argparse
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from benchmarks.busy import BusyMeter

REPOSITORY = Path(__file__).resolve().parents[1]
MINUTES = 8.0
NEEDS_GPU = "needs a GPU"
PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"
# Highest difference of the stems to those of the CPU in float32, in dB below them. On a GPU
# convolutions and LSTMs round their inputs to TF32.
PRECISION_LIMITS_DB = {"float32": -40.0, "bfloat16": -20.0, "float16": -35.0}
# Of the features, in their units (dB, LU, ratios); of a loss and a distance, a part of it.
FEATURE_LIMIT = 0.05
LOSS_LIMITS = {"float32": 0.01, "bfloat16": 0.05}
DISTANCE_LIMIT = 0.05
LARGE_BATCH = 8
ENCODER_SAMPLE_RATE_HZ = 32_000
ENCODER_SEGMENT_S = 3.0


@dataclass(frozen=True)
class Job:
    """Checks of one process.

    Attributes:
        name: a key of `CHECKS`.
        device: `cpu` or `cuda`.
        is_tiny: networks and sounds for a trial of this script.
    """

    name: str
    device: str
    is_tiny: bool = False

    @property
    def is_gpu(self) -> bool:
        """Tell whether there is something to compare."""
        return self.device == "cuda"


@dataclass(kw_only=True)
class Finding:
    """Finding of a check; a difference passes up to its limit.

    Attributes:
        what: the path that was taken.
        status: `passed`, `failed` or `left out`.
        reason: why it is left out or has failed.
        difference: to what the CPU computes.
        limit: highest difference that passes.
        seconds: on the device.
        cpu_seconds: of the same on the CPU.
        peak_bytes: highest memory on the GPU.
        busy_percent: how busy the GPU was; None where the work was too short to tell.
        more: figures of this check alone.
    """

    what: str
    status: str = PASSED
    reason: str = ""
    difference: float | None = None
    limit: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    busy_percent: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Figures:
    """Time, memory and use of a device; known when the work is done."""

    seconds: float = math.nan
    peak_bytes: int | None = None
    busy_percent: float | None = None


@contextmanager
def watched(device: str) -> Iterator[Figures]:
    """Measure what is done inside."""
    figures = Figures()
    meter = None
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        meter = BusyMeter(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        meter.start()
    started_s = time.perf_counter()
    yield figures
    if device == "cuda":
        torch.cuda.synchronize()
        figures.peak_bytes = torch.cuda.max_memory_allocated()
    figures.seconds = time.perf_counter() - started_s
    if meter is not None:
        figures.busy_percent = meter.stop()


def compared(
    what: str, difference: float, limit: float, seen: Figures, cpu: Figures, **more: object
) -> Finding:
    """Judge a difference; one that is no number has failed."""
    passed = difference <= limit
    return Finding(
        what=what,
        status=PASSED if passed else FAILED,
        reason="" if passed else f"a difference of {difference:.3g}",
        difference=difference if math.isfinite(difference) else None,
        limit=limit,
        seconds=seen.seconds,
        cpu_seconds=cpu.seconds,
        peak_bytes=seen.peak_bytes,
        busy_percent=seen.busy_percent,
        more=more,
    )


def left_out(what: str, reason: str = NEEDS_GPU) -> Finding:
    """Name what was not done, and why."""
    return Finding(what=what, status=LEFT_OUT, reason=reason)


def error_db(found: Tensor, expected: Tensor) -> float:
    """Measure a difference in dB relative to what is expected."""
    found, expected = found.double(), expected.double()
    error = (found - expected).square().sum() / expected.square().sum().clamp_min(1e-20)
    return 10 * math.log10(max(error.item(), 1e-20))


class Messages(logging.Handler):
    """Keeps what the separator says while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


@contextmanager
def messages_of(name: str) -> Iterator[list[str]]:
    """Collect what a log says inside."""
    log, handler = logging.getLogger(name), Messages()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Separation:
    """A separator, a sound, and the stems that the CPU makes of it in float32."""

    def __init__(self, job: Job) -> None:
        from benchmarks import separation

        self._job, self._made_by = job, separation
        # Enough for a large batch of windows of 8 s, one and a half of them.
        duration_s = 2.0 if job.is_tiny else 75.0
        self.audio_CT = torch.cat(list(separation.noise(duration_s)), dim=1)
        with watched("cpu") as self.cpu:
            self.expected_SCT = self.load("cpu").separate(self.audio_CT)

    def load(self, device: str, **how: Any) -> Any:
        """Load the separator; `how` it runs is said as in `benchmarks.separation.Job`."""
        model = "tiny" if self._job.is_tiny else "shipped"
        wanted = self._made_by.Job(model=model, duration_s=0.0, device=device, **how)
        return self._made_by.load(wanted)

    def check(self, what: str, separator: Any, batch_size: int) -> Finding:
        """Separate on the device, once to warm up and once with a watch, and compare."""
        with watched(self._job.device) as first:
            separator.separate(self.audio_CT, batch_size=batch_size)
        with watched(self._job.device) as seen:
            stems_SCT = separator.separate(self.audio_CT, batch_size=batch_size)
        difference_db = error_db(stems_SCT, self.expected_SCT)
        limit_db = PRECISION_LIMITS_DB[separator.precision]
        return compared(what, difference_db, limit_db, seen, self.cpu, first_seconds=first.seconds)


def check_separator(job: Job) -> Iterator[Finding]:
    """Separate in each precision."""
    separation = Separation(job)
    for precision in PRECISION_LIMITS_DB:
        if precision == "float16" and not job.is_gpu:
            yield left_out(precision)
        else:
            separator = separation.load(job.device, precision=precision)
            yield separation.check(precision, separator, LARGE_BATCH)


def check_graphs(job: Job) -> Iterator[Finding]:
    """Separate by a compiled network, and see that its kernels are launched as a CUDA graph."""
    separation = Separation(job)
    separator = separation.load(job.device, precision="float16", is_compiled=True)
    finding = separation.check("float16, compiled", separator, LARGE_BATCH)
    with torch.profiler.profile() as profile:
        separator.separate(separation.audio_CT, batch_size=LARGE_BATCH)
    launches = sum(e.count for e in profile.key_averages() if "GraphLaunch" in e.key)
    finding.more["graph_launches"] = launches
    if not launches:
        finding.status, finding.reason = FAILED, "no CUDA graph was launched"
    yield finding


def check_batch_by_memory(job: Job) -> Iterator[Finding]:
    """Let the memory of the GPU choose the batch."""
    separation = Separation(job)
    with messages_of("mixprint.separation") as messages:
        finding = separation.check("float32", separation.load(job.device), 0)
    finding.more["said"] = [text for text in messages if "windows a batch" in text]
    if not finding.more["said"]:
        finding.status, finding.reason = FAILED, "no batch was chosen"
    yield finding


def check_out_of_memory(job: Job) -> Iterator[Finding]:
    """Halve a batch that does not fit, and refuse where not even a window does."""
    separation = Separation(job)
    separator = separation.load(job.device)
    single = separation.check("one window", separator, 1)
    large = separation.check("a large batch", separator, LARGE_BATCH)
    assert single.peak_bytes is not None
    assert large.peak_bytes is not None
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((single.peak_bytes + large.peak_bytes) / 2 / total)
    with messages_of("mixprint.separation") as messages:
        finding = separation.check("a batch above the memory is halved", separator, LARGE_BATCH)
    finding.more["said"] = [text for text in messages if "do not fit" in text]
    if not finding.more["said"]:
        finding.status, finding.reason = FAILED, "the batch was not halved"
    yield finding
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(single.peak_bytes / 2 / total)
    refused = Finding(what="a window above the memory is refused")
    try:
        separator.separate(separation.audio_CT)
    except torch.OutOfMemoryError as error:
        refused.more["said"] = str(error).partition("\n")[0]
    else:
        refused.status, refused.reason = FAILED, "it was separated"
    yield refused


def make_noise(num_segments: int, seed: int, segment_s: float) -> Tensor:
    """Make noise whose levels per stem and channel follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    level_SC1 = 10 ** (-1.5 * torch.rand(4, 2, 1, generator=generator) - 0.5)
    shape = (num_segments, 4, 2, round(segment_s * ENCODER_SAMPLE_RATE_HZ))
    return level_SC1 * torch.randn(shape, generator=generator).clamp(-3, 3) / 3


def check_features(job: Job) -> Iterator[Finding]:
    """Measure the 64 features."""
    from mixprint.features import extract

    stems_BSCT = make_noise(1 if job.is_tiny else 16, 0, ENCODER_SEGMENT_S)
    with watched("cpu") as cpu:
        expected_BD = extract(stems_BSCT, ENCODER_SAMPLE_RATE_HZ)
    there_BSCT = stems_BSCT.to(job.device)
    extract(there_BSCT, ENCODER_SAMPLE_RATE_HZ)
    with watched(job.device) as seen:
        found_BD = extract(there_BSCT, ENCODER_SAMPLE_RATE_HZ)
    difference = (found_BD.cpu() - expected_BD).abs().max().item()
    yield compared("features", difference, FEATURE_LIMIT, seen, cpu)


class EncoderTraining:
    """A short training of the encoder on noise, in a folder."""

    def __init__(self, job: Job, folder: Path) -> None:
        from mixprint.collection.catalogue import Track
        from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
        from mixprint.features import Standardisation, extract
        from mixprint.features.table import write_features

        self._job, self._folder = job, folder
        num_songs = 2 if job.is_tiny else 16
        names = [f"{song}{mix}" for song in "abcdefghijklmnopq"[: num_songs + 1] for mix in "01"]
        self._tracks = [
            Track(
                track_id=name,
                title=name,
                uri=f"{name}.wav",
                source="noise",
                duration_s=2 * ENCODER_SEGMENT_S,
                sample_rate_hz=ENCODER_SAMPLE_RATE_HZ,
                channels=2,
                split="valid" if name in names[-2:] else "train",
                licence="",
                has_stems=True,
                song=name[0],
                style="",
            )
            for name in names
        ]
        features = []
        with write_shard(
            folder / "stems" / shard_name(0, 1),
            fingerprint="noise",
            sample_rate_hz=ENCODER_SAMPLE_RATE_HZ,
            separator=SeparatorFingerprint("none", "0" * 64, "0" * 64),
        ) as writer:
            for seed, name in enumerate(names):
                stems_BSCT = make_noise(2, seed, ENCODER_SEGMENT_S)
                for segment, stems_SCT in enumerate(stems_BSCT):
                    writer.write(name, segment, segment * ENCODER_SEGMENT_S, stems_SCT)
                features.append(extract(stems_BSCT, ENCODER_SAMPLE_RATE_HZ))
        features_BD = torch.cat(features)
        ids = [name for name in names for _ in range(2)]
        write_features(
            folder / "features" / "features.parquet", ids, [0, 1] * len(names), features_BD
        )
        Standardisation.fit(features_BD).save(folder / "features" / "standardisation.json")

    def losses(self, device: str, **changes: object) -> list[float]:
        """Train anew, and return the mean loss of each epoch."""
        from dataclasses import replace

        from mixprint.config import load_params
        from mixprint.encoder.settings import TrainConfig
        from mixprint.encoder.training import train

        config = TrainConfig.from_values(load_params(REPOSITORY / "params.yaml")["train"])
        # Dropout draws its masks on the device.
        config = replace(
            config, epochs=2, patience=0, segment_s=ENCODER_SEGMENT_S, film_dropout=0.0
        )
        if self._job.is_tiny:
            bands = {"num_mels": 24, "band_mels": 12, "band_hop_mels": 8}
            config = replace(config, **bands, conv_channels=2, embedding_dim=16)
            config = replace(config, batch_size=4, epochs=1)
        with tempfile.TemporaryDirectory(dir=self._folder) as out:
            outcome = train(
                replace(config, **changes),
                tracks=self._tracks,
                stems_dir=self._folder / "stems",
                features_dir=self._folder / "features",
                out_dir=Path(out),
                data_fingerprint="noise",
                device=device,
            )
        return [entry["train.loss"] for entry in outcome.history]

    def check(self, what: str, expected: list[float], cpu: Figures, **changes: object) -> Finding:
        """Train on the device, and compare the losses."""
        with watched(self._job.device) as seen:
            losses = self.losses(self._job.device, **changes)
        difference = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
        limit = LOSS_LIMITS[str(changes.get("precision", "float32"))]
        return compared(what, difference, limit, seen, cpu, losses=losses, cpu_losses=expected)


def check_encoder(job: Job) -> Iterator[Finding]:
    """Train the encoder in each precision, compiled, and in a group of one rank."""
    with tempfile.TemporaryDirectory() as folder:
        training = EncoderTraining(job, Path(folder))
        with watched("cpu") as cpu:
            expected = training.losses("cpu")
        for precision in LOSS_LIMITS:
            yield training.check(precision, expected, cpu, precision=precision)
        backend = "nccl" if job.is_gpu else "gloo"
        distributed.init_process_group(
            backend, init_method=f"file://{folder}/ranks", rank=0, world_size=1
        )
        yield training.check(f"{backend}, one rank", expected, cpu)
        distributed.destroy_process_group()
        if job.is_gpu:
            yield training.check(
                "bfloat16, compiled", expected, cpu, precision="bfloat16", compile=True
            )
        else:
            yield left_out("bfloat16, compiled")


def check_transfer(job: Job) -> Iterator[Finding]:
    """Find a style transfer."""
    from mixprint.features import Standardisation, extract
    from mixprint.transfer.fit import fit_style
    from mixprint.transfer.settings import Hyperparameters
    from mixprint.transfer.style import Style

    input_SCT, target_SCT = (make_noise(1, seed, 4.0)[0] for seed in (1, 2))
    both = torch.cat([extract(s[None], ENCODER_SAMPLE_RATE_HZ) for s in (input_SCT, target_SCT)])
    standardisation = Standardisation(both.mean(0), torch.ones(both.shape[1]))

    def transfer(device: str) -> Any:
        return fit_style(
            [input_SCT],
            Style.of("target", [target_SCT.to(device)], ENCODER_SAMPLE_RATE_HZ),
            ENCODER_SAMPLE_RATE_HZ,
            Hyperparameters(
                optimize_target="features",
                method=method,
                aim="target",
                num_steps=2 if job.is_tiny else 100,
                lr=0.01,
                receptive_field=0.5,
            ),
            standardisation=standardisation,
            device=device,
        )

    for method in ("console",) if job.is_tiny else ("console", "tcn"):
        with watched("cpu") as cpu:
            expected = transfer("cpu").final.feature_distance
        with watched(job.device) as seen:
            found = transfer(job.device).final.feature_distance
        difference = abs(found - expected) / expected
        yield compared(method, difference, DISTANCE_LIMIT, seen, cpu, distance=found)


def check_tests(job: Job) -> Iterator[Finding]:
    """Run the tests that need a GPU."""
    import_module("tests.conftest")  # says what is not installed
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    with watched(job.device) as seen:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    status = PASSED if done.returncode == 0 else FAILED
    yield Finding(
        what="pytest -m gpu", status=status, reason=lines[-1] if lines else "", seconds=seen.seconds
    )


# Name -> what yields the findings, and whether all of them need a GPU. What takes longest is last.
CHECKS: Mapping[str, tuple[Callable[[Job], Iterator[Finding]], bool]] = {
    "separator": (check_separator, False),
    "batch by memory": (check_batch_by_memory, True),
    "out of memory": (check_out_of_memory, True),
    "features": (check_features, False),
    "encoder": (check_encoder, False),
    "transfer": (check_transfer, False),
    "CUDA graphs": (check_graphs, True),
    "tests": (check_tests, True),
}


def findings_of(job: Job) -> Iterator[Finding]:
    """Check in this process; a package that is missing is a finding, too."""
    run, needs_gpu = CHECKS[job.name]
    if needs_gpu and not job.is_gpu:
        yield left_out(job.name)
        return
    try:
        yield from run(job)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (REPOSITORY / package).is_dir():
            raise
        yield left_out(job.name, f"not installed: {package}")


def run_in_own_process(job: Job, timeout_s: float) -> list[dict[str, Any]]:
    """Check in a process of its own, which may take so long and end in any way."""
    if timeout_s <= 0:
        return [asdict(left_out(job.name, f"the {MINUTES:g} minutes are over"))]
    command = [sys.executable, "-m", "benchmarks.check_gpu", "--job", json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=printed, stderr=told)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            told.write(f"took longer than the {timeout_s:.0f} s that were left")
        printed.seek(0)
        found = [json.loads(line) for line in printed if line.startswith("{")]
        if process.returncode != 0:
            told.seek(0)
            reason = told.read().strip().rpartition("\n")[2]
            found.append(asdict(Finding(what=job.name, status=FAILED, reason=reason)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which it ends")
    parser.add_argument("--tiny", action="store_true", help="a trial of this script")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        for finding in findings_of(Job(**json.loads(args.job))):
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
            sys.stdout.flush()
        return 0
    end_s = time.monotonic() + 60 * args.minutes
    is_gpu = torch.cuda.is_available()
    checks = {}
    for name in CHECKS:
        sys.stderr.write(f"{name} ...\n")
        job = Job(name, "cuda" if is_gpu else "cpu", args.tiny)
        checks[name] = run_in_own_process(job, end_s - time.monotonic())
    values = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if is_gpu else "cpu",
        "checks": checks,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "check_gpu.json").write_text(json.dumps(values, indent=2) + "\n")
    text = table(values)
    (args.out / "check_gpu.md").write_text(text)
    sys.stdout.write(text)
    return int(any(f["status"] == FAILED for found in checks.values() for f in found))


def table(values: Mapping[str, Any]) -> str:
    """Write the findings as Markdown."""
    lines = [
        f"{values['device']}, torch {values['torch']}",
        "",
        "| check | path | status | difference (limit) | s | s on the CPU | GPU memory, MB "
        "| busy, % | |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, found in values["checks"].items():
        for each in found:
            difference, limit = _figure(each["difference"]), _figure(each["limit"])
            cells = [
                name,
                each["what"],
                each["status"],
                f"{difference} ({limit})" if limit else "",
                _figure(each["seconds"]),
                _figure(each["cpu_seconds"]),
                _figure(each["peak_bytes"], 1e6),
                _figure(each["busy_percent"]),
                each["reason"].replace("|", "/"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:.3g}"


if __name__ == "__main__":
    sys.exit(main())
