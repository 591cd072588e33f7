"""Saturation by a hyperbolic tangent, without the aliasing of its harmonics.

    y = x + mix * h(x),    h(x) = tanh(d x) / d - x,    d = 10^(drive_db / 20)

Quiet sounds keep their level. What the curve adds, `h`, is computed at twice the sample rate by
first-order antiderivative anti-aliasing (Parker, Zavalishin and Le Bivic 2016): the mean of `h`
between two samples. The filter that brings these means down again has its centre between two of
them, so nothing is delayed; the sound itself passes through no filter, and a mix of 0 gives it to
the bit.

Signals of twice the rate are kept as two of the sample rate: what lies at the samples, and what
lies between each of them and the next. So both filters are correlations at the sample rate. All is
done piece by piece of the song, because what fits into the cache of a processor is computed several
times as fast.

Shape suffixes: B track, C channel, T sample, R row (a channel of a track), L sample of a piece with
what lies around it, I interval between two samples, N tap, K block.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.pieces import padded, pieces

# An output depends on so many samples on either side; each filter reaches over half of them.
CONTEXT_SAMPLES = 32
REACH = CONTEXT_SAMPLES // 2
_KAISER_BETA = 8.0  # 80 dB
# Results of a filter are computed in blocks of so many.
_BLOCK = 2 * REACH
# Neighbours, times d, are near where they differ by less.
NEAR = 1e-4
# So many values are handled at once on a CPU, a megabyte; and at least so many samples of each row,
# beside which their context is short.
_PIECE_VALUES, _LEAST_SAMPLES = 1 << 17, 1 << 10


def driven(audio_BCT: Tensor, drive_db_B: Tensor, mix_B: Tensor) -> Tensor:
    """Saturate audio; differentiable in all arguments.

    Args:
        audio_BCT: full scale at +-1; there is silence around it.
        drive_db_B: level by which the curve is entered.
        mix_B: how much of what the curve adds is added, 0 to 1.

    Returns:
        audio_BCT of the same length and type.
    """
    drive_B = amplitude(drive_db_B.double())
    added_BCT: Tensor = _Addition.apply(audio_BCT, drive_B)
    return audio_BCT + mix_B.to(audio_BCT.dtype)[:, None, None] * added_BCT


class StreamedDrive:
    """Saturation of audio that comes in blocks, in float64; it holds back `CONTEXT_SAMPLES`."""

    def __init__(self, drive_db_B: Tensor, mix_B: Tensor, num_channels: int) -> None:
        """Start with silence before the first block."""
        self._drive_B = amplitude(drive_db_B.double())
        self._mix_B11 = mix_B.double()[:, None, None]
        self._held_BCT = torch.zeros(
            (len(drive_db_B), num_channels, CONTEXT_SAMPLES), dtype=torch.float64
        )

    def add(self, block_BCT: Tensor) -> Tensor:
        """Take in the next block, and return what is finished."""
        self._held_BCT = torch.cat([self._held_BCT, block_BCT], dim=-1)
        middle = slice(CONTEXT_SAMPLES, -CONTEXT_SAMPLES)
        if self._held_BCT.shape[-1] <= 2 * CONTEXT_SAMPLES:
            return block_BCT[..., :0]
        # What is added at both ends lacks its context, and is not used.
        added_BCT = _added(self._held_BCT, self._drive_B)[..., middle]
        done_BCT = self._held_BCT[..., middle] + self._mix_B11 * added_BCT
        self._held_BCT = self._held_BCT[..., -2 * CONTEXT_SAMPLES :].clone()
        return done_BCT

    def finish(self) -> Tensor:
        """Return the last samples."""
        return self.add(torch.zeros_like(self._held_BCT[..., :1]).expand(-1, -1, CONTEXT_SAMPLES))


class _Addition(Function):
    """Distortion that the curve adds to audio, with its adjoint.

    That is A(d x) / d, where A doubles the rate, takes means of tanh(x) - x and halves the rate.
    With w, the adjoint of the derivative of A applied to the gradient g, the gradient of x is w,
    and that of d is (<w, x> - <g, addition>) / d.
    """

    @staticmethod
    def forward(ctx: Any, audio_BCT: Tensor, drive_B: Tensor) -> Tensor:
        added_BCT = _added(audio_BCT, drive_B)
        ctx.save_for_backward(audio_BCT, drive_B, added_BCT)
        return added_BCT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCT: Tensor) -> tuple[Tensor, Tensor]:
        audio_BCT, drive_B, added_BCT = ctx.saved_tensors
        audio_grad_BCT = torch.empty_like(audio_BCT)
        moved_B = torch.zeros_like(drive_B)
        for piece in _pieces(audio_BCT):
            grad_RT = _adjoint(_window(audio_BCT, piece, drive_B), _window(grad_BCT, piece))
            own_BCT = _of_piece(grad_RT, piece, audio_BCT)
            audio_grad_BCT[..., piece] = own_BCT
            moved_B += (own_BCT * audio_BCT[..., piece]).sum(dim=(1, 2))
            moved_B -= (grad_BCT[..., piece].double() * added_BCT[..., piece]).sum(dim=(1, 2))
        return audio_grad_BCT, moved_B / drive_B


def _added(audio_BCT: Tensor, drive_B: Tensor) -> Tensor:
    """Return what the curve adds to audio with silence around it."""
    added_BCT = torch.empty_like(audio_BCT)
    taps = _taps(audio_BCT.device)
    for piece in _pieces(audio_BCT):
        first, second = _means(_window(audio_BCT, piece, drive_B))
        added_RT = _correlated(
            (first.mean_RI, taps.halving_first), (second.mean_RI, taps.halving_second)
        )
        added_BCT[..., piece] = _of_piece(added_RT, piece, audio_BCT) / drive_B[:, None, None]
    return added_BCT


def _adjoint(window_RL: Tensor, grad_RL: Tensor) -> Tensor:
    """Apply the adjoint of the derivative of A, at the driven sound, to a gradient."""
    taps = _taps(window_RL.device)
    first, second = _means(window_RL)
    # The taps are symmetric: read backwards, those of the first means are those of the second ones.
    before_RI, middle_RI = first.gradients(_correlated((grad_RL, taps.halving_second)))
    other_middle_RI, after_RI = second.gradients(_correlated((grad_RL, taps.halving_first)))
    own_RT = before_RI[:, REACH:-REACH].add_(after_RI[:, REACH - 1 : -REACH - 1])
    return own_RT.add_(_correlated((middle_RI.add_(other_middle_RI), taps.between)))


def _pieces(audio_BCT: Tensor) -> Iterator[slice]:
    num_rows = audio_BCT.shape[0] * audio_BCT.shape[1]
    return pieces(audio_BCT, num_values=max(_PIECE_VALUES, num_rows * _LEAST_SAMPLES))


def _window(audio_BCT: Tensor, piece: slice, factor_B: Tensor | None = None) -> Tensor:
    """Return a piece and what it depends on, float64.

    Returns:
        window_RL, which begins `CONTEXT_SAMPLES - 1` before the piece and has whole blocks.
    """
    start = piece.start - (CONTEXT_SAMPLES - 1)
    num_blocks = math.ceil((piece.stop - piece.start) / _BLOCK)
    stop = start + num_blocks * _BLOCK + 2 * CONTEXT_SAMPLES
    first, last = max(start, 0), min(stop, audio_BCT.shape[-1])
    window_BCL = padded(audio_BCT[..., first:last].double(), first - start, stop - last)
    if factor_B is not None:
        window_BCL *= factor_B[:, None, None]
    return window_BCL.flatten(0, 1)


def _of_piece(result_RT: Tensor, piece: slice, audio_BCT: Tensor) -> Tensor:
    """Return what was computed for a window, without what fills its last block."""
    num_samples = piece.stop - piece.start
    return result_RT[:, :num_samples].unflatten(0, audio_BCT.shape[:2])


def _means(window_RL: Tensor) -> "tuple[_Means, _Means]":
    """Return the means from each sample to half-way to the next one, and from there to that.

    They begin `REACH` samples before the piece, and end as many behind its blocks.
    """
    own = _Curve.at(window_RL[:, REACH - 1 : -REACH])
    middle = _Curve.at(_correlated((window_RL, _taps(window_RL.device).between)))
    return _Means(own.part(slice(-1)), middle), _Means(middle, own.part(slice(1, None)))


class _Curve(NamedTuple):
    """The curve h(x) = tanh(x) - x at some points.

    Attributes:
        level_RI: the points.
        added_RI: the curve.
        integral_RI: of the curve: ln cosh(x) - x^2 / 2, and ln 2, which no difference holds.
    """

    level_RI: Tensor
    added_RI: Tensor
    integral_RI: Tensor

    @classmethod
    def at(cls, level_RI: Tensor) -> "_Curve":
        """Compute it."""
        magnitude_RI = level_RI.abs()
        fall_RI = torch.mul(magnitude_RI, -2).exp_()
        tanh_RI = torch.rsub(fall_RI, 1).div_(fall_RI.add_(1)).copysign_(level_RI)
        integral_RI = fall_RI.log_().add_(magnitude_RI)
        integral_RI.addcmul_(level_RI, level_RI, value=-0.5)
        return cls(level_RI, tanh_RI.sub_(level_RI), integral_RI)

    def part(self, places: slice) -> "_Curve":
        """Return some of the points."""
        return _Curve(*(values_RI[:, places] for values_RI in self))


class _Means:
    """Mean of the curve between points.

    With its integral H, the mean from x to y is (H(y) - H(x)) / (y - x), and its derivative by y is
    (h(y) - mean) / (y - x). Where both are near, the mean is (h(x) + h(y)) / 2.
    """

    def __init__(self, start: _Curve, end: _Curve) -> None:
        self._start, self._end = start, end
        self._step_RI = end.level_RI - start.level_RI
        self._is_near_RI = self._step_RI.abs() < NEAR
        near_RI = (start.added_RI + end.added_RI).mul_(0.5)
        far_RI = (end.integral_RI - start.integral_RI).div_(self._step_RI)
        self.mean_RI = torch.where(self._is_near_RI, near_RI, far_RI)

    def gradients(self, grad_RI: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of starts and ends, given that of the means."""
        slope_RI = (grad_RI / self._step_RI).masked_fill_(self._is_near_RI, 0.0)
        near_RI = torch.where(self._is_near_RI, grad_RI / -2, 0.0)
        start_RI = (self.mean_RI - self._start.added_RI).mul_(slope_RI)
        end_RI = (self._end.added_RI - self.mean_RI).mul_(slope_RI)
        for curve, gradient_RI in ((self._start, start_RI), (self._end, end_RI)):
            tanh_RI = curve.added_RI + curve.level_RI
            gradient_RI.addcmul_(tanh_RI.square_(), near_RI)
        return start_RI, end_RI


class _Taps(NamedTuple):
    """Filters, as `_shifted` gives them.

    Attributes:
        between: for what lies between two samples.
        halving_first: for the first of two means.
        halving_second: for the second.
    """

    between: Tensor
    halving_first: Tensor
    halving_second: Tensor


@functools.cache
def _taps(device: torch.device) -> _Taps:
    halving_N = halfway_taps(2 * REACH, width=2)
    filters = (halfway_taps(REACH), halving_N[::2], halving_N[1::2])
    return _Taps(*(_shifted(taps_N).to(device) for taps_N in filters))


def _correlated(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """Correlate signals of whole blocks with taps, and add up; the result is one block shorter.

    A result needs samples of its block and of the next one, so each block is multiplied by two
    matrices. (A convolution of PyTorch unfolds each sample into all taps, ten times slower.)

    Args:
        parts: signals, and taps as `_shifted` gives them.
    """
    num_rows = len(parts[0][0])
    product_MN = parts[0][0].reshape(-1, _BLOCK) @ parts[0][1]
    for signal_RL, shifted_NN in parts[1:]:
        product_MN.addmm_(signal_RL.reshape(-1, _BLOCK), shifted_NN)
    here_RKN, next_RKN = product_MN.unflatten(0, (num_rows, -1)).split(_BLOCK, dim=-1)
    return (here_RKN[:, :-1] + next_RKN[:, 1:]).flatten(1)


def _shifted(taps_N: Tensor) -> Tensor:
    """Return the matrix for a block and, beside it, the one for the block after it."""
    both = taps_N.new_zeros(2 * _BLOCK, _BLOCK)
    for n in range(_BLOCK):
        both[n : n + len(taps_N), n] = taps_N
    return torch.cat(both.split(_BLOCK), dim=1)


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
