"""One rank of a timed training, started by `torchrun`; `mixprint.encoder.training` as it is.

`python -m components.train.torchrun --standalone -m benchmarks.training_rank JOB`
"""

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.busy import BusyMeter
from components.layout import CATALOGUE_FOLDER, FEATURES_FOLDER, STEMS_FOLDER
from components.train.launch import rank_job
from mixprint.collection.catalogue import read_catalogue
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import train
from mixprint.errors import TrainingError
from mixprint.machine.memory import keep_freed_memory
from mixprint.storage.atomic import write_json

NO_ROOM = "the GPU's memory does not hold this batch"


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """Job of a rank; passed to it as a JSON file.

    Attributes:
        config: a `TrainConfig`.
        data: folder of a set of `benchmarks.segment_set`.
        num_pairs: tracks of the training split that are used, and so pairs in an epoch.
        out_dir: receives what the training writes, and `rank-<n>.json`.
        device: `cpu` or `cuda`.
        warm_up: first epochs, which are not timed.
    """

    config: Mapping[str, Any]
    data: str
    num_pairs: int
    out_dir: str
    device: str
    warm_up: int


def main() -> None:
    """Read the job and train."""
    with rank_job(RankJob, __doc__) as job:
        work(job)


def work(job: RankJob) -> None:
    """Train, and write this rank's figures.

    Raises:
        TrainingError: as `train` does; `NO_ROOM` where the memory of the GPU does not suffice.
    """
    keep_freed_memory()
    rank = int(os.environ["RANK"])
    data, out_dir = Path(job.data), Path(job.out_dir)
    tracks = read_catalogue(data / CATALOGUE_FOLDER)
    training = [track for track in tracks if track.split == "train"][: job.num_pairs]
    config = TrainConfig.from_values(job.config)
    num_segments = len(config.views) * job.num_pairs
    meter = BusyMeter(_gpu_id()) if job.device == "cuda" and rank == 0 else None

    def on_metrics(_step: int, metrics: Mapping[str, float]) -> None:
        if metrics.get("epoch", 0) == job.warm_up and meter is not None:
            meter.start()

    try:
        outcome = train(
            config,
            tracks=training + [track for track in tracks if track.split == "valid"],
            stems_dir=data / STEMS_FOLDER,
            features_dir=data / FEATURES_FOLDER,
            out_dir=out_dir,
            data_fingerprint="benchmark",
            device=job.device,
            on_metrics=on_metrics,
        )
    except torch.OutOfMemoryError as error:
        raise TrainingError(NO_ROOM) from error
    figures: dict[str, Any] = {
        "segments_per_s": [
            num_segments / (entry["train.step_s"] * entry["step"] / entry["epoch"])
            for entry in outcome.history[job.warm_up :]
        ],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if job.device == "cuda":
        figures["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    if meter is not None and (busy_percent := meter.stop()) is not None:
        figures["gpu_busy_percent"] = busy_percent
    write_json(figures_path(out_dir, rank), figures)


def figures_path(out_dir: Path, rank: int) -> Path:
    """Return the file that receives the figures of a rank."""
    return out_dir / f"rank-{rank}.json"


def _gpu_id() -> str:
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


if __name__ == "__main__":
    main()
