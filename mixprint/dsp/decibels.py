"""Gains in decibels as factors, and limits to them."""

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEPER_PER_DB = 0.11512925464970229  # ln(10) / 20


@overload
def amplitude(level_db: float) -> float: ...
@overload
def amplitude(level_db: Tensor) -> Tensor: ...
@overload
def amplitude(level_db: NDArray[np.float64]) -> NDArray[np.float64]: ...
def amplitude(level_db: Any) -> Any:
    """Return the factor of a level in dB."""
    return 10.0 ** (level_db / 20)


def limited(value: Tensor, limit: float) -> Tensor:
    """Keep a value within +-limit, with slope one at zero."""
    return limit * torch.tanh(value / limit)
