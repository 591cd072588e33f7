"""Hold a diffusion separator beside SCNet: `python -m benchmarks.diffusion`.

On excerpts of songs with true stems: how near vocals and instrumental come by one step, by more of
them, by each sampler, from each start, and as the mean of several samples; beside SCNet, the ideal
ratio mask, the mixture and silence. Then the checks of `mixprint check-separator`, and time and
memory for ten seconds, each in a process of its own.

Without `--songs` the songs are generated ones that are played by instruments of no training song
(see `benchmarks.separator_scores`), and the real excerpt of `../shared/audio/musdbhq`, if it is
there.

Every result is kept in `--finished` as soon as it is there: a run that was stopped goes on. Writes
`diffusion.json` and the same figures as Markdown tables beside it.
"""

import argparse
import hashlib
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from benchmarks.own_process import run_in_own_process
from benchmarks.publish import publish
from benchmarks.separation import noise
from benchmarks.separator_scores import make_held_out
from mixprint.evaluation.finished import Finished
from mixprint.fingerprint import code_version
from mixprint.log import setup_logging
from mixprint.progress import progress
from mixprint.separation import Separator, load_separator
from mixprint.separation.diffusion.counterfactual import (
    CHECKS,
    Excerpt,
    calibration,
    check_excerpt,
    draw_samples,
    other_vocals,
    read_excerpts,
    summary,
    vocals_of,
)
from mixprint.separation.loading import DEFAULT
from mixprint.separation.metrics import utterance_sdr
from mixprint.separation.source import SeparatorSource
from mixprint.stems import SAMPLE_RATE_HZ

log = logging.getLogger("mixprint.benchmarks")

NAME = "diffusion"
REAL_SONGS = Path("../shared/audio/musdbhq")
NUM_HELD_OUT = 16
EXCERPT_S = 8.0
STEPS = (1, 8, 20, 50, 100)
DEFAULT_STEPS = 20
NUM_SAMPLES = 8
SPEED_S = 10.0
THREADS = (1, 2)
N_FFT, HOP = 4096, 1024  # of the ideal ratio mask
SCNET = "SCNet"
BYTES_PER_MB = 1e6
# audio of an excerpt to vocals_CT
Estimate = Callable[[Excerpt], Tensor]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Timing of one process.

    Attributes:
        checkpoint: see `SeparatorSource`.
        method: see there.
        sampling: see there.
        threads: of torch on the CPU.
        runs: how often it is timed, after a first time.
    """

    checkpoint: str
    method: str
    threads: int
    runs: int
    sampling: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Read the command line, measure and publish."""
    args = parsed()
    if args.job:
        json.dump(measure(Job(**json.loads(args.job))), sys.stdout)
        return
    from benchmarks.pipeline import machine

    setup_logging()
    source = SeparatorSource(args.checkpoint, device=args.device, method="diffusion")
    scnet = load_separator(DEFAULT, device=args.device)
    finished, about = Finished(args.finished), machine()
    values: dict[str, Any] = {"machine": about, "duration_s": args.duration, "songs": {}}
    for name, folder in song_folders(args).items():
        excerpts = read_excerpts([folder], args.duration, SAMPLE_RATE_HZ)
        values["songs"][name] = {
            "num_songs": len(excerpts),
            "quality": quality(excerpts, source, scnet, args, finished),
            "samples": mean_samples(excerpts, source, args, finished),
            "checks": checks(excerpts, source, scnet, finished),
        }
    values["speed"] = speed(args)
    publish(args.out, NAME, values, table(values))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=DEFAULT, help="of the diffusion separator")
    parser.add_argument("--songs", nargs="+", metavar="NAME=DIR", help="songs with true stems")
    parser.add_argument("--held-out", type=int, default=NUM_HELD_OUT, help="songs that are made")
    parser.add_argument("--duration", type=float, default=EXCERPT_S, help="of an excerpt, in s")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES, help="that are averaged")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs whose median is reported; 0: none"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--finished", type=Path, default=Path("results/diffusion-benchmark"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def song_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Name the folders of songs; generated ones are made."""
    if args.songs:
        return {name: Path(folder) for name, folder in (text.split("=", 1) for text in args.songs)}
    folders = {"held out": make_held_out(args.held_out)} if args.held_out else {}
    if REAL_SONGS.is_dir():
        folders["real excerpt"] = REAL_SONGS
    return folders


def samplings(steps: Sequence[int], *, has_prior: bool) -> dict[str, dict[str, Any]]:
    """Name the samplings that are compared."""
    one = {"start": "noise", "prior": False, "samples": 1}
    found = {
        f"dpm, {count} step{'s' if count > 1 else ''}": one | {"sampler": "dpm", "steps": count}
        for count in steps
    }
    middle = one | {"steps": DEFAULT_STEPS}
    name = f"{DEFAULT_STEPS} steps"
    found |= {
        f"ddim, {name}": middle | {"sampler": "ddim", "eta": 0.0},
        f"ddim, {name}, eta 0.4": middle | {"sampler": "ddim", "eta": 0.4},
        f"ddpm, {name}": middle | {"sampler": "ddpm"},
        "from the mixture, 0.3": middle | {"sampler": "dpm", "start": "mixture", "strength": 0.3},
    }
    if has_prior:
        dpm = middle | {"sampler": "dpm"}
        found["from the prior, 0.3"] = dpm | {"start": "prior", "strength": 0.3}
        found[f"dpm, {name}, shown the prior"] = dpm | {"prior": True}
        found["dpm, 1 step, shown the prior"] = dpm | {"steps": 1, "prior": True}
    return found


def quality(
    excerpts: Sequence[Excerpt],
    source: SeparatorSource,
    scnet: Separator,
    args: argparse.Namespace,
    finished: Finished,
) -> list[dict[str, Any]]:
    """Measure every estimate on every excerpt: rows of means."""
    estimates: dict[str, tuple[Any, Estimate]] = {
        "silence": ("silence", lambda excerpt: torch.zeros_like(excerpt.vocals_CT)),
        "the mixture": ("mixture", Excerpt.mixture),
        "ideal ratio mask": ("ideal", ideal_ratio_mask),
        SCNET: (scnet.fingerprint, partial(estimated, scnet)),
    }
    network = source.load().network
    for name, sampling in samplings(args.steps, has_prior=network.prior is not None).items():
        separator = replace(source, sampling=sampling, num_stems=2).load()
        estimates[name] = (separator.fingerprint, partial(estimated, separator))
    rows = []
    for name, (made_with, estimate) in progress(
        list(estimates.items()), len(estimates), "measured", "estimates", log
    ):
        found = [
            finished.result(
                recipe("quality", excerpt, estimate=made_with), partial(scores, excerpt, estimate)
            )
            for excerpt in excerpts
        ]
        rows.append({"estimate": name, **means(found)})
    return rows


def estimated(separator: Separator, excerpt: Excerpt) -> Tensor:
    return vocals_of(separator, excerpt.mixture())


def scores(excerpt: Excerpt, estimate: Estimate) -> dict[str, float | None]:
    """Compare an estimate of the vocals, and the rest of the mixture, with the truth."""
    return scores_of(excerpt, estimate(excerpt))


def scores_of(excerpt: Excerpt, vocals_CT: Tensor) -> dict[str, float | None]:
    rest_CT = excerpt.mixture() - vocals_CT
    found = {
        "vocals": utterance_sdr(vocals_CT, excerpt.vocals_CT).item(),
        "instrumental": utterance_sdr(rest_CT, excerpt.instrumental_CT).item(),
    }
    # JSON has no NaN, which stands for a silent truth.
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def ideal_ratio_mask(excerpt: Excerpt) -> Tensor:
    """Take from the mixture what the truth has as power in each place."""
    window_T = torch.hann_window(N_FFT)
    analyse = partial(torch.stft, n_fft=N_FFT, hop_length=HOP, window=window_T, return_complex=True)
    vocals, rest = (
        analyse(audio_CT).abs().square()
        for audio_CT in (excerpt.vocals_CT, excerpt.instrumental_CT)
    )
    mixture_CT = excerpt.mixture()
    masked = analyse(mixture_CT) * vocals / (vocals + rest).clamp_min(1e-20)
    return torch.istft(masked, N_FFT, HOP, window=window_T, length=mixture_CT.shape[-1])


def mean_samples(
    excerpts: Sequence[Excerpt],
    source: SeparatorSource,
    args: argparse.Namespace,
    finished: Finished,
) -> list[dict[str, Any]]:
    """Measure means of more and more samples: rows with their number."""
    counts = [2**power for power in range(args.samples.bit_length()) if 2**power <= args.samples]
    sampling = {"sampler": "dpm", "steps": DEFAULT_STEPS, "start": "noise", "samples": 1}
    separator = replace(source, sampling=sampling, num_stems=2).load()
    found = [
        finished.result(
            recipe("samples", excerpt, separator=separator.fingerprint, counts=counts),
            partial(scores_of_samples, excerpt, separator, counts),
        )
        for excerpt in progress(excerpts, len(excerpts), "drawn for", "songs", log)
    ]
    rows = []
    for count in counts:
        each = [result["counts"][str(count)] for result in found]
        ratios = [row["calibration"] for row in each if row.get("calibration")]
        right = math.exp(fmean(map(math.log, ratios))) if ratios else None
        rows.append({"samples": count, **means(each), "calibration": right})
    return rows


def scores_of_samples(
    excerpt: Excerpt, separator: Separator, counts: Sequence[int]
) -> dict[str, Any]:
    samples_KCT = draw_samples(separator, excerpt.mixture(), max(counts))
    found: dict[str, Any] = {}
    for count in counts:
        part_KCT = samples_KCT[:count]
        found[str(count)] = row = scores_of(excerpt, part_KCT.mean(dim=0))
        if count > 1 and row["vocals"] is not None:
            row["calibration"] = calibration(part_KCT, excerpt.vocals_CT)
    return {"counts": found}


def checks(
    excerpts: Sequence[Excerpt], source: SeparatorSource, scnet: Separator, finished: Finished
) -> dict[str, Any]:
    """Make the counterfactual checks of SCNet, of one step and of a usual number of them."""
    separators = {SCNET: scnet}
    for steps in (1, DEFAULT_STEPS):
        sampling = {"sampler": "dpm", "steps": steps, "start": "noise", "samples": 1}
        other = replace(source, sampling=sampling, num_stems=2)
        separators[f"{steps} step{'s' if steps > 1 else ''}"] = other.load()
    found = {}
    for name, separator in separators.items():
        rows = []
        for number, excerpt in enumerate(
            progress(excerpts, len(excerpts), f"checked by {name}", "songs", log)
        ):
            others_CT = other_vocals(excerpts, number)
            rows.append(
                finished.result(
                    recipe("checks", excerpt, others_CT, separator=separator.fingerprint),
                    # How sure samples may be is measured with more of them, see `mean_samples`.
                    partial(check_excerpt, separator, excerpt, others_CT, num_samples=2),
                )
            )
        found[name] = summary(rows)
    return found


def speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time separators, and measure their memory, on the CPU."""
    if not args.runs:
        return []
    jobs = [
        Job(
            checkpoint=DEFAULT if method == "scnet" else args.checkpoint,
            method=method,
            threads=threads,
            runs=args.runs,
            sampling=sampling,
        )
        for threads in THREADS
        for method, sampling in (
            ("scnet", {}),
            ("diffusion", {"sampler": "dpm", "steps": 1}),
            ("diffusion", {"sampler": "dpm", "steps": DEFAULT_STEPS}),
        )
    ]
    shown = progress(jobs, len(jobs), "measured", "configurations", log)
    return [run_in_own_process("benchmarks.diffusion", job, job.threads) for job in shown]


def measure(job: Job) -> dict[str, Any]:
    """Time a job, in this process."""
    torch.set_num_threads(job.threads)
    source = SeparatorSource(
        job.checkpoint,
        device="cpu",
        method=job.method,
        sampling=job.sampling,
        num_stems=2 if job.method == "diffusion" else None,
    )
    separator = source.load()
    audio_CT = torch.cat(list(noise(SPEED_S)), dim=1)

    def once() -> float:
        started_s = time.perf_counter()
        separator.separate(audio_CT)
        return time.perf_counter() - started_s

    once()
    return {
        "seconds": round(median(once() for _ in range(job.runs)), 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def recipe(kind: str, excerpt: Excerpt, *audio_CT: Tensor, **made_with: Any) -> dict[str, Any]:
    """Name what a result follows from."""
    digest = hashlib.sha256()
    for each_CT in (excerpt.vocals_CT, excerpt.instrumental_CT, *audio_CT):
        digest.update(each_CT.contiguous().numpy().tobytes())
    code = code_version(
        "mixprint.separation.separator", "mixprint.separation.diffusion.counterfactual"
    )
    return {"kind": kind, "audio": digest.hexdigest(), "code": code, **made_with}


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Average over the songs where the truth is not silent."""
    found: dict[str, float | None] = {}
    for name in ("vocals", "instrumental"):
        values = [row[name] for row in rows if row[name] is not None]
        found[name] = fmean(values) if values else None
    return found


def table(values: Mapping[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [f"Excerpts of {values['duration_s']:g} s; {about}."]
    for name, found in values["songs"].items():
        lines += ["", f"{name}: {found['num_songs']} songs, SDR in dB", ""]
        lines += ["| estimate | vocals | instrumental |", "| --- | ---: | ---: |"]
        lines += [
            f"| {row['estimate']} | {shown(row['vocals'])} | {shown(row['instrumental'])} |"
            for row in found["quality"]
        ]
        lines += ["", "| mean of samples | vocals | instrumental | variance / error |"]
        lines += ["| ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {row['samples']} | {shown(row['vocals'])} | {shown(row['instrumental'])} "
            f"| {shown(row['calibration'])} |"
            for row in found["samples"]
        ]
        lines += ["", *check_table(found["checks"])]
    lines += ["", "| method | steps | threads | seconds for 10 s | peak memory, MB |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['method']} | {row['sampling'].get('steps', '')} | {row['threads']} "
        f"| {row['seconds']:.2f} | {row['peak_bytes'] / BYTES_PER_MB:.0f} |"
        for row in values["speed"]
    ]
    return "\n".join(lines) + "\n"


def check_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Write the checks, mean and worst, with a column per separator."""
    lines = [f"| check, mean (worst) | {' | '.join(found)} |", "| --- |" + " ---: |" * len(found)]
    for name, check in CHECKS.items():
        cells = [
            f"{each[name]['mean']:.1f} ({each[name]['worst']:.1f})" if name in each else ""
            for each in found.values()
        ]
        if any(cells):
            lines.append(f"| {name}: {check.what} | {' | '.join(cells)} |")
    return lines


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
