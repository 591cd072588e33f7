"""Time every step of the pipeline, from nothing: `make benchmark`.

Runs the DAG into a folder of its own, with a tracking store of its own, and writes
`benchmarks/results/pipeline.json` and the same figures as a Markdown table beside it.
"""

import argparse
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.publish import publish
from mixprint import __version__
from mixprint.config import BASE_PROFILE, load_params
from mixprint.log import setup_logging
from pipelines.run_local import (
    DEFAULT_DATA,
    DEFAULT_SOURCE,
    RESULTS,
    StepRecord,
    read_records,
    run,
)

NAME = "benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--runs", type=int, default=3, help="runs whose medians are reported")
    args = parser.parse_args()
    setup_logging()
    params = load_params(args.params, args.profile, args.set)
    about = machine()
    walls_s, records = [], []
    for _ in range(args.runs):
        wall_s, steps = time_run(params)
        walls_s.append(wall_s)
        records.append(steps)
    values: dict[str, Any] = {
        "machine": about,
        "profile": args.profile,
        "overrides": args.set,
        "runs": args.runs,
        "steps": [median_record(step) for step in zip(*records, strict=True)],
        "wall_s": round(median(walls_s), 1),
    }
    publish(args.out, "pipeline", values, table(values))


def time_run(params: Mapping[str, Mapping[str, Any]]) -> tuple[float, list[StepRecord]]:
    """Run the DAG once from nothing; return the wall time in seconds and the steps' records."""
    root = RESULTS / NAME
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    # Its champions must not compete with those of real runs.
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root.resolve()}/mlflow.db"
    started_s = time.time()
    run(source=DEFAULT_SOURCE, locations=[DEFAULT_DATA], name=NAME, params=params)
    return time.time() - started_s, read_records(root, started_s)


def median_record(runs: Sequence[StepRecord]) -> dict[str, Any]:
    """Join the records of one step: the median time, the highest memory."""
    return {
        "step": runs[0].step,
        "num_tasks": runs[0].num_tasks,
        "seconds": round(median(record.seconds for record in runs), 2),
        "peak_bytes": max(record.peak_bytes for record in runs),
    }


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mixprint": __version__,
    }


def table(values: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in values["machine"].items())
    lines = [
        f"Profile {values['profile']}; medians of {values['runs']} runs, highest memory; {about}.",
        "",
        "| step | tasks | seconds | peak memory, MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['step']} | {row['num_tasks']} | {row['seconds']:.1f} "
        f"| {row['peak_bytes'] / 1e6:.0f} |"
        for row in values["steps"]
    ]
    peak_mb = max(row["peak_bytes"] for row in values["steps"]) / 1e6
    lines.append(f"| all | | {values['wall_s']:.1f} | {peak_mb:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
