"""The task `encoder`, which is the step `train` of the pipeline.

How several machines train together says `components.train.launch`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.layout import (
    ENCODER_FILES,
    ENCODER_FOLDER,
    catalogue_manifest,
    features_manifest,
    stems_manifest,
)
from components.step import Manifest, add_root_argument, clear_errors
from components.train.job import Job, MetricsCallback, TrainTask, run_command, train_in_run
from mixprint.encoder.settings import TrainConfig

if TYPE_CHECKING:
    from components.mlflow.runs import BackgroundRun

__all__ = ["TASK", "TrainConfig", "run"]

# What an encoder follows from, with all that it imports.
CODE = ("mixprint.encoder.training",)


class EncoderTask(TrainTask):
    """Train the encoder on the songs of a run."""

    name, step, section = "encoder", "train", TrainConfig.section
    module = "components.train.main"
    files = ENCODER_FILES
    in_pipeline = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        add_root_argument(parser)

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """See `TrainTask`."""
        run(
            root=args.root,
            config=TrainConfig.of_params(params, args.params),
            catalogue=catalogue_manifest(args.root),
            stems=stems_manifest(args.root),
            features=features_manifest(args.root),
        )

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """See `TrainTask`."""
        from mixprint.collection.catalogue import read_catalogue
        from mixprint.encoder.training import train

        return train(
            job.config(TrainConfig),
            tracks=read_catalogue(job.folder("catalogue")),
            stems_dir=job.folder("stems"),
            features_dir=job.folder("features"),
            out_dir=Path(job.out_dir),
            data_fingerprint=job.data_fingerprint,
            device=job.device,
            on_metrics=on_metrics,
        ).best

    def log_results(self, run: "BackgroundRun", job: Job, result: Mapping[str, float]) -> None:
        """See `TrainTask`; the run becomes that of the encoder, for its evaluation."""
        from mixprint.encoder.checkpoint import load_checkpoint

        best = {f"best.{name}": value for name, value in result.items()}
        run.log_metrics(int(result["step"]), best)
        run.log_encoder(load_checkpoint(Path(job.out_dir)).fingerprint, Path(job.out_dir))


TASK = EncoderTask()


def run(
    *, root: str, config: TrainConfig, catalogue: Manifest, stems: Manifest, features: Manifest
) -> Manifest:
    """Train the encoder; a run that was killed goes on from the state saved last.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        features: the folder of the features.

    Returns:
        manifest of the encoder.

    Raises:
        MixprintError: see `train_in_run`.
    """
    data = {"catalogue": catalogue, "stems": stems, "features": features}
    return train_in_run(TASK, root=root, folder=ENCODER_FOLDER, config=config, data=data, code=CODE)


if __name__ == "__main__":
    with clear_errors():
        run_command(TASK)
