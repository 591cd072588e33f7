"""Train a separator: songs with true stems in, weights that every step can load out.

`python -m components.train --task separator --data DIR --out DIR`
"""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.train.launch import start_workers
from mixprint.audio import shown
from mixprint.errors import ConfigError, DataError
from mixprint.log import setup_logging
from mixprint.outputs import check_place
from mixprint.separation.recipe import Recipe
from mixprint.separation.training import OUTPUTS, STATE_FOLDER, WEIGHTS_FILE
from mixprint.text import first_of

log = logging.getLogger("mixprint.train")

WORKER = "components.train.separator_worker"


@dataclass(frozen=True, kw_only=True)
class SeparatorJob:
    """What the worker processes have to do; passed to them as a JSON file.

    Attributes:
        recipe: the training.
        data_dir: the songs; empty: they are made while the training goes on.
        out_dir: receives weights, history and state.
        device: where to compute.
        extra_valid: name -> folder of more songs to validate on.
        initial: checkpoint to start from; empty: fresh weights.
        initial_config: its configuration, where it needs one.
    """

    recipe: Mapping[str, Any]
    data_dir: str
    out_dir: str
    device: str
    extra_valid: Mapping[str, str]
    initial: str
    initial_config: str


def run(
    *,
    out_dir: Path,
    recipe: Recipe,
    data_dir: Path | None = None,
    num_processes: int = 1,
    device: str = "auto",
    extra_valid: Mapping[str, Path] | None = None,
    initial: Path | None = None,
    initial_config: Path | None = None,
) -> Path:
    """Train a separator; a run that was killed goes on after its last saved state.

    Args:
        out_dir: receives weights, history and state.
        recipe: the training.
        data_dir: songs in MUSDB18-HQ's layout; None: they are made while the training goes on.
        num_processes: ranks on this machine, on GPUs one each.
        device: see `mixprint.device.resolve_device`.
        extra_valid: name -> folder of more songs to validate on.
        initial: checkpoint to start from.
        initial_config: its configuration, where it needs one.

    Returns:
        path of the weights.

    Raises:
        ConfigError: the batch cannot be divided among the processes.
        DataError: `out_dir` cannot be written, or files lie there that no training has written.
        TrainingError: a worker failed; the message is its own.
    """
    if num_processes < 1 or recipe.training.batch_size % num_processes:
        raise ConfigError(
            f"training.batch_size: expected a multiple of the number of processes, found "
            f"{recipe.training.batch_size} and {num_processes}"
        )
    _check_folder(out_dir)
    job = SeparatorJob(
        recipe=recipe.to_values(),
        data_dir=_text(data_dir),
        out_dir=str(out_dir),
        device=device,
        extra_valid={name: str(folder) for name, folder in (extra_valid or {}).items()},
        initial=_text(initial),
        initial_config=_text(initial_config),
    )
    start_workers(WORKER, asdict(job), out_dir / STATE_FOLDER, num_processes)
    return out_dir / WEIGHTS_FILE


def _check_folder(out_dir: Path) -> None:
    """Refuse a folder where a training would write over somebody's files."""
    check_place(out_dir, is_folder=True)
    theirs = [shown(Path(name)) for name in OUTPUTS if os.path.lexists(out_dir / name)]
    if theirs and not (out_dir / STATE_FOLDER).is_dir():
        raise DataError(
            f"{shown(out_dir)}: expected a new folder or that of a training, found "
            f"{first_of(theirs, ', ')} and no {STATE_FOLDER}/; choose another folder"
        )


def _text(path: Path | None) -> str:
    return "" if path is None else str(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m components.train --task separator",
        description="Train a separator on songs with true stems.",
    )
    songs = parser.add_mutually_exclusive_group(required=True)
    songs.add_argument("--data", type=Path, help="songs in MUSDB18-HQ's layout")
    songs.add_argument(
        "--generate", action="store_true", help="make songs while the training goes on"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and state")
    parser.add_argument(
        "--recipe", type=Path, action="append", default=[], help="YAML, laid over the default one"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="laid over the recipe, for example training.max_minutes=30.0",
    )
    parser.add_argument("--processes", type=int, default=1, help="ranks; on GPUs one each")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--valid", action="append", default=[], metavar="NAME=DIR", help="more songs to validate on"
    )
    parser.add_argument("--initial", type=Path, help="checkpoint to start from")
    parser.add_argument("--initial-config", type=Path, help="its configuration")
    args = parser.parse_args(arguments)
    setup_logging()
    path = run(
        out_dir=args.out,
        recipe=Recipe.load(args.recipe, args.set),
        data_dir=args.data,
        num_processes=args.processes,
        device=args.device,
        extra_valid=dict(_named_folder(text) for text in args.valid),
        initial=args.initial,
        initial_config=args.initial_config,
    )
    log.info("wrote %s", path)


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"--valid: expected NAME=DIR, found {text!r}")
    return name, Path(folder)
