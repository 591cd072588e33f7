"""Curves of distortion, sample by sample, and coarser grids of level and of time.

They alias, as the plain forms of these effects do; `mixprint.dsp.drive` does not, and takes some
twenty times as long. Curves keep silence, and their slope at 0 is 1 unless said otherwise.

Shape suffixes: N signal, C channel, T sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of 16 bits and full scale +-1, what rounding of steps so fine would be is left out.
_MAX_BITS = 24.0


def soft_clipped(audio_NCT: Tensor) -> Tensor:
    """Clip at +-1 by 3 x / 2 - x^3 / 2, which ends level; its slope at 0 is 3 / 2."""
    limited_NCT = audio_NCT.clamp(-1, 1)
    return limited_NCT * (1.5 - 0.5 * limited_NCT.square())


def folded(audio_NCT: Tensor) -> Tensor:
    """Fold back at +-1 what is beyond, as often as needed: a triangle of period 4."""
    return ((audio_NCT - 1).remainder(4) - 2).abs_() - 1


def biased_tanh(audio_NCT: Tensor, bias_N: Tensor) -> Tensor:
    """Saturate around a working point, as a tube does: even harmonics come with odd ones."""
    bias_N11 = bias_N[:, None, None]
    point_N11 = torch.tanh(bias_N11)
    return (torch.tanh(audio_NCT + bias_N11) - point_N11) / (1 - point_N11.square())


def rectified(audio_NCT: Tensor, share_N: Tensor) -> Tensor:
    """Turn the negative half by a share: 0.5 is half-wave, 1 full-wave rectification."""
    share_N11 = share_N[:, None, None]
    return audio_NCT + 2 * share_N11 * (-audio_NCT).clamp_min(0)


def rounded(audio_NCT: Tensor, bits_N: Tensor) -> Tensor:
    """Round to a grid of 2^bits steps from -1 to 1, one of them 0; bits may be fractions."""
    steps_N11 = torch.pow(2.0, bits_N.clamp_max(_MAX_BITS) - 1)[:, None, None]
    return (audio_NCT * steps_N11).round_() / steps_N11


def held(audio_NCT: Tensor, factor_N: Tensor) -> Tensor:
    """Sample and hold at a rate that is lower by a factor of 1 or more, without a filter."""
    time_T = torch.arange(audio_NCT.shape[-1], device=audio_NCT.device, dtype=torch.float64)
    factor_N1 = factor_N.double()[:, None]
    index_NT = ((time_T / factor_N1).floor() * factor_N1).round_().long().minimum(time_T.long())
    return audio_NCT.gather(-1, index_NT[:, None].expand(audio_NCT.shape))


def chebyshev_shaped(audio_NCT: Tensor, gains_KN: Sequence[Tensor]) -> Tensor:
    """Add Chebyshev polynomials of degrees 2, 3, ... with gains.

    A sine of level 1 becomes its harmonics, each with its gain. Levels beyond 1 are clipped, and
    what even polynomials make of silence is taken off.
    """
    limited_NCT = audio_NCT.clamp(-1, 1)
    result_NCT = limited_NCT.clone()
    last_NCT, now_NCT = torch.ones_like(limited_NCT), limited_NCT
    for degree, gain_N in enumerate(gains_KN, start=2):
        last_NCT, now_NCT = now_NCT, 2 * limited_NCT * now_NCT - last_NCT
        at_zero = 0.0 if degree % 2 else (-1.0) ** (degree // 2)
        result_NCT += gain_N[:, None, None] * (now_NCT - at_zero)
    return result_NCT
