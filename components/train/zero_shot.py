"""The task `zero-shot`: the network of the zero-shot transfer."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.layout import (
    ENCODER_FILES,
    ENCODER_FOLDER,
    ZERO_SHOT_FILES,
    ZERO_SHOT_FOLDER,
    catalogue_manifest,
    stems_manifest,
)
from components.run_folder import RunFolder
from components.step import Manifest, add_root_argument
from components.train.job import Job, MetricsCallback, TrainTask, train_in_run
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.settings import TrainConfig
from mixprint.storage.bucket import is_bucket
from mixprint.zero_shot.settings import ZeroShotTrainConfig
from mixprint.zero_shot.training import train_zero_shot

# What a network follows from, with all that it imports.
CODE = ("mixprint.zero_shot.training",)


class ZeroShotTask(TrainTask):
    """Train the network of the zero-shot transfer on the songs of a run and its encoder."""

    name, step, section = "zero-shot", "zero-shot", ZeroShotTrainConfig.section
    module = "components.train.zero_shot"
    files = ZERO_SHOT_FILES

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        add_root_argument(parser)
        parser.add_argument("--encoder", help="folder of the encoder; by default that of the run")

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """See `TrainTask`."""
        run(
            root=args.root,
            config=ZeroShotTrainConfig.of_params(params, args.params),
            train_config=TrainConfig.of_params(params, args.params),
            catalogue=catalogue_manifest(args.root),
            stems=stems_manifest(args.root),
            encoder_dir=args.encoder or f"{args.root}/{ENCODER_FOLDER}",
        )

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """See `TrainTask`."""
        from mixprint.collection.catalogue import read_catalogue

        return train_zero_shot(
            job.config(ZeroShotTrainConfig),
            tracks=read_catalogue(job.folder("catalogue")),
            stems_dir=job.folder("stems"),
            encoder=load_checkpoint(job.folder("encoder")),
            ranges=job.config(TrainConfig).augment_ranges(),
            out_dir=Path(job.out_dir),
            data_fingerprint=job.data_fingerprint,
            device=job.device,
            on_metrics=on_metrics,
        ).best


TASK = ZeroShotTask()


def run(
    *,
    root: str,
    config: ZeroShotTrainConfig,
    train_config: TrainConfig,
    catalogue: Manifest,
    stems: Manifest,
    encoder_dir: Path | str,
) -> Manifest:
    """Train the network; a run that was killed goes on from the state saved last.

    Args:
        root: root folder of the run.
        config: parameters of the training.
        train_config: parameters of the encoder's training, for the ranges of the effects.
        catalogue: the folder of the catalogue.
        stems: the folder of the stem shards.
        encoder_dir: the encoder whose embeddings the network shall read.

    Returns:
        manifest of the network.

    Raises:
        CheckpointError: the encoder cannot be loaded.
        MixprintError: see `train_in_run`.
    """
    encoder = str(encoder_dir)

    def depends(run_folder: RunFolder) -> dict[str, Any]:
        local = run_folder.local(encoder, *ENCODER_FILES) if is_bucket(encoder) else Path(encoder)
        return {
            "encoder": load_checkpoint(local).fingerprint,
            "ranges": asdict(train_config.augment_ranges()),
        }

    return train_in_run(
        TASK,
        root=root,
        folder=ZERO_SHOT_FOLDER,
        config=config,
        sections=[train_config],
        data={"catalogue": catalogue, "stems": stems},
        inputs={"encoder": encoder},
        code=CODE,
        depends=depends,
    )
