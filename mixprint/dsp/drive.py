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
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

# An output depends on so many samples on either side; each filter reaches over half of them.
CONTEXT_SAMPLES = 32
REACH = CONTEXT_SAMPLES // 2
_KAISER_BETA = 8.0  # 80 dB
# Results of a filter are computed in blocks of so many.
_BLOCK = 2 * REACH
# Neighbours, times d, are near where they differ by less.
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
    means_BCU: Tensor = _MeanAddition.apply(_upsampled(drive_B11 * padded_BCT))
    return _downsampled(means_BCU) / drive_B11


class _MeanAddition(Function):
    """Mean of h(x) = tanh(x) - x from each sample to the next one, with its adjoint.

    With H(x) = ln cosh(x) - x^2 / 2, the mean from x to y is (H(y) - H(x)) / (y - x), and its
    derivative by y is (h(y) - mean) / (y - x). Where both are near, the mean is (h(x) + h(y)) / 2.
    """

    @staticmethod
    def forward(ctx: Any, audio_BCU: Tensor) -> Tensor:
        level_BCU = audio_BCU.abs()
        fall_BCU = torch.mul(level_BCU, -2).exp_()
        tanh_BCU = torch.copysign((1 - fall_BCU).div_(fall_BCU.add_(1)), audio_BCU)
        # H, and ln 2, which no difference holds.
        integral_BCU = fall_BCU.log_().add_(level_BCU).addcmul_(audio_BCU, audio_BCU, value=-0.5)
        step_BCU = audio_BCU.diff(dim=-1)
        is_near_BCU = step_BCU.abs() < NEAR
        added_BCU = tanh_BCU - audio_BCU
        near_BCU = (added_BCU[..., :-1] + added_BCU[..., 1:]).div_(2)
        mean_BCU = torch.where(is_near_BCU, near_BCU, integral_BCU.diff(dim=-1).div_(step_BCU))
        ctx.save_for_backward(audio_BCU, tanh_BCU, mean_BCU)
        return mean_BCU

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCU: Tensor) -> Tensor:
        audio_BCU, tanh_BCU, mean_BCU = ctx.saved_tensors
        step_BCU = audio_BCU.diff(dim=-1)
        is_near_BCU = step_BCU.abs() < NEAR
        # Of the steps before and after each sample, there is none before the first.
        slope_BCU = functional.pad((grad_BCU / step_BCU).masked_fill_(is_near_BCU, 0.0), (1, 1))
        audio_grad_BCU = (audio_BCU - tanh_BCU).mul_(slope_BCU.diff(dim=-1))
        slope_BCU[..., 1:-1] *= mean_BCU
        audio_grad_BCU += slope_BCU.diff(dim=-1)
        near_BCU = functional.pad(grad_BCU.masked_fill(~is_near_BCU, 0.0).div_(2), (1, 1))
        return audio_grad_BCU.sub_(tanh_BCU.square().mul_(near_BCU[..., :-1] + near_BCU[..., 1:]))


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
    """Correlate audio with taps, as a product of blocks with a matrix of shifted taps.

    A result needs samples of its block and of the next one, so each block is multiplied by two
    matrices. (A convolution of PyTorch unfolds each sample into all taps, ten times slower.)
    """
    num_results = (audio_BCT.shape[-1] - len(taps_N)) // stride + 1
    size = stride * _BLOCK
    padded_BCT = functional.pad(audio_BCT, (0, size + -audio_BCT.shape[-1] % size))
    here_BCKN, next_BCKN = (padded_BCT.unflatten(-1, (-1, size)) @ _shifted(taps_N, stride)).split(
        _BLOCK, dim=-1
    )
    return (here_BCKN[..., :-1, :] + next_BCKN[..., 1:, :]).flatten(-2)[..., :num_results]


def _shifted(taps_N: Tensor, stride: int) -> Tensor:
    """Return the matrix for a block and, beside it, the one for the block after it."""
    size = stride * _BLOCK
    both = taps_N.new_zeros(2 * size, _BLOCK)
    for n in range(_BLOCK):
        both[n * stride : n * stride + len(taps_N), n] = taps_N
    return torch.cat(both.split(size), dim=1)


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
