"""Inputs of both networks of an encoder.

Shape suffixes: B batch, S stem, C audio channel, T sample.
"""

from torch import Tensor

from mixprint.encoder.settings import MIN_SEGMENT_S
from mixprint.stems import NUM_CHANNELS, NUM_STEMS


def check_stems(stems_BSCT: Tensor, min_samples: int) -> None:
    """Refuse what are no stereo stems, and segments that are too short.

    Raises:
        ValueError: the shape does not fit.
    """
    if stems_BSCT.ndim != 4 or stems_BSCT.shape[1:3] != (NUM_STEMS, NUM_CHANNELS):
        raise ValueError(
            f"stems_BSCT must be (B, {NUM_STEMS}, {NUM_CHANNELS}, T), got {tuple(stems_BSCT.shape)}"
        )
    if stems_BSCT.shape[-1] < min_samples:
        raise ValueError(
            f"stems_BSCT must last at least {MIN_SEGMENT_S} s ({min_samples} samples), "
            f"got {stems_BSCT.shape[-1]}"
        )
