"""The state of a training on disk: the last two, so that one that is damaged costs little.

<folder>/state-0.pt, state-1.pt      written in turn
<folder>/state-0.json, state-1.json  step and SHA-256 of the state; without it there is no state
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_type_hints

import torch

from mixprint.checkpoints.torchfile import read_plain
from mixprint.errors import CheckpointError, DataError, TrainingError
from mixprint.fingerprint import file_sha256
from mixprint.schema import Count, Sha256, read_record
from mixprint.storage.atomic import atomic_path, remove_leftovers, write_json
from mixprint.storage.locks import locked
from mixprint.training.ranks import of_first_rank, rank_and_world

log = logging.getLogger("mixprint.training.state")

NUM_STATES = 2
LOCK_FILE = "lock"
# Processes that read for a training outlive it by some seconds when it is killed.
LOCK_PATIENCE_S = 30.0

# A TypedDict of tensors and plain values, `step: int` among them.
State = TypeVar("State", bound=Mapping[str, Any])


@dataclass(frozen=True, kw_only=True)
class _Marker:
    """Hash and step that vouch for a state."""

    step: Count
    sha256: Sha256


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Make sure that no other training works in this folder, for example one believed killed.

    Args:
        folder: of its states; created if it is missing.

    Raises:
        TrainingError: another one is at work there, and does not end within `LOCK_PATIENCE_S`.
        DataError: the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK_FILE, LOCK_PATIENCE_S))
        except TimeoutError as error:
            raise TrainingError(
                f"{folder}: expected to be the only training there, found another at work"
            ) from error
        yield


class StateFiles(Generic[State]):
    """The states of one training; only one process at a time may write them."""

    def __init__(self, folder: Path, kind: type[State]) -> None:
        """Look at nothing yet.

        Args:
            folder: created by the first save.
            kind: what a state holds.
        """
        self.folder = folder
        self._names: frozenset[str] = frozenset(get_type_hints(kind))
        self._newest: int | None = None
        self._steps: dict[int, int] = {}

    @property
    def newest_step(self) -> int | None:
        """The step of the newest whole state that this process knows of."""
        return None if self._newest is None else self._steps[self._newest]

    @property
    def oldest_step(self) -> int:
        """The step of the older whole state that this process knows of; 0 if there is none."""
        return min(self._steps.values(), default=0)

    def load(self) -> State | None:
        """Read the newest state that is whole.

        Returns:
            the state on the CPU, or None where none was ever saved.

        Raises:
            CheckpointError: states were saved, and none of them is whole.
        """
        found: list[tuple[int, int, str]] = []
        damages = []
        for slot in range(NUM_STATES):
            if not self._marker(slot).exists():
                continue
            try:
                marker = read_record(self._marker(slot), _Marker)
            except DataError as error:
                damages.append(str(error))
            else:
                found.append((marker.step, slot, marker.sha256))
        state: State | None = None
        for step, slot, expected in sorted(found, reverse=True):
            if state is not None:
                self._steps[slot] = step
                continue
            path = self._path(slot)
            try:
                digest = file_sha256(path)
                if digest != expected:
                    raise CheckpointError(f"{path}: expected SHA-256 {expected}, found {digest}")
                state = self._whole(read_plain(path), path)
            except (CheckpointError, DataError) as error:
                damages.append(str(error))
                continue
            self._newest, self._steps[slot] = slot, step
        if state is None and damages:
            raise CheckpointError(
                f"{self.folder}: expected a whole state to go on from, found none; to start anew "
                f"remove the folder. {'; '.join(damages)}"
            )
        for damage in damages:
            log.warning("%s: goes on from the state before", damage)
        return state

    def load_for_all(self, device: torch.device) -> State | None:
        """Read the newest whole state on the first rank and give it to all; call it on every rank.

        So nobody else needs to see the folder, and all go on from the same state.

        Args:
            device: of this rank.

        Returns:
            the state on the CPU, or None where none was ever saved.

        Raises:
            CheckpointError: on the first rank, see `load`.
        """
        return of_first_rank(self.load() if rank_and_world()[0] == 0 else None, device)

    def save(self, state: State) -> None:
        """Write a state in place of the older one, or of one of the same step.

        Args:
            state: of the training.

        Raises:
            TrainingError: it cannot be written, for example because the disk is full; the newest
                state stays as it is.
        """
        step: int = state["step"]
        slot = self._newest or 0
        if self.newest_step not in (None, step):
            slot = (slot + 1) % NUM_STATES
        path, marker = self._path(slot), self._marker(slot)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for target in (path, marker):
                remove_leftovers(target)
            with atomic_path(path) as temporary:
                torch.save(dict(state), temporary)
                digest = file_sha256(temporary)
                marker.unlink(missing_ok=True)
            write_json(marker, {"step": step, "sha256": digest})
        # torch tells of a full disk as a RuntimeError.
        except (OSError, RuntimeError, DataError) as error:
            kept = "none" if self._newest is None else f"that of step {self.newest_step}"
            raise TrainingError(
                f"{path}: expected to save the state of step {step}, found: {error}; the state "
                f"that is kept: {kept}"
            ) from error
        self._newest, self._steps[slot] = slot, step

    def _path(self, slot: int) -> Path:
        return self.folder / f"state-{slot}.pt"

    def _marker(self, slot: int) -> Path:
        return self.folder / f"state-{slot}.json"

    def _whole(self, state: Any, path: Path) -> State:
        """Refuse a state that lacks something, for example one of another version of mixprint."""
        if not isinstance(state, dict):
            raise CheckpointError(
                f"{path}: expected the state of a training, found {type(state).__name__}"
            )
        if missing := sorted(self._names - state.keys()):
            raise CheckpointError(
                f"{path}: expected a state with {', '.join(sorted(self._names))}, found none of "
                f"{', '.join(missing)}"
            )
        return cast("State", state)
