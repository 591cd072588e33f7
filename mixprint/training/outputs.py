"""Files of a training in its folder.

<folder>/state/<identity>/           the last two states, for a resumption
<folder>/checkpoint_epoch_<N>/       weights of the last epochs, where some are kept
<folder>/best_model/                 weights of the best epoch so far, by validation
<folder>/final_model/                weights of the last epoch, when the training has ended
<folder>/...                         the best weights once more, when the training has ended
<folder>/history.json                figures of every epoch
<folder>/logs/                       TensorBoard
"""

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from mixprint.errors import DataError
from mixprint.fingerprint import fingerprint
from mixprint.storage.atomic import TEMPORARY_PREFIX, read_json, write_json
from mixprint.storage.folders import whole_folder
from mixprint.storage.outputs import check_place
from mixprint.text import first_of, shown
from mixprint.training.state import StateFiles
from mixprint.training.task import Task, Weights

STATE_FOLDER = "state"
BEST_FOLDER = "best_model"
FINAL_FOLDER = "final_model"
LOGS_FOLDER = "logs"
HISTORY_NAME = "history.json"
IDENTITY_NAME = "identity.json"
_EPOCH_FOLDER = re.compile(r"checkpoint_epoch_(\d+)")
_IDENTITY_DIGITS = 16
_IDENTITY_FOLDER = re.compile(rf"[0-9a-f]{{{_IDENTITY_DIGITS}}}")

Entry = Mapping[str, float]


class TrainingState(TypedDict):
    """Everything that a training needs to go on.

    Attributes:
        step: how many steps were taken.
        parts: weights of the networks.
        averages: averaged weights, of those that have some.
        optimizers: states of their optimisers.
        progress: what else changes in the engine.
        memory: what else changes in the task.
    """

    step: int
    parts: dict[str, dict[str, Tensor]]
    averages: dict[str, dict[str, Tensor]]
    optimizers: dict[str, list[dict[str, Any]]]
    progress: dict[str, Any]
    memory: dict[str, Any]


class TrainingOutputs:
    """The files of one training; only one process at a time may write them."""

    def __init__(self, folder: Path, task: Task[Any], log: logging.Logger) -> None:
        """Look at nothing yet.

        Args:
            folder: of the training.
            task: tells its identity, and writes weights.
            log: of the training.
        """
        self.folder = folder
        self._task, self._log = task, log
        self._identity = dict(task.identity())
        name = fingerprint(self._identity)[:_IDENTITY_DIGITS]
        self._state_folder = folder / STATE_FOLDER / name
        self.states = StateFiles(self._state_folder, TrainingState)

    def remove_leftovers(self) -> None:
        """Remove what a killed run was just writing."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def start_anew(self) -> None:
        """Remove what a training of another identity has left.

        Its checkpoints would be taken for those of this one. The weights at the top stay until
        this training has a better right to their place.
        """
        others = known_identities(self.folder)
        others.pop(self._state_folder, None)
        self._task.replace(others)
        if others:
            self._log.warning(
                "%s: other data, parameters or code; training starts anew",
                self._state_folder.parent,
            )
        for path in [*others, *self._checkpoints().values()]:
            _remove_folder(path)
        for name in (BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER):
            _remove_folder(self.folder / name)
        (self.folder / HISTORY_NAME).unlink(missing_ok=True)
        self._state_folder.mkdir(parents=True, exist_ok=True)
        write_json(self._state_folder / IDENTITY_NAME, self._identity)

    def write_epoch(self, weights: Weights, entry: Entry) -> None:
        """Write the weights of an epoch that has just ended; remove what is too old."""
        keep = self._task.plan.keep_checkpoints
        if keep == 0:
            return
        self._write(f"checkpoint_epoch_{entry['epoch']}", weights, entry)
        checkpoints = self._checkpoints()
        for old in sorted(checkpoints)[:-keep]:
            _remove_folder(checkpoints[old])

    def write_best(self, weights: Weights, entry: Entry) -> None:
        """Write the weights of the best epoch so far."""
        self._write(BEST_FOLDER, weights, entry)

    def write_history(self, history: Sequence[Entry]) -> None:
        """Write the figures of all epochs."""
        write_json(self.folder / HISTORY_NAME, list(history))

    def write_last(self, weights: Weights, entry: Entry) -> None:
        """Write the weights of the last epoch."""
        self._write(FINAL_FOLDER, weights, entry)
        self._task.export_last(self.folder, weights, entry)

    def write_result(self, weights: Weights, entry: Entry) -> None:
        """Write the best weights of a training that has ended where others look for them."""
        self._task.export(self.folder, weights, entry)

    def _write(self, name: str, weights: Weights, entry: Entry) -> None:
        with whole_folder(self.folder / name) as temporary:
            self._task.export(temporary, weights, entry)

    def _checkpoints(self) -> dict[int, Path]:
        found = {path: _EPOCH_FOLDER.fullmatch(path.name) for path in self.folder.glob("*")}
        return {int(match[1]): path for path, match in found.items() if match}


def known_identities(folder: Path) -> dict[Path, dict[str, Any]]:
    """Find the states in the folder of a training.

    Returns:
        the identity of each folder of states; empty where it is unknown.
    """
    found = {}
    for path in sorted((folder / STATE_FOLDER).glob("*")):
        if path.is_dir() and _IDENTITY_FOLDER.fullmatch(path.name):
            identity = path / IDENTITY_NAME
            found[path] = read_json(identity) if identity.exists() else {}
    return found


def _remove_folder(folder: Path) -> None:
    """Remove a folder by a rename first, so that nobody ever finds the half of it."""
    if folder.exists():
        doomed = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def check_own_folder(out_dir: Path, outputs: Sequence[str]) -> None:
    """Refuse a folder where a training would write over somebody's files.

    Args:
        out_dir: of the results.
        outputs: names of what the training leaves there.

    Raises:
        DataError: it cannot be written, or such files lie there and no training of theirs.
    """
    check_place(out_dir, is_folder=True)
    theirs = [shown(Path(name)) for name in outputs if os.path.lexists(out_dir / name)]
    if theirs and not (out_dir / STATE_FOLDER).is_dir():
        raise DataError(
            f"{shown(out_dir)}: expected a new folder or that of a training, found "
            f"{first_of(theirs, ', ')} and no {STATE_FOLDER}/; choose another folder"
        )
