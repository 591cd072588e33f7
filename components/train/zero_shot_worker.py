"""One rank of the zero-shot training, started by `torchrun`; rank 0 tracks the run in MLflow.

`python -m components.train.torchrun --standalone -m components.train.zero_shot_worker JOB`
"""

import os
from pathlib import Path

from components.layout import ZERO_SHOT_FILES
from components.train.launch import errors_told, rank_job
from components.train.zero_shot import ZeroShotJob
from mixprint.collection.catalogue import read_catalogue
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.settings import TrainConfig
from mixprint.log import setup_logging
from mixprint.machine.memory import keep_freed_memory
from mixprint.zero_shot.settings import ZeroShotTrainConfig
from mixprint.zero_shot.training import STATE_FOLDER, MetricsCallback, train_zero_shot


def main() -> None:
    """Read the job and train."""
    setup_logging()
    with rank_job(ZeroShotJob, __doc__) as job:
        work(job)


def work(job: ZeroShotJob) -> None:
    """Train on this rank."""
    keep_freed_memory()
    out_dir = Path(job.out_dir)

    def rank_train(on_metrics: MetricsCallback | None) -> dict[str, float]:
        with errors_told(out_dir / STATE_FOLDER):
            return train_zero_shot(
                ZeroShotTrainConfig.from_values(job.config),
                tracks=read_catalogue(Path(job.catalogue_dir)),
                stems_dir=Path(job.stems_dir),
                encoder=load_checkpoint(Path(job.encoder_dir)),
                ranges=TrainConfig.from_values(job.train_config).augment_ranges(),
                out_dir=out_dir,
                data_fingerprint=job.data_fingerprint,
                device=job.device,
                on_metrics=on_metrics,
            )

    if int(os.environ["RANK"]) > 0:
        rank_train(None)
        return
    # MLflow takes seconds to import, and only rank 0 needs it.
    from components.mlflow import client as tracking

    with tracking.BackgroundRun(
        tracking.ZERO_SHOT_EXPERIMENT,
        "zero-shot",
        note=out_dir / STATE_FOLDER / tracking.NOTE_FILE,
        recipe=job.recipe,
        params=job.config,
        tags={tracking.TRAINING_DATA_TAG: job.data_fingerprint},
    ) as tracked:
        rank_train(tracked.log_metrics)
        tracked.log_files([out_dir / name for name in ZERO_SHOT_FILES], tracking.MODEL_FOLDER)


if __name__ == "__main__":
    main()
