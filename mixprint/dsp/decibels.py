"""Gains in decibels as factors, and limits to them."""

import torch
from torch import Tensor

NEPER_PER_DB = 0.11512925464970229  # ln(10) / 20


def amplitude(level_db: Tensor) -> Tensor:
    """Return the factor of a level in dB."""
    return torch.pow(10.0, level_db / 20)


def limited(value: Tensor, limit: float) -> Tensor:
    """Keep a value within +-limit, with slope one at zero."""
    return limit * torch.tanh(value / limit)
