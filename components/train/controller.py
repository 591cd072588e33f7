"""The task `controller`: songs made on the fly in, a network that sets the console out.

`python -m components.train --task controller --profile representation --out DIR`
"""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.train.job import (
    STATE_FOLDER,
    Job,
    MetricsCallback,
    TrainTask,
    check_own_folder,
    machine_at_work,
    start_ranks,
)
from mixprint.checkpoints.form import CheckpointFiles
from mixprint.controller.settings import ControllerTrainConfig
from mixprint.errors import ConfigError
from mixprint.fingerprint import fingerprint
from mixprint.text import shown
from mixprint.training.outputs import BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER
from mixprint.weights import SHIPPED_ENCODER

log = logging.getLogger("mixprint.train")

FILES = tuple(path.name for path in CheckpointFiles.in_folder(Path()))
OUTPUTS = (*FILES, BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER)
# Instead of a folder: the controller reads no embeddings.
NO_ENCODER = "none"
_SONGS_FOLDER = "songs"


class ControllerTask(TrainTask):
    """Train the network that hears tracks and a reference, and sets the console."""

    name, step, section = "controller", "controller", ControllerTrainConfig.section
    module = "components.train.controller"
    files = FILES

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See `TrainTask`."""
        add = parser.add_argument
        add("--out", type=Path, required=True, help="folder for weights and state")
        add("--initial", type=Path, help="folder of a controller to start from")
        add(
            "--encoder",
            default=str(SHIPPED_ENCODER),
            help=f"folder of the encoder whose embeddings it reads; {NO_ENCODER}: it reads none",
        )
        add(
            "--references",
            dest="set",
            action="append",
            type=lambda where: f"{self.section}.references={json.dumps(where)}",
            metavar="FOLDER",
            help="folder or gs:// of finished mixes, the references of phases of method2",
        )

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """See `TrainTask`."""
        path = run(
            out_dir=args.out,
            config=ControllerTrainConfig.of_params(params, args.params),
            encoder=args.encoder,
            initial=args.initial,
        )
        log.info("wrote %s", path)

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """See `TrainTask`."""
        from mixprint.controller.checkpoint import load_controller
        from mixprint.controller.sources import DrawnExamples
        from mixprint.controller.training import train_controller
        from mixprint.encoder.checkpoint import load_checkpoint
        from mixprint.separation import load_separator

        config, out_dir = job.config(ControllerTrainConfig), Path(job.out_dir)
        encoder, initial = job.inputs.get("encoder"), job.inputs.get("initial")
        separator = None
        if config.examples.separated_share > 0:
            separator = load_separator(device=job.device)
        train, valid = (
            DrawnExamples(
                config.examples,
                out_dir / STATE_FOLDER / _SONGS_FOLDER,
                valid=is_valid,
                seed=config.seed,
                separate=None if separator is None else separator.separate,
                separator_fingerprint=""
                if separator is None
                else fingerprint(separator.fingerprint),
            )
            for is_valid in (False, True)
        )
        return train_controller(
            config,
            train=train,
            valid=valid,
            encoder=None if encoder is None else load_checkpoint(Path(encoder)),
            out_dir=out_dir,
            initial=None if initial is None else load_controller(Path(initial)),
            device=job.device,
            on_metrics=on_metrics,
        ).best

    def params(self, job: Job) -> Mapping[str, Any]:
        """See `TrainTask`."""
        return {name: job.inputs.get(name, "") for name in ("encoder", "initial")}


TASK = ControllerTask()


def run(
    *,
    out_dir: Path,
    config: ControllerTrainConfig,
    encoder: str = str(SHIPPED_ENCODER),
    initial: Path | None = None,
) -> Path:
    """Train a controller; a run that was killed goes on after its last saved state.

    Args:
        out_dir: receives weights, history and state.
        config: parameters of the training.
        encoder: folder of the encoder whose embeddings it reads, or `none`.
        initial: folder of a controller to start from.

    Returns:
        path of the weights.

    Raises:
        ConfigError: the controller to start from lies in `out_dir`, where it would be replaced.
        DataError: `out_dir` cannot be written, or files lie there that no training has written.
        TrainingError: a worker failed; the message is its own.
    """
    check_own_folder(out_dir, OUTPUTS)
    if initial is not None and out_dir.resolve() in (initial.resolve(), *initial.resolve().parents):
        raise ConfigError(
            f"initial: expected a controller outside of {shown(out_dir)}, where the training "
            f"replaces it, found {shown(initial)}; move it to another folder"
        )
    inputs = {} if encoder == NO_ENCODER else {"encoder": encoder}
    if initial is not None:
        inputs["initial"] = str(initial)
    with machine_at_work(out_dir, TASK.step) as (run_folder, _):
        start_ranks(
            TASK,
            run_folder,
            run_folder.path,
            config,
            inputs=inputs,
            recipe=[config.identity(), inputs],
        )
    return out_dir / FILES[0]
