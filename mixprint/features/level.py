"""Level, crest factor and stereo image of a stereo signal.

Shape suffixes: C channel (left, right), T sample; `...` leading dimensions are free.
"""

import torch
from torch import Tensor

from mixprint.features.schema import RATIO_FLOOR, SILENCE_POWER


def rms_db(power: Tensor) -> Tensor:
    """Convert a mean square to dBFS; silence reads -80."""
    return 10 * (power + SILENCE_POWER).log10()


def crest_db(peak: Tensor, power: Tensor) -> Tensor:
    """Divide the sample peak by the RMS, in dB; silence and DC read 0."""
    return rms_db(peak.square()) - rms_db(power)


def power_ratio_db(upper: Tensor, lower: Tensor) -> Tensor:
    """Divide two powers, in dB, within +-60; 0 when both are silent.

    Where one of them is zero the ratio still depends smoothly on it, so that an optimiser can move
    a hard panned or mono signal away from the limit.
    """
    floor = RATIO_FLOOR * (upper + lower) + SILENCE_POWER * RATIO_FLOOR
    return 10 * ((upper + floor).log10() - (lower + floor).log10())


def stereo_image(audio_CT: Tensor, power_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measure where a stereo signal sits and how wide it is.

    Args:
        audio_CT: (..., 2, T) audio.
        power_C: (..., 2) its mean square per channel.

    Returns:
        Three tensors (...): the inter-channel level difference in dB (left over right); the
        correlation of the channels at lag zero, mean not removed, as on a phase meter (0 when a
        channel is silent); the side over mid level in dB.
    """
    left_T, right_T = audio_CT.unbind(dim=-2)
    left_power, right_power = power_C.unbind(dim=-1)
    # Both squares are measured, not derived from one another: the difference of two nearly equal
    # numbers would leave only rounding errors of the side of a nearly mono signal.
    mid_power = (left_T + right_T).square().mean(dim=-1) / 4
    side_power = (left_T - right_T).square().mean(dim=-1) / 4
    floor = RATIO_FLOOR * (left_power + right_power) + SILENCE_POWER * RATIO_FLOOR
    # E[left right] is the mid's power less the side's.
    correlation = (mid_power - side_power) / torch.sqrt(
        (left_power + floor) * (right_power + floor)
    )
    return (
        power_ratio_db(left_power, right_power),
        correlation,
        power_ratio_db(side_power, mid_power),
    )
