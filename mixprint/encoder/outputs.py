"""What a training leaves in its folder.

<folder>/state/<identity>/           the last two states, for a resumption
<folder>/checkpoint_epoch_<N>/       encoders of the last epochs
<folder>/best_model/                 encoder of the best epoch so far, by validation retrieval
<folder>/final_model/                encoder of the last epoch, when the training has ended
<folder>/weights.safetensors         the best encoder once more, when the training has ended:
<folder>/config.json                   what the steps after this one read
<folder>/history.json                metrics of every epoch
<folder>/logs/                       TensorBoard
"""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from mixprint.encoder.checkpoint import save_checkpoint
from mixprint.encoder.model import MixEncoder
from mixprint.features import Standardisation
from mixprint.storage.atomic import TEMPORARY_PREFIX, write_json
from mixprint.storage.folders import whole_folder
from mixprint.training.state import StateFiles

log = logging.getLogger("mixprint.encoder")

STATE_FOLDER = "state"
BEST_FOLDER = "best_model"
FINAL_FOLDER = "final_model"
LOGS_FOLDER = "logs"
HISTORY_NAME = "history.json"
TIMES = frozenset({"epoch_s", "train_segments_per_s"})
_EPOCH_FOLDER = re.compile(r"checkpoint_epoch_(\d+)")
_IDENTITY_DIGITS = 16


class TrainingState(TypedDict):
    """Everything that a training of an encoder needs to go on.

    Attributes:
        step: how many steps were taken.
        model: weights of the network and its temperature.
        optimizer: its state.
        progress: what else changes.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: dict[str, Any]


class TrainingOutputs:
    """The files of one training; only one process at a time may write them."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        keep_checkpoints: int,
        standardisation: Standardisation,
        metadata: Mapping[str, Any],
    ) -> None:
        """Look at nothing yet.

        Args:
            folder: of the training.
            identity: hash of all that the training computes from.
            keep_checkpoints: encoders of so many of the last epochs stay.
            standardisation: of the features, for every encoder.
            metadata: for every encoder, beside its epoch and metrics.
        """
        self.folder = folder
        self._state_folder = folder / STATE_FOLDER / identity[:_IDENTITY_DIGITS]
        self.states = StateFiles(self._state_folder, TrainingState)
        self._keep_checkpoints = keep_checkpoints
        self._standardisation, self._metadata = standardisation, dict(metadata)

    def remove_leftovers(self) -> None:
        """Remove what a killed run was just writing."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def start_anew(self) -> None:
        """Remove what a training of other data, parameters or code has left.

        Its checkpoints would be taken for those of this one. The encoder at the top stays until
        this training has a better right to its place.
        """
        others = [
            path
            for path in self._state_folder.parent.glob("*")
            if path.is_dir() and path != self._state_folder
        ]
        if others:
            log.warning(
                "%s: other data, parameters or code; training starts anew", others[0].parent
            )
        for path in [*others, *self._checkpoints().values()]:
            _remove_folder(path)
        for name in (BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER):
            _remove_folder(self.folder / name)
        (self.folder / HISTORY_NAME).unlink(missing_ok=True)

    def write_epoch(self, epoch: int, encoder: MixEncoder, metrics: Mapping[str, float]) -> None:
        """Write the encoder of an epoch that has just ended; remove what is too old."""
        if self._keep_checkpoints == 0:
            return
        self._write(self.folder / f"checkpoint_epoch_{epoch}", encoder, epoch, metrics)
        checkpoints = self._checkpoints()
        for old in sorted(checkpoints)[: -self._keep_checkpoints]:
            _remove_folder(checkpoints[old])

    def write_best(self, epoch: int, encoder: MixEncoder, metrics: Mapping[str, float]) -> None:
        """Write the encoder of the best epoch so far."""
        self._write(self.folder / BEST_FOLDER, encoder, epoch, metrics)

    def write_history(self, history: list[dict[str, float]]) -> None:
        """Write the metrics of all epochs."""
        write_json(self.folder / HISTORY_NAME, history)

    def write_final(self, epoch: int, encoder: MixEncoder, metrics: Mapping[str, float]) -> None:
        """Write the encoder of the last epoch."""
        self._write(self.folder / FINAL_FOLDER, encoder, epoch, metrics)

    def write_result(self, epoch: int, encoder: MixEncoder, metrics: Mapping[str, float]) -> None:
        """Write the best encoder of a training that has ended where the next steps look for it."""
        self._save(self.folder, encoder, epoch, metrics)

    def _write(
        self, folder: Path, encoder: MixEncoder, epoch: int, metrics: Mapping[str, float]
    ) -> None:
        with whole_folder(folder) as temporary:
            self._save(temporary, encoder, epoch, metrics)

    def _save(
        self, folder: Path, encoder: MixEncoder, epoch: int, metrics: Mapping[str, float]
    ) -> None:
        # Equal trainings give equal files, so how long they took stays in the history.
        kept = {name: value for name, value in metrics.items() if name not in TIMES}
        metadata = {**self._metadata, "epoch": epoch, "metrics": kept}
        save_checkpoint(folder, encoder, self._standardisation, metadata)

    def _checkpoints(self) -> dict[int, Path]:
        found = {path: _EPOCH_FOLDER.fullmatch(path.name) for path in self.folder.glob("*")}
        return {int(match[1]): path for path, match in found.items() if match}


def _remove_folder(folder: Path) -> None:
    """Remove a folder by a rename first, so that nobody ever finds the half of it."""
    if folder.exists():
        doomed = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
