"""The task `separator`: songs with true stems in, weights that every step can load out.

`python -m components.train --task separator --data DIR --out DIR`
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.train.job import Job
from components.train.songs import SongsTask
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.separation.scnet.training import MODEL_FILES, OUTPUTS, WEIGHTS_FILE, train_separator


class SeparatorTask(SongsTask):
    """Train a separator on songs with true stems."""

    name, step, section = "separator", "separator", SeparatorTrainConfig.section
    module = "components.train.separator"
    config = SeparatorTrainConfig
    train_songs = staticmethod(train_separator)
    files, outputs, weights_file = MODEL_FILES, OUTPUTS, WEIGHTS_FILE

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        super().add_arguments(parser)
        parser.add_argument("--initial", type=Path, help="checkpoint to start from")
        parser.add_argument("--initial-config", type=Path, help="its configuration")

    def inputs(self, args: argparse.Namespace) -> Mapping[str, Path | None]:
        """See `SongsTask`."""
        return {"initial": args.initial, "initial_config": args.initial_config}

    def params(self, job: Job) -> Mapping[str, Any]:
        """See `TrainTask`."""
        return {**super().params(job), "initial": job.inputs.get("initial", "")}


TASK = SeparatorTask()
