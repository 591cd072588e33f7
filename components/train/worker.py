"""One rank of the training, started by `torchrun`; rank 0 tracks the run in MLflow.

`python -m components.train.torchrun --standalone --nproc-per-node 2 -m components.train.worker JOB`
"""

import os
from pathlib import Path

from components.train.launch import errors_told, rank_job
from components.train.main import Job, state_dir
from mixprint.collection.catalogue import read_catalogue
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import EpochCallback, train
from mixprint.log import setup_logging
from mixprint.machine.memory import keep_freed_memory


def main() -> None:
    """Read the job and train."""
    setup_logging()
    with rank_job(Job, __doc__) as job:
        work(job)


def work(job: Job) -> None:
    """Train on this rank."""
    keep_freed_memory()
    config = TrainConfig.from_values(job.config)
    tracks = read_catalogue(Path(job.catalogue_dir))
    out_dir = Path(job.out_dir)

    def rank_train(on_epoch: EpochCallback | None) -> dict[str, float]:
        with errors_told(state_dir(out_dir)):
            return train(
                config,
                tracks=tracks,
                stems_dir=Path(job.stems_dir),
                features_dir=Path(job.features_dir),
                out_dir=out_dir,
                data_fingerprint=job.data_fingerprint,
                device=job.device,
                on_epoch=on_epoch,
            )

    if int(os.environ["RANK"]) > 0:
        rank_train(None)
        return
    # MLflow takes seconds to import, and only rank 0 needs it.
    from components.mlflow import client as tracking

    with tracking.BackgroundRun(
        tracking.EXPERIMENT,
        "train",
        note=state_dir(out_dir) / tracking.NOTE_FILE,
        recipe=job.recipe,
        params=config.to_values(),
        tags={tracking.TRAINING_DATA_TAG: job.data_fingerprint},
        texts={"data_fingerprint.txt": job.data_fingerprint},
    ) as tracked:
        result = rank_train(tracked.log_metrics)
        best = {f"best.{name}": value for name, value in result.items()}
        tracked.log_metrics(int(result["best_epoch"]), best)
        tracked.log_encoder(load_checkpoint(out_dir).fingerprint, out_dir)


if __name__ == "__main__":
    main()
