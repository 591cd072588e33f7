"""The four stems and their order.

Shape suffixes: S stem, C channel, T sample; leading dimensions are free.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

STEMS = ("vocals", "bass", "drums", "other")
NUM_STEMS = len(STEMS)
NUM_CHANNELS = 2
SAMPLE_RATE_HZ = 44_100


def pack(stems_CT: Mapping[str, Tensor]) -> Tensor:
    """Stack named stems in the one order that is used everywhere.

    Args:
        stems_CT: one tensor of equal shape per name in `STEMS`.

    Returns:
        stems_SCT, stem axis first, in the order of `STEMS`.

    Raises:
        ValueError: a stem is missing, unknown, or of another shape than the first.
    """
    if set(stems_CT) != set(STEMS):
        raise ValueError(f"stems must be exactly {STEMS}, got {tuple(stems_CT)}")
    shapes = {name: tuple(stem.shape) for name, stem in stems_CT.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"stems must have one shape, got {shapes}")
    return torch.stack([stems_CT[name] for name in STEMS])


def unpack(stems_SCT: Tensor) -> dict[str, Tensor]:
    """Name the stems again: the inverse of `pack`.

    Raises:
        ValueError: the first axis does not hold one entry per stem.
    """
    if stems_SCT.shape[0] != NUM_STEMS:
        raise ValueError(f"expected {NUM_STEMS} stems on axis 0, got {tuple(stems_SCT.shape)}")
    return dict(zip(STEMS, stems_SCT, strict=True))
