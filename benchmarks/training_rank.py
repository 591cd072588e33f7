"""One rank of a timed training, started by `torchrun`; `mixprint.encoder.training` as it is.

`python -m components.train.torchrun --standalone -m benchmarks.training_rank JOB`
"""

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from components.layout import CATALOGUE_FOLDER, FEATURES_FOLDER, STEMS_FOLDER
from components.train.launch import rank_job
from mixprint.atomic import write_json
from mixprint.catalogue import read_catalogue
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import train
from mixprint.errors import TrainingError
from mixprint.memory import keep_freed_memory

NO_ROOM = "the GPU's memory does not hold this batch"
# The driver's figure is itself a mean over 1/6 to 1 s.
BUSY_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What a rank has to do; passed to it as a JSON file.

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
    rates: list[float] = []
    meter = BusyMeter(_gpu_id()) if job.device == "cuda" and rank == 0 else None

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if epoch > job.warm_up:
            rates.append(metrics["train_segments_per_s"])
        elif epoch == job.warm_up and meter is not None:
            meter.start()

    try:
        train(
            TrainConfig.from_values(job.config),
            tracks=training + [track for track in tracks if track.split == "valid"],
            stems_dir=data / STEMS_FOLDER,
            features_dir=data / FEATURES_FOLDER,
            out_dir=out_dir,
            data_fingerprint="benchmark",
            device=job.device,
            on_epoch=on_epoch,
        )
    except torch.OutOfMemoryError as error:
        raise TrainingError(NO_ROOM) from error
    figures: dict[str, Any] = {
        "segments_per_s": rates,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if job.device == "cuda":
        figures["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    if meter is not None and (busy_percent := meter.stop()) is not None:
        figures["gpu_busy_percent"] = busy_percent
    write_json(figures_path(out_dir, rank), figures)


def figures_path(out_dir: Path, rank: int) -> Path:
    """Give the file that receives the figures of a rank."""
    return out_dir / f"rank-{rank}.json"


def _gpu_id() -> str:
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


class BusyMeter:
    """How busy a GPU is, by sampling the `nvidia-smi` that comes with its driver."""

    def __init__(self, gpu_id: str) -> None:
        """Take the id by which `nvidia-smi` knows the GPU."""
        self._command = ["nvidia-smi", f"--id={gpu_id}", "--query-gpu=utilization.gpu"]
        self._command += ["--format=csv,noheader,nounits"]
        self._percents: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to sample, if the program is there."""
        if shutil.which(self._command[0]) is not None:
            self._thread.start()

    def stop(self) -> float | None:
        """End, and give the mean in percent of the time; None where nothing could be read."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return round(fmean(self._percents), 1) if self._percents else None

    def _watch(self) -> None:
        while not self._stop.wait(BUSY_EVERY_S):
            done = subprocess.run(self._command, capture_output=True, check=False, text=True)
            # Parts of a GPU that was divided (MIG) have no such figure.
            if done.returncode == 0 and (text := done.stdout.strip()).isdecimal():
                self._percents.append(float(text))


if __name__ == "__main__":
    main()
