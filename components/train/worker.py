"""One rank of a training, started by `torchrun`; rank 0 tracks the run in MLflow.

`python -m components.train.torchrun --standalone --nproc-per-node 2 -m components.train.worker JOB`
"""

import os
from collections.abc import Mapping
from pathlib import Path

from components.train.job import STATE_FOLDER, Job, MetricsCallback, load_task
from components.train.launch import errors_told, rank_job
from mixprint.config import flattened
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
    task = load_task(job.task)
    state_dir = Path(job.out_dir) / STATE_FOLDER

    def rank_train(on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        with errors_told(state_dir):
            return task.train(job, on_metrics)

    if int(os.environ["RANK"]) > 0:
        rank_train(None)
        return
    # MLflow takes seconds to import, and only rank 0 needs it.
    from components.mlflow.client import EXPERIMENT, own_experiment
    from components.mlflow.runs import NOTE_FILE, TRAINING_DATA_TAG, BackgroundRun

    data = job.data_fingerprint
    with BackgroundRun(
        EXPERIMENT if task.in_pipeline else own_experiment(task.name),
        task.step,
        note=state_dir / NOTE_FILE,
        recipe=job.recipe,
        params={**dict(flattened(job.sections[task.section])), **task.params(job)},
        tags={TRAINING_DATA_TAG: data} if data else {},
        texts={"data_fingerprint.txt": data} if data else {},
    ) as tracked:
        task.log_results(tracked, job, rank_train(tracked.log_metrics))


if __name__ == "__main__":
    main()
