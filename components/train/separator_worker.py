"""One rank of a separator's training, started by `torchrun`; rank 0 tracks the run in MLflow.

`python -m components.train.torchrun --standalone -m components.train.separator_worker JOB`
"""

import os
from pathlib import Path

from components.train.launch import errors_told, rank_job
from components.train.separator import SeparatorJob
from mixprint.checkpoints.form import DESCRIPTION_SUFFIX
from mixprint.config import flattened
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging
from mixprint.machine.memory import keep_freed_memory
from mixprint.separation.scnet.recipe import Recipe
from mixprint.separation.scnet.training import (
    HISTORY_FILE,
    LAST_FILE,
    STATE_FOLDER,
    MetricsCallback,
    train_separator,
)


def main() -> None:
    """Read the job and train."""
    setup_logging()
    with rank_job(SeparatorJob, __doc__) as job:
        work(job)


def work(job: SeparatorJob) -> None:
    """Train on this rank."""
    keep_freed_memory()
    out_dir = Path(job.out_dir)

    def rank_train(on_metrics: MetricsCallback | None) -> Path:
        with errors_told(out_dir / STATE_FOLDER):
            return train_separator(
                job.data_dir or None,
                out_dir,
                Recipe.from_values(job.recipe),
                device=job.device,
                extra_valid=job.extra_valid,
                initial=job.initial or None,
                initial_config=job.initial_config or None,
                on_metrics=on_metrics,
            )

    if int(os.environ["RANK"]) > 0:
        rank_train(None)
        return
    # MLflow takes seconds to import, and only rank 0 needs it.
    from components.mlflow import client as tracking

    params = {**dict(flattened(job.recipe)), "data_dir": job.data_dir, "initial": job.initial}
    with tracking.BackgroundRun(
        tracking.SEPARATOR_EXPERIMENT,
        "separator",
        note=out_dir / STATE_FOLDER / tracking.NOTE_FILE,
        recipe=fingerprint([job.recipe, job.data_dir, job.initial]),
        params=params,
    ) as tracked:
        weights = rank_train(tracked.log_metrics)
        exported = [weights, out_dir / LAST_FILE]
        described = [path.with_suffix(DESCRIPTION_SUFFIX) for path in exported]
        files = [*exported, *described, out_dir / HISTORY_FILE]
        tracked.log_files(files, tracking.MODEL_FOLDER)


if __name__ == "__main__":
    main()
