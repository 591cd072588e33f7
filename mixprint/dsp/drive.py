"""Saturation by a hyperbolic tangent, without the aliasing of its harmonics.

    y = x + mix * h(x),    h(x) = tanh(d x) / d - x,    d = 10^(drive_db / 20)

Quiet sounds keep their level. What the curve adds, `h`, is computed at twice the sample rate by
first-order antiderivative anti-aliasing (Parker, Zavalishin and Le Bivic 2016): the mean of `h`
between two samples. The filter that brings these means down again has its centre between two of
them, so nothing is delayed; the sound itself passes through no filter, and a mix of 0 gives it to
the bit.

Shape suffixes: B track, C channel, T sample, U sample at twice the rate.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# An output depends on so many samples on either side; each filter reaches over half of them.
CONTEXT_SAMPLES = 32
REACH = CONTEXT_SAMPLES // 2
_KAISER_BETA = 8.0  # 80 dB
# Where neighbours differ by less, the mean is the value half-way.
NEAR = 1e-4


def driven(audio_BCT: Tensor, drive_db_B: Tensor, mix_B: Tensor) -> Tensor:
    """Saturate audio; differentiable in all arguments.

    Args:
        audio_BCT: full scale at +-1; there is silence around it.
        drive_db_B: level by which the curve is entered.
        mix_B: how much of what the curve adds is added, 0 to 1.

    Returns:
        audio_BCT of the same length and type.
    """
    padded_BCT = functional.pad(audio_BCT.double(), (CONTEXT_SAMPLES, CONTEXT_SAMPLES))
    added_BCT = mix_B.double()[:, None, None] * _addition(padded_BCT, drive_db_B)
    return audio_BCT + added_BCT.to(audio_BCT.dtype)


class StreamedDrive:
    """Saturation of audio that comes in blocks, in float64; it holds back `CONTEXT_SAMPLES`."""

    def __init__(self, drive_db_B: Tensor, mix_B: Tensor, num_channels: int) -> None:
        """Start with silence before the first block."""
        self._drive_db_B, self._mix_B11 = drive_db_B, mix_B.double()[:, None, None]
        self._held_BCT = torch.zeros(
            (len(drive_db_B), num_channels, CONTEXT_SAMPLES), dtype=torch.float64
        )

    def add(self, block_BCT: Tensor) -> Tensor:
        """Take in the next block, and return what is finished."""
        self._held_BCT = torch.cat([self._held_BCT, block_BCT], dim=-1)
        middle = slice(CONTEXT_SAMPLES, -CONTEXT_SAMPLES)
        if self._held_BCT.shape[-1] <= 2 * CONTEXT_SAMPLES:
            return block_BCT[..., :0]
        added_BCT = _addition(self._held_BCT, self._drive_db_B)
        done_BCT = self._held_BCT[..., middle] + self._mix_B11 * added_BCT
        self._held_BCT = self._held_BCT[..., -2 * CONTEXT_SAMPLES :].clone()
        return done_BCT

    def finish(self) -> Tensor:
        """Return the last samples."""
        return self.add(torch.zeros_like(self._held_BCT[..., :1]).expand(-1, -1, CONTEXT_SAMPLES))


def _addition(padded_BCT: Tensor, drive_db_B: Tensor) -> Tensor:
    """Return what the curve adds to audio, float64, without the context on both sides."""
    drive_B11 = torch.pow(10.0, drive_db_B.double() / 20)[:, None, None]
    return _downsampled(_mean_addition(_upsampled(padded_BCT), drive_B11))


def _mean_addition(twice_BCU: Tensor, drive_B11: Tensor) -> Tensor:
    """Return the mean of `h` from each sample to the next one."""
    step_BCU = twice_BCU.diff(dim=-1)
    is_near_BCU = step_BCU.abs() < NEAR
    middle_BCU = (twice_BCU[..., :-1] + twice_BCU[..., 1:]) / 2
    half_way_BCU = torch.tanh(drive_B11 * middle_BCU) / drive_B11 - middle_BCU
    safe_BCU = torch.where(is_near_BCU, torch.ones_like(step_BCU), step_BCU)
    mean_BCU = _antiderivative(twice_BCU, drive_B11).diff(dim=-1) / safe_BCU
    return torch.where(is_near_BCU, half_way_BCU, mean_BCU)


def _antiderivative(audio_BCU: Tensor, drive_B11: Tensor) -> Tensor:
    """Integrate `h`: ln cosh(d x) / d^2 - x^2 / 2, in a form that does not overflow."""
    driven_BCU = (drive_B11 * audio_BCU).abs()
    log_cosh_BCU = driven_BCU + torch.log1p(torch.exp(-2 * driven_BCU)) - math.log(2.0)
    return log_cosh_BCU / drive_B11.square() - audio_BCU.square() / 2


def _upsampled(padded_BCT: Tensor) -> Tensor:
    """Double the rate; the samples themselves stay, from `REACH` on, and the last one ends it."""
    own_BCT = padded_BCT[..., REACH:-REACH]
    between_BCT = _filtered(padded_BCT, halfway_taps(REACH), stride=1)
    pairs_BCT2 = torch.stack([own_BCT[..., :-1], between_BCT[..., 1:-1]], dim=-1)
    return torch.cat([pairs_BCT2.flatten(-2), own_BCT[..., -1:]], dim=-1)


def _downsampled(means_BCU: Tensor) -> Tensor:
    """Halve the rate: each result lies between two of the means."""
    return _filtered(means_BCU, halfway_taps(2 * REACH, width=2), stride=2)


def _filtered(audio_BCT: Tensor, taps_N: Tensor, *, stride: int) -> Tensor:
    rows_R1T = audio_BCT.flatten(0, 1)[:, None]
    filtered_R1T = functional.conv1d(rows_R1T, taps_N.to(audio_BCT)[None, None], stride=stride)
    return filtered_R1T.unflatten(0, audio_BCT.shape[:2])[:, :, 0]


@functools.cache
def halfway_taps(reach: int, width: int = 1) -> Tensor:
    """Return taps, of sum 1, for the value between two samples out of `reach` on either side.

    Args:
        reach: number of samples on either side.
        width: of the sinc up to its first zero: 1 keeps all frequencies, 2 half of them.
    """
    place = np.arange(2 * reach) - (reach - 0.5)
    taps = np.sinc(place / width) * np.kaiser(2 * reach, _KAISER_BETA)
    return torch.from_numpy(taps / taps.sum())
