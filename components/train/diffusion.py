"""The task `diffusion`: songs with true stems in, a separator that draws instrumentals out.

`python -m components.train --task diffusion --data DIR --out DIR`
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.train.job import Job
from components.train.songs import SongsTask
from mixprint.separation.diffusion.training import (
    MODEL_FILES,
    OUTPUTS,
    WEIGHTS_FILE,
    train_diffusion,
)
from mixprint.separation.diffusion.training_settings import DiffusionTrainConfig

if TYPE_CHECKING:
    from components.mlflow.runs import BackgroundRun


class DiffusionTask(SongsTask):
    """Train a diffusion separator on songs with true stems."""

    name, step, section = "diffusion", "diffusion", DiffusionTrainConfig.section
    module = "components.train.diffusion"
    config = DiffusionTrainConfig
    train_songs = staticmethod(train_diffusion)
    files, outputs, weights_file = MODEL_FILES, OUTPUTS, WEIGHTS_FILE

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        super().add_arguments(parser)
        add, shipped = parser.add_argument, "`default` is the shipped SCNet"
        add("--initial", help=f"checkpoint to start from; {shipped}")
        add("--prior", help=f"SCNet whose instrumentals it learns to use; {shipped}")

    def read_config(
        self, args: argparse.Namespace, params: Mapping[str, Any]
    ) -> DiffusionTrainConfig:
        """See `SongsTask`."""
        config = DiffusionTrainConfig.of_params(params, args.params)
        given = {"initial": args.initial, "prior": args.prior}
        return replace(config, **{name: path for name, path in given.items() if path is not None})

    def log_results(self, run: "BackgroundRun", job: Job, result: Mapping[str, float]) -> None:
        """See `TrainTask`; a prior that is shipped does not lie beside the weights."""
        from components.mlflow.registry import MODEL_FOLDER

        del result
        paths = [Path(job.out_dir) / name for name in self.files]
        run.log_files([path for path in paths if path.is_file()], MODEL_FOLDER)


TASK = DiffusionTask()
