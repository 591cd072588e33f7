"""Gaussian noise that is a function of its place: no state, and no order in which it is drawn.

A frame's noise follows from the seed, the number of the sample, that of the step, and the frame's
number in the song. So it is the same in whatever batch, window or block of a stream it is asked
for, and two windows agree where they overlap. Integers do it, which are alike on every device;
what follows in float64 and is rounded to float32 differs by its last bit at most, and hardly ever.

Shape suffixes: B window of a batch, C channel, F frequency row, N frame.
"""

import math

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
# Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64.
_STEP = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def gaussian_noise(
    seed: int, sample: int, step: int, first_frame_B: Tensor, shape_CFN: tuple[int, int, int]
) -> Tensor:
    """Draw the noise of frames.

    Args:
        seed: of all of it.
        sample: number of the sample.
        step: number of the step of the sampler.
        first_frame_B: number, in the song, of each window's first frame; integers on the device on
            which the noise is wanted.
        shape_CFN: channels, frequency rows and frames of a window.

    Returns:
        noise_BCFN, complex64: real and imaginary parts are independent, of deviation 1.
    """
    channels, rows, frames = shape_CFN
    device = first_frame_B.device
    key = 0
    for number in (seed, sample, step):
        key = _mixed(key ^ _mixed(number + 1))
    frame_BN = first_frame_B[:, None] + torch.arange(frames, device=device)
    key_BN = _mixed_tensor(_mixed_tensor(frame_BN * _signed(_STEP)) ^ _signed(key))
    index_CF = torch.arange(1, channels * rows + 1, device=device).view(channels, rows)
    bits_BCFN = key_BN[:, None, None] + (index_CF * _signed(_STEP))[:, :, None]
    bits_BCFN = _mixed_tensor(bits_BCFN)
    # Box and Muller: a radius and an angle, each of half of the bits.
    unit = 2.0**-32
    radius_BCFN = (((bits_BCFN >> 32) & 0xFFFFFFFF).double() + 0.5).mul_(unit).log_().mul_(-2)
    angle_BCFN = (bits_BCFN & 0xFFFFFFFF).double().mul_(2 * math.pi * unit)
    radius_BCFN.sqrt_()
    real_BCFN, imag_BCFN = angle_BCFN.cos().mul_(radius_BCFN), angle_BCFN.sin_().mul_(radius_BCFN)
    return torch.complex(real_BCFN.float(), imag_BCFN.float())


def _mixed(number: int) -> int:
    """Mix the bits of a number: SplitMix64's last step."""
    number = (number + _STEP) & _MASK
    number = ((number ^ (number >> _SHIFTS[0])) * _FACTORS[0]) & _MASK
    number = ((number ^ (number >> _SHIFTS[1])) * _FACTORS[1]) & _MASK
    return number ^ (number >> _SHIFTS[2])


def _mixed_tensor(bits: Tensor) -> Tensor:
    """Mix like `_mixed`, without its first addition; int64 wraps around as it should."""
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        # The shift of torch keeps the sign; that of the generator does not.
        high = (bits >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        bits = high.bitwise_xor_(bits)
        if factor is not None:
            bits.mul_(_signed(factor))
    return bits


def _signed(number: int) -> int:
    """Return the int64 of the same bits."""
    return number - (1 << 64) if number >> 63 else number
