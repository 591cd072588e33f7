"""Parts of a stem: their sum, level and common distortion. All output is exact (see `exact`).

Shape suffixes: C channel, T sample.
"""

from collections.abc import Mapping

import numpy as np

from mixprint.synthesis import exact
from mixprint.synthesis.exact import Signal, samples, scalar

# Signals that add up to a stem, by the names of their tracks.
Parts = Mapping[str, Signal]


def total(parts: Parts, num_samples: int) -> Signal:
    """Add parts up in their order, which the last bit depends on; returns signal_CT."""
    total_CT = np.zeros((2, num_samples))
    for part_CT in parts.values():
        total_CT += part_CT
    return total_CT


def levelled(x_CT: Signal) -> Signal:
    """Bring the RMS of the louder half of the 0.1 s blocks to 1."""
    return x_CT * level_factor(x_CT)


def level_factor(x_CT: Signal) -> float:
    """Return the factor that `levelled` applies; 1 for silence."""
    block = samples(0.1)
    num_blocks = x_CT.shape[1] // block
    square = (x_CT[0] * x_CT[0] + x_CT[1] * x_CT[1])[: num_blocks * block]
    power = np.sort(np.cumsum(square.reshape(num_blocks, block), axis=1)[:, -1])[num_blocks // 2 :]
    mean = exact.total(power) / (2 * block * max(1, len(power)))
    return 1.0 if mean < 1e-12 else scalar(mean**-0.5)


def add_sound(track: Signal, start_s: float, sound: Signal) -> None:
    """Add a sound to a track in place; what hangs over the end is cut off."""
    start = samples(start_s)
    stop = min(start + sound.shape[-1], track.shape[-1])
    if stop > start:
        track[..., start:stop] += sound[..., : stop - start]


def driven(x: Signal, drive: float) -> Signal:
    """Distort softly: x / (1 + |x|)."""
    x = x * drive
    return x / (1.0 + np.abs(x))


def driven_together(parts: Parts, drive: float) -> dict[str, Signal]:
    """Distort the sum of parts; each gets the gain that the sum has from moment to moment."""
    total_CT = sum(parts.values())
    fall_CT = 1.0 + np.abs(total_CT * drive)
    return {name: part_CT * drive / fall_CT for name, part_CT in parts.items()}
