"""Files of what a training has measured once, beside its states."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from mixprint.checkpoints.torchfile import read_tensors
from mixprint.errors import CheckpointError, TrainingError
from mixprint.training.ranks import barrier, rank_and_world

MEASURED_FOLDER = "measured"  # among the states


def read_measured(path: Path, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Read what was measured.

    Raises:
        TrainingError: a file is broken, or one of the names is missing.
    """
    try:
        tensors = read_tensors(path)
        if not tensors.keys() >= set(names):
            raise CheckpointError(f"{path}: expected {names[0]} and others in it")
    except CheckpointError as error:
        raise TrainingError(f"{path}: expected what was measured, found: {error}") from error
    return tensors


def own_share(missing: Iterable[int]) -> list[int]:
    """Divide what has to be measured over the ranks; all of them call it before any measures.

    A rank that looked later would miss what another one has measured meanwhile, and divide fewer.
    """
    numbers = list(missing)
    barrier()
    rank, world_size = rank_and_world()
    return numbers[rank::world_size]
