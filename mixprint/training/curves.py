"""Curves of a training for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self


class ScalarLog:
    """Scalars by step; what a killed run has logged beyond its state is taken back.

    `tensorboard --logdir <folder>` shows them.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Open the log.

        Args:
            folder: takes one more file each time that a training is resumed.
            step: the last one that counts; older files may hold later ones.
        """
        # Only one process of a training needs it, and it takes half a second to import.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def __enter__(self) -> Self:
        """Use it as a context, so that all is written at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by name; a name's part before the first `.` is its group."""
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, step)

    def flush(self) -> None:
        """Write all to disk, so that a state that is saved next never knows more than the log."""
        self._writer.flush()
