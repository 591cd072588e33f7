"""One rank of the training, started by `torchrun`; rank 0 tracks the run in MLflow.

`python -m components.train.torchrun --standalone --nproc-per-node 2 -m components.train.worker JOB`
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components.train.launch import errors_told, rank_job
from components.train.main import Job, state_dir
from mixprint.catalogue import read_catalogue
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import train
from mixprint.log import setup_logging
from mixprint.memory import keep_freed_memory

EpochCallback = Callable[[int, dict[str, float]], None]
_SYSTEM_METRICS_EVERY_S = 5.0


def main() -> None:
    """Read the job and train."""
    setup_logging()
    with rank_job(__doc__) as values:
        work(Job(**values))


def work(job: Job) -> None:
    """Train on this rank."""
    keep_freed_memory()
    config = TrainConfig.from_values(job.config)
    tracks = read_catalogue(Path(job.catalogue_dir))

    def rank_train(on_epoch: EpochCallback | None) -> dict[str, float]:
        with errors_told(state_dir(Path(job.out_dir))):
            return train(
                config,
                tracks=tracks,
                stems_dir=Path(job.stems_dir),
                features_dir=Path(job.features_dir),
                out_dir=Path(job.out_dir),
                data_fingerprint=job.data_fingerprint,
                device=job.device,
                on_epoch=on_epoch,
            )

    if int(os.environ["RANK"]) > 0:
        rank_train(None)
        return
    with tracked(job, config) as (on_epoch, on_end):
        on_end(rank_train(on_epoch))


@contextmanager
def tracked(
    job: Job, config: TrainConfig
) -> Iterator[tuple[EpochCallback, Callable[[Mapping[str, float]], None]]]:
    """Open the MLflow run of this training, a resumed one where there is one.

    Yields:
        what to call after each epoch, and with the result at the end.
    """
    # MLflow takes seconds to import, and only rank 0 needs it.
    import mlflow

    from components import tracking
    from mixprint.encoder.checkpoint import load_checkpoint

    experiment = tracking.connect()
    mlflow.set_system_metrics_sampling_interval(_SYSTEM_METRICS_EVERY_S)
    note = state_dir(Path(job.out_dir)) / tracking.NOTE_FILE
    resumed = tracking.noted_run(note, job.recipe)
    with mlflow.start_run(
        run_id=resumed,
        experiment_id=experiment,
        run_name=None if resumed else "train",
        log_system_metrics=True,
    ) as active:
        if resumed is None:
            tracking.note_run(note, job.recipe, active.info.run_id)
            mlflow.log_params(config.to_values())
            mlflow.set_tags({"mixprint.data": job.data_fingerprint, "mixprint.recipe": job.recipe})
            mlflow.log_text(tracking.environment_text(), "environment/packages.txt")
            mlflow.log_text(job.data_fingerprint, "data_fingerprint.txt")

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            mlflow.log_metrics(metrics, step=epoch)

        def on_end(result: Mapping[str, float]) -> None:
            folder = Path(job.out_dir)
            mlflow.log_metrics({f"best.{name}": value for name, value in result.items()})
            tracking.log_encoder(load_checkpoint(folder).fingerprint, folder)

        yield on_epoch, on_end


if __name__ == "__main__":
    main()
