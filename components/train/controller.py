"""The task `controller`: songs made on the fly in, a network that sets the console out.

`python -m components.train --task controller --profile representation --out DIR`

With `--pairs RAW MIXED` it learns from an engineer's own raw tracks and mixes instead.
"""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.run_folder import RunFolder
from components.train.job import (
    STATE_FOLDER,
    Job,
    MetricsCallback,
    TrainTask,
    machine_at_work,
    start_ranks,
)
from mixprint.controller.outputs import FILES, OUTPUTS, check_initial
from mixprint.controller.settings import ControllerTrainConfig, TrainParameters
from mixprint.fingerprint import fingerprint
from mixprint.training.outputs import check_own_folder
from mixprint.weights import SHIPPED_ENCODER

if TYPE_CHECKING:
    from mixprint.controller.own_style import OwnStyleConfig

log = logging.getLogger("mixprint.train")

# Instead of a folder: the controller reads no embeddings.
NO_ENCODER = "none"
_SONGS_FOLDER = "songs"
# Among the inputs: the folder in which the settings of pairs were found.
PAIRS = "pairs"


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
        add(
            "--pairs",
            type=Path,
            nargs=2,
            metavar=("RAW", "MIXED"),
            help="learn how one engineer mixes, from folders of tracks and of their mixes; starts "
            "at --initial, or at the shipped controller (none: from scratch), with the "
            "parameters of mixprint/controller/own_style.yaml, whatever the profile",
        )

    def read_params(self, args: argparse.Namespace) -> Mapping[str, Any]:
        """See `TrainTask`."""
        if args.pairs is None:
            return super().read_params(args)
        from mixprint.controller.own_style import own_style_params

        return own_style_params(args.config, args.set)

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """See `TrainTask`."""
        given = {"out_dir": args.out, "encoder": args.encoder, "initial": args.initial}
        if args.pairs is None:
            path = run(config=ControllerTrainConfig.of_params(params, args.params), **given)
        else:
            from mixprint.controller.own_style import PARAMETERS, OwnStyleConfig

            config = OwnStyleConfig.of_params(params, PARAMETERS)
            path = run_pairs(*args.pairs, config=config, **given)
        log.info("wrote %s", path)

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """See `TrainTask`."""
        if PAIRS in job.inputs:
            return _train_on_pairs(job, on_metrics)
        from mixprint.controller.checkpoint import load_controller
        from mixprint.controller.sources import DrawnExamples
        from mixprint.controller.training import TrainingSetup, train_controller
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
        setup = TrainingSetup(
            config=config,
            train=train,
            valid=valid,
            encoder=None if encoder is None else load_checkpoint(Path(encoder)),
            out_dir=out_dir,
            initial=None if initial is None else load_controller(Path(initial)),
        )
        return train_controller(setup, device=job.device, on_metrics=on_metrics).best

    def params(self, job: Job) -> Mapping[str, Any]:
        """See `TrainTask`."""
        return {name: job.inputs.get(name, "") for name in ("encoder", "initial", PAIRS)}


def _train_on_pairs(job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
    from mixprint.controller.checkpoint import load_controller
    from mixprint.controller.own_style import OwnStyleConfig, learn_style, read_fits
    from mixprint.encoder.checkpoint import load_checkpoint

    initial = load_controller(job.folder("initial")) if "initial" in job.inputs else None
    # From scratch it reads no embeddings, and a controller to start from decides it.
    has_encoder = initial is not None and initial.encoder_fingerprint and "encoder" in job.inputs
    return learn_style(
        read_fits(job.folder(PAIRS)),
        job.config(OwnStyleConfig),
        Path(job.out_dir),
        initial=initial,
        encoder=load_checkpoint(job.folder("encoder")) if has_encoder else None,
        device=job.device,
        on_metrics=on_metrics,
    ).best


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
    inputs = _inputs(out_dir, encoder, initial)
    with machine_at_work(out_dir, TASK.step) as (run_folder, _):
        return _train(run_folder, config, inputs)


def run_pairs(
    raw: Path,
    mixed: Path,
    *,
    out_dir: Path,
    config: "OwnStyleConfig",
    encoder: str = str(SHIPPED_ENCODER),
    initial: Path | None = None,
) -> Path:
    """Train a controller on an engineer's own pairs; see `mixprint.controller.own_style`.

    The settings of each pair are found first, by this process; each is kept.

    Args:
        raw: tracks, or folders of them.
        mixed: their mixes.
        out_dir: receives fits, weights, history and state.
        config: parameters of the training.
        encoder: of the controller to start from, if that reads embeddings.
        initial: folder of a controller to start from, or `none` for a small one from scratch; None
            for the shipped one, or from scratch where none is shipped.

    Returns:
        path of the weights.

    Raises:
        ConfigError, DataError, TrainingError: see `run` and `fit_folders`.
    """
    from mixprint.controller.own_style import fit_folders
    from mixprint.controller.shipped import DEFAULT_START, start_folder

    begin = start_folder(DEFAULT_START if initial is None else str(initial))
    inputs = _inputs(out_dir, encoder, begin) | {PAIRS: str(out_dir)}
    with machine_at_work(out_dir, TASK.step) as (run_folder, _):
        fits, refused = fit_folders(raw, mixed, out_dir, config)
        log.info("%d pairs are learned from, %d left out", len(fits), len(refused))
        return _train(run_folder, config, inputs, [fit.recipe for fit in fits])


def _train(
    run_folder: RunFolder, config: TrainParameters, inputs: Mapping[str, str], *made_of: list[str]
) -> Path:
    """Train in a run; what the result depends on beside its inputs is `made_of`."""
    recipe = [config.identity(), inputs, *made_of]
    start_ranks(TASK, run_folder, run_folder.path, config, inputs=inputs, recipe=recipe)
    return run_folder.path / FILES[0]


def _inputs(out_dir: Path, encoder: str, initial: Path | None) -> dict[str, str]:
    """Name what a training reads beside its examples.

    Raises:
        ConfigError: the controller to start from would be replaced.
    """
    inputs = {} if encoder == NO_ENCODER else {"encoder": encoder}
    if initial is not None:
        check_initial(initial, out_dir)
        inputs["initial"] = str(initial)
    return inputs
