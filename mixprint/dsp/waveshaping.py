"""Curves of distortion, sample by sample, and coarser grids of level and of time.

They alias, as the plain forms of these effects do; `mixprint.dsp.drive` does not, and takes some
twenty times as long. Curves keep silence.

Shape suffixes: N signal, C channel, T sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# No grid is finer than this: float32 holds 24 bits.
_MAX_BITS = 24.0


def soft_clipped(audio_NCT: Tensor) -> Tensor:
    """Clip at +-1 by 3 x / 2 - x^3 / 2, which ends level; its slope at 0 is 3 / 2."""
    limited_NCT = audio_NCT.clamp(-1, 1)
    return limited_NCT.square().mul_(-0.5).add_(1.5).mul_(limited_NCT)


def folded(audio_NCT: Tensor) -> Tensor:
    """Fold back at +-1 what is beyond, as often as needed: a triangle of period 4."""
    # 1 less the distance to the nearest of 1, 5, 9, ... and -3, -7, ...
    turn_NCT = (audio_NCT - 1) / 4
    return turn_NCT.sub_(turn_NCT.round()).abs_().mul_(-4).add_(1)


def biased_tanh(audio_NCT: Tensor, bias_N: Tensor) -> Tensor:
    """Saturate around a working point, as a tube does: even harmonics come with odd ones.

    The slope at 0 is 1 - tanh^2(bias).
    """
    bias_N11 = bias_N[:, None, None]
    return (audio_NCT + bias_N11).tanh_().sub_(torch.tanh(bias_N11))


def rectified(audio_NCT: Tensor, share_N: Tensor) -> Tensor:
    """Turn the negative half by a share: 0.5 is half-wave, 1 full-wave rectification."""
    return torch.addcmul(audio_NCT, audio_NCT.clamp_max(0), -2 * share_N[:, None, None])


def rounded(audio_NCT: Tensor, bits_N: Tensor) -> Tensor:
    """Round to a grid of 2^bits steps from -1 to 1, one of them 0; bits may be fractions."""
    steps_N11 = torch.pow(2.0, bits_N.clamp_max(_MAX_BITS) - 1)[:, None, None]
    return (audio_NCT * steps_N11).round_().div_(steps_N11)


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
        last_NCT, now_NCT = now_NCT, (2 * limited_NCT).mul_(now_NCT).sub_(last_NCT)
        gain_N11 = gain_N[:, None, None]
        result_NCT.addcmul_(now_NCT, gain_N11)
        if degree % 2 == 0:
            result_NCT -= (-1) ** (degree // 2) * gain_N11
    return result_NCT
