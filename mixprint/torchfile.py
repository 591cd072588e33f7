"""Files of `torch.save`, read without running what is in them."""

import pickle
from pathlib import Path
from typing import Any

import torch

from mixprint.errors import CheckpointError

# What the restricted unpickler raises on bytes that are no pickle depends on the bytes.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def read_plain(path: Path) -> Any:
    """Read a file of `torch.save` that holds nothing but tensors, to the CPU, and plain values.

    Raises:
        CheckpointError: it is unreadable, or holds anything that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of plain tensors, found: {error!r}"
        ) from error
