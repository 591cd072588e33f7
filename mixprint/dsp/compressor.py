"""Gain curve of a compressor with separate attack and release, exact and differentiable.

The level is the peak of each block of `BLOCK_SAMPLES`, in dB. What lies above the threshold, with a
soft knee, is smoothed in dB with one time constant while it rises and another while it falls
(Giannoulis, Massberg and Reiss 2012), multiplied by the slope, and joined by straight lines of
amplitude. `mixprint.synthesis.exact.compression_gain` is the same with whole operations only.

Shape suffixes: B row (a track), N block, T sample.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mixprint.dsp.decibels import amplitude

BLOCK_SAMPLES = 64
FLOOR_DB = -120.0
# A knee narrower than this has the gradient of a hard one.
_MIN_KNEE_DB = 1e-3
_MIN_SLOPE_STEP = 1e-12


def block_levels_db(side_chain_BT: Tensor) -> Tensor:
    """Measure the peak of each block in dB, `FLOOR_DB` at least; the last block may be short.

    Returns:
        level_db_BN.
    """
    num_samples = side_chain_BT.shape[-1]
    padded_BT = functional.pad(side_chain_BT.abs(), (0, -num_samples % BLOCK_SAMPLES))
    peak_BN = padded_BT.unflatten(-1, (-1, BLOCK_SAMPLES)).amax(dim=-1)
    return 20 * torch.log10(peak_BN.clamp_min(amplitude(FLOOR_DB)))


def above_threshold_db(level_db_BN: Tensor, threshold_db_B: Tensor, knee_db_B: Tensor) -> Tensor:
    """Return by how much levels are above a threshold, with a soft knee: 0 below it."""
    over_BN = level_db_BN - threshold_db_B[:, None]
    knee_B1 = knee_db_B[:, None].clamp_min(_MIN_KNEE_DB)
    inside_BN = (over_BN + knee_B1 / 2).square() / (2 * knee_B1)
    hard_BN = torch.where(over_BN >= knee_B1 / 2, over_BN, torch.zeros_like(over_BN))
    return torch.where(over_BN.abs() < knee_B1 / 2, inside_BN, hard_BN)


def smoothed(
    target_BN: Tensor, attack_B: Tensor, release_B: Tensor, before_B: Tensor | None = None
) -> Tensor:
    """Follow a target by one pole while it rises and by another while it falls.

    Which pole acts depends on the result itself. It is found by policy iteration: with a guess the
    recurrence is linear and solved at once, which gives a better guess. Each step takes the higher
    (or, where the release is the faster, the lower) of two rising lines of the one before, so the
    guesses improve without ever turning back; some ten rounds suffice for a song.

    Args:
        target_BN: what is followed.
        attack_B: pole while the target is above the value before.
        release_B: pole otherwise.
        before_B: value before the first block; 0 when None.

    Returns:
        value_BN, differentiable in all arguments.
    """
    before_B = torch.zeros_like(attack_B) if before_B is None else before_B
    with torch.no_grad():
        is_rising_BN = target_BN > functional.pad(target_BN, (1, -1))
        tolerance = _MIN_SLOPE_STEP * max(float(target_BN.abs().amax()), 1.0)
        value_BN = torch.full_like(target_BN, math.inf)
        for _ in range(target_BN.shape[-1] + 1):
            pole_BN = torch.where(is_rising_BN, attack_B[:, None], release_B[:, None])
            last_BN, value_BN = value_BN, _solved(pole_BN, (1 - pole_BN) * target_BN, before_B)
            if float((value_BN - last_BN).abs().amax()) <= tolerance:
                break
            previous_BN = torch.cat([before_B[:, None], value_BN[:, :-1]], dim=1)
            is_rising_BN = target_BN > previous_BN
    pole_BN = torch.where(is_rising_BN, attack_B[:, None], release_B[:, None])
    return linear_recurrence(pole_BN, (1 - pole_BN) * target_BN, before_B)


def linear_recurrence(pole_BN: Tensor, input_BN: Tensor, before_B: Tensor) -> Tensor:
    """Solve y_n = pole_n y_(n-1) + input_n from a value before the first one; differentiable."""
    result: Tensor = _Recurrence.apply(pole_BN, input_BN, before_B)
    return result


class _Recurrence(Function):
    """The recurrence, and its adjoint, which runs backward in time."""

    @staticmethod
    def forward(ctx: Any, pole_BN: Tensor, input_BN: Tensor, before_B: Tensor) -> Tensor:
        value_BN = _solved(pole_BN, input_BN, before_B)
        ctx.save_for_backward(pole_BN, value_BN, before_B)
        return value_BN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pole_BN, value_BN, before_B = ctx.saved_tensors
        next_BN = functional.pad(pole_BN[:, 1:], (0, 1)).flip(-1)
        adjoint_BN = _solved(next_BN, grad_BN.flip(-1), torch.zeros_like(before_B)).flip(-1)
        previous_BN = torch.cat([before_B[:, None], value_BN[:, :-1]], dim=1)
        return adjoint_BN * previous_BN, adjoint_BN, adjoint_BN[:, 0] * pole_BN[:, 0]


def _solved(pole_BN: Tensor, input_BN: Tensor, before_B: Tensor) -> Tensor:
    """Solve the recurrence by doubling: after each pass a value covers twice as many blocks."""
    value_BN, pole_BN = input_BN.clone(), pole_BN.clone()
    value_BN[:, 0] += pole_BN[:, 0] * before_B
    reach = 1
    while reach < value_BN.shape[-1]:
        value_BN[:, reach:] += pole_BN[:, reach:] * value_BN[:, :-reach].clone()
        pole_BN[:, reach:] *= pole_BN[:, :-reach].clone()
        reach *= 2
    return value_BN


def pole(time_s: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the pole of a time constant, in which 63 % of a step are done, per block."""
    return torch.exp(-BLOCK_SAMPLES / (time_s * sample_rate_hz))


def joined(gain_BN: Tensor, before_B: Tensor, num_samples: int) -> Tensor:
    """Join the gains at the ends of blocks by straight lines.

    Args:
        gain_BN: amplitude at the end of each block.
        before_B: amplitude at the start of the first one.
        num_samples: length of the result, in the last block.

    Returns:
        gain_BT.
    """
    start_BN1 = torch.cat([before_B[:, None], gain_BN[:, :-1]], dim=1)[..., None]
    fraction_T = torch.arange(BLOCK_SAMPLES, device=gain_BN.device) / BLOCK_SAMPLES
    gain_BNT = start_BN1 + (gain_BN[..., None] - start_BN1) * fraction_T.to(gain_BN)
    return gain_BNT.flatten(1)[:, :num_samples]


@dataclass(frozen=True)
class Compressors:
    """Compressors of tracks, one each.

    Attributes:
        threshold_db_B: level in dBFS above which the gain falls.
        slope_B: 1 - 1 / ratio; below 0 the gain rises.
        attack_s_B: time constant of rising levels.
        release_s_B: time constant of falling levels.
        knee_db_B: width of the knee, around the threshold.
    """

    threshold_db_B: Tensor
    slope_B: Tensor
    attack_s_B: Tensor
    release_s_B: Tensor
    knee_db_B: Tensor

    def gain(self, side_chain_BT: Tensor, sample_rate_hz: int) -> Tensor:
        """Return the gain curves, differentiable.

        Args:
            side_chain_BT: what they listen to: the louder of both channels, sample by sample.
            sample_rate_hz: of the audio.

        Returns:
            gain_BT, amplitudes.
        """
        return self._gain(side_chain_BT, sample_rate_hz, torch.zeros_like(self.slope_B))[0]

    def _gain(
        self, side_chain_BT: Tensor, sample_rate_hz: int, before_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Go on from how far the level was above the threshold; return that at the end, too."""
        level_BN = block_levels_db(side_chain_BT)
        above_BN = smoothed(
            above_threshold_db(level_BN, self.threshold_db_B, self.knee_db_B),
            pole(self.attack_s_B, sample_rate_hz),
            pole(self.release_s_B, sample_rate_hz),
            before_B,
        )
        # The slope scales target and result alike, whatever its sign: which pole acts stays.
        gain_BN = amplitude(-self.slope_B[:, None] * above_BN)
        first_B = amplitude(-self.slope_B * before_B)
        return joined(gain_BN, first_B, side_chain_BT.shape[-1]), above_BN[:, -1]


class StreamedCompressors:
    """Compressors of audio that comes in blocks, in float64."""

    def __init__(self, compressors: Compressors, sample_rate_hz: int) -> None:
        """Start in silence."""
        self._compressors, self._sample_rate_hz = compressors, sample_rate_hz
        self._before_B = torch.zeros_like(compressors.slope_B)

    def add(self, side_chain_BT: Tensor) -> Tensor:
        """Return the gain of the next block: of whole `BLOCK_SAMPLES`, unless it is the last."""
        gain_BT, self._before_B = self._compressors._gain(
            side_chain_BT, self._sample_rate_hz, self._before_B
        )
        return gain_BT
