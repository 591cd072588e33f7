"""Batches by the number of their step, read ahead by processes of their own.

What a step learns from follows from the seed and its number alone. The order is therefore the same
for any number of ranks and readers, which only divide the work, and a training can go on from any
step with others.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from mixprint.errors import MixprintError

BATCHES_AHEAD = 2  # that each reader prepares

Batch = TypeVar("Batch")


def derive_seed(*parts: object) -> int:
    """Mix a seed with what it is for, equal on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch wants it signed


def rank_rows(size: int, rank: int, world_size: int) -> slice:
    """Return a rank's consecutive rows of a batch; sizes differ by one at most."""
    return slice(rank * size // world_size, (rank + 1) * size // world_size)


class _ErrorsAsItems(Dataset[Any]):
    """Passes on what a data set gives, and the errors of users' files in place of items."""

    def __init__(self, examples: Dataset[Any]) -> None:
        self._examples = examples

    def __getitem__(self, step: int) -> Any:
        try:
            return self._examples[step]
        except MixprintError as error:
            # Raised in a reader it would come out with a traceback for a message.
            return error


def load_batches(
    examples: Dataset[Batch], steps: Iterable[int], *, num_workers: int, pinned: bool
) -> Iterator[Batch]:
    """Read this rank's batches in the order of the steps.

    Args:
        examples: item n is this rank's batch of step n.
        steps: which ones; there may be no end to them.
        num_workers: readers, which run ahead; 0 reads here.
        pinned: whether a GPU shall fetch the batches.

    Raises:
        MixprintError: the one that reading a batch raised.
    """
    loader = DataLoader(
        _ErrorsAsItems(examples),
        sampler=steps,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        collate_fn=_no_collate,
        pin_memory=pinned,
    )
    for batch in loader:
        if isinstance(batch, MixprintError):
            raise batch
        yield batch


def _no_collate(batch: Any) -> Any:
    return batch
