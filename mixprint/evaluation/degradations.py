"""Known damage to a mix: four faults of a mixing engineer, each from harmless to severe.

They act on stems, as the encoder hears them, and keep each stem's level: a fault should be heard
by what it does, not by a mix that became quieter or louder.

Shape suffixes: S stem, C channel, T sample.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.stems import STEMS
from mixprint.synthesis import exact

Signal = NDArray[np.float64]

# What the greatest severity is; the others lie evenly below it, on a scale of decibels.
CLIPPED_DB = 24.0  # of the peaks
SIGNAL_TO_NOISE_DB = (50.0, 10.0)  # at the least severity, and at the greatest
MASKING_HZ, MASKING_DB = 2500.0, 12.0
REDUCTION_DB = 30.0  # of the peaks, by a compressor that hardly lets anything through
RATIO, ATTACK_S, RELEASE_S = 20.0, 0.001, 0.05


def degrade(stems_SCT: Tensor, kind: str, severity: float, *, seed: int) -> Tensor:
    """Damage a mix.

    Args:
        stems_SCT: stems in the order of `STEMS` at 44.1 kHz.
        kind: a key of `DEGRADATIONS`.
        severity: 0 (nothing is changed, to the bit) to 1.
        seed: of the noise.

    Raises:
        ValueError: the kind is unknown, or the severity lies outside 0..1.
    """
    if kind not in DEGRADATIONS or not 0 <= severity <= 1:
        raise ValueError(f"expected one of {list(DEGRADATIONS)} at 0..1, got {kind!r}, {severity}")
    if severity == 0:
        return stems_SCT
    before_SCT = stems_SCT.double().cpu().numpy()
    after_SCT = DEGRADATIONS[kind](before_SCT, severity, seed)
    level_S11 = _rms(before_SCT) / np.maximum(_rms(after_SCT), np.finfo(np.float64).tiny)
    return torch.from_numpy(after_SCT * level_S11).to(stems_SCT)


def _rms(stems_SCT: Signal) -> Signal:
    return np.sqrt((stems_SCT**2).mean(axis=(1, 2), keepdims=True))


def _clip(stems_SCT: Signal, severity: float, _seed: int) -> Signal:
    """Cut off the peaks of each stem."""
    limit_S11 = np.abs(stems_SCT).max(axis=(1, 2), keepdims=True) * exact.gain(
        -CLIPPED_DB * severity
    )
    return stems_SCT.clip(-limit_S11, limit_S11)


def _noise(stems_SCT: Signal, severity: float, seed: int) -> Signal:
    """Add white noise to each stem."""
    low, high = SIGNAL_TO_NOISE_DB
    noise_SCT = np.random.default_rng(seed).standard_normal(stems_SCT.shape)
    return stems_SCT + noise_SCT * _rms(stems_SCT) * exact.gain(-(low + (high - low) * severity))


def _mask(stems_SCT: Signal, severity: float, _seed: int) -> Signal:
    """Take from the vocals the range that makes them clear, and give it to all others."""
    vocals = STEMS.index("vocals")
    change_db = MASKING_DB * severity
    after_SCT = exact.filtered(stems_SCT, exact.peak(MASKING_HZ, change_db))
    after_SCT[vocals] = exact.filtered(stems_SCT[vocals], exact.peak(MASKING_HZ, -change_db))
    return after_SCT


def _compress(stems_SCT: Signal, severity: float, _seed: int) -> Signal:
    """Flatten the sum; its gain curve acts on every stem."""
    side_chain_T = np.abs(stems_SCT.sum(axis=0)).max(axis=0)
    peak_dbfs = 20 * np.log10(max(float(side_chain_T.max()), 1e-6))
    threshold_db = float(peak_dbfs) - REDUCTION_DB * severity
    return stems_SCT * exact.compression_gain(
        side_chain_T, threshold_db, RATIO, ATTACK_S, RELEASE_S
    )


DEGRADATIONS: Mapping[str, Callable[[Signal, float, int], Signal]] = {
    "clipping": _clip,
    "noise": _noise,
    "masking": _mask,
    "over-compression": _compress,
}
