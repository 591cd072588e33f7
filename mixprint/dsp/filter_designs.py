"""Designs of filters as second-order sections, from analogue prototypes.

A prototype is a rational function of s, where s = j is the corner frequency; a low-pass becomes a
high-pass when s is replaced by 1 / s. The bilinear transform, prewarped at the corner, makes it a
digital filter. Prototypes: Zverev, Handbook of Filter Synthesis (1967); Linkwitz and Riley (1976);
the ladder: Stilson and Smith (1996).

Shape suffixes: B signal.
"""

import math

import torch
from torch import Tensor

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import BUTTERWORTH_Q, HIGHEST_FREQUENCY, Sections, section

# Coefficients of s^2, s and 1, each for all signals or one per signal.
Polynomial = tuple[float | Tensor, float | Tensor, float | Tensor]


def second_order(
    b: Polynomial, a: Polynomial, corner_hz_B: Tensor, sample_rate_hz: int, *, high: bool = False
) -> Sections:
    """Transform prototypes of second order, b over a; `high` replaces s by 1 / s."""
    scale_B = _corner(corner_hz_B, sample_rate_hz)
    return section(_digital(b, scale_B, high), _digital(a, scale_B, high))


def first_order(
    b: tuple[float | Tensor, float | Tensor],
    a: tuple[float | Tensor, float | Tensor],
    corner_hz_B: Tensor,
    sample_rate_hz: int,
) -> Sections:
    """Transform prototypes of first order: coefficients of s and 1, b over a."""
    scale_B = _corner(corner_hz_B, sample_rate_hz)
    zero_B = torch.zeros_like(scale_B)
    above, below = (
        (slope * scale_B + constant, constant - slope * scale_B, zero_B)
        for slope, constant in (b, a)
    )
    return section(above, below)


def _corner(corner_hz_B: Tensor, sample_rate_hz: int) -> Tensor:
    ratio_B = (corner_hz_B.double() / sample_rate_hz).clamp_max(HIGHEST_FREQUENCY)
    return 1 / torch.tan(math.pi * ratio_B)


def _digital(prototype: Polynomial, scale_B: Tensor, high: bool) -> tuple[Tensor, Tensor, Tensor]:
    square, slope, constant = reversed(prototype) if high else prototype
    square_B, slope_B = square * scale_B.square(), slope * scale_B
    constant_B = constant + torch.zeros_like(scale_B)
    return (
        square_B + slope_B + constant_B,
        2 * (constant_B - square_B),
        square_B - slope_B + constant_B,
    )


def resonant(
    corner_hz_B: Tensor, q_B: Tensor | float, sample_rate_hz: int, *, high: bool = False
) -> Sections:
    """Design low-passes (high-passes) of 12 dB per octave; the gain at the corner is q."""
    damping = 1 / q_B
    return second_order((0, 0, 1), (1, damping, 1), corner_hz_B, sample_rate_hz, high=high)


def band_pass(centre_hz_B: Tensor, q_B: Tensor, sample_rate_hz: int) -> Sections:
    """Design band-passes with a gain of 1 at the centre, 6 dB per octave on both sides."""
    return second_order((0, 1 / q_B, 0), (1, 1 / q_B, 1), centre_hz_B, sample_rate_hz)


def notch(centre_hz_B: Tensor, q_B: Tensor, sample_rate_hz: int) -> Sections:
    """Design notches: nothing passes at the centre."""
    return second_order((1, 0, 1), (1, 1 / q_B, 1), centre_hz_B, sample_rate_hz)


def all_pass(centre_hz_B: Tensor, q_B: Tensor | float, sample_rate_hz: int) -> Sections:
    """Design all-passes of second order: the phase is turned by 180 degrees at the centre."""
    return second_order((1, -1 / q_B, 1), (1, 1 / q_B, 1), centre_hz_B, sample_rate_hz)


def one_pole(corner_hz_B: Tensor, sample_rate_hz: int, *, high: bool = False) -> Sections:
    """Design low-passes (high-passes) of 6 dB per octave."""
    return first_order((1, 0) if high else (0, 1), (1, 1), corner_hz_B, sample_rate_hz)


def tilt(pivot_hz_B: Tensor, gain_db_B: Tensor, sample_rate_hz: int) -> Sections:
    """Design tilts: half the gain less far below the pivot, half of it more far above."""
    root_B = torch.pow(10.0, gain_db_B.double() / 40)
    return first_order((root_B, 1), (1, root_B), pivot_hz_B, sample_rate_hz)


def butterworth(
    corner_hz_B: Tensor, order: int, sample_rate_hz: int, *, high: bool = False
) -> Sections:
    """Design Butterworth filters of an even order: -3 dB at the corner."""
    return Sections.joined(
        [
            resonant(corner_hz_B, 1 / (2 * math.sin(angle)), sample_rate_hz, high=high)
            for angle in _angles(order)
        ]
    )


def linkwitz_riley(corner_hz_B: Tensor, sample_rate_hz: int, *, high: bool = False) -> Sections:
    """Design Linkwitz-Riley filters of fourth order: -6 dB at the corner, low and high in phase."""
    half = resonant(corner_hz_B, BUTTERWORTH_Q, sample_rate_hz, high=high)
    return Sections.joined([half, half])


def chebyshev(
    corner_hz_B: Tensor, order: int, ripple_db_B: Tensor, sample_rate_hz: int, *, high: bool = False
) -> Sections:
    """Design Chebyshev filters of the first kind, of an even order.

    The gain ripples between 0 dB and -`ripple_db_B` up to the corner.
    """
    ripple_B = (torch.pow(10.0, ripple_db_B.double() / 10) - 1).sqrt()
    sections = [
        second_order((0, 0, size_B), (1, width_B, size_B), corner_hz_B, sample_rate_hz, high=high)
        for width_B, size_B in _chebyshev_poles(order, ripple_B)
    ]
    # Of an even order the ripple begins at its low end.
    first = sections[0]
    level_B11 = amplitude(-ripple_db_B.double())[:, None, None]
    return Sections.joined([Sections(first.b_BK3 * level_B11, first.a_BK3), *sections[1:]])


def inverse_chebyshev(
    corner_hz_B: Tensor, order: int, stop_db_B: Tensor, sample_rate_hz: int, *, high: bool = False
) -> Sections:
    """Design Chebyshev filters of the second kind, of an even order.

    The gain ripples between -`stop_db_B` and nothing from the corner on, and is flat before it.
    """
    ripple_B = 1 / (torch.pow(10.0, stop_db_B.double() / 10) - 1).sqrt()
    sections = []
    poles = _chebyshev_poles(order, ripple_B)
    for angle, (width_B, size_B) in zip(_angles(order), poles, strict=True):
        # Its poles and zeros are those of 1 / s; the gain far below the corner is 1.
        b, a = (math.cos(angle) ** 2, 0, 1), (size_B, width_B, 1)
        sections.append(second_order(b, a, corner_hz_B, sample_rate_hz, high=high))
    return Sections.joined(sections)


def _angles(order: int) -> list[float]:
    """Return the angles of pairs of poles on the circle, from the imaginary axis."""
    if order < 2 or order % 2:
        raise ValueError(f"the order must be even, got {order}")
    return [math.pi * (2 * k + 1) / (2 * order) for k in range(order // 2)]


def _chebyshev_poles(order: int, ripple_B: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return s and 1 of each pair of poles, s^2 + s width + size, on the ellipse."""
    mean_B = torch.asinh(1 / ripple_B) / order
    narrow_B, wide_B = mean_B.sinh(), mean_B.cosh()
    return [
        (
            2 * narrow_B * math.sin(angle),
            (narrow_B * math.sin(angle)).square() + (wide_B * math.cos(angle)).square(),
        )
        for angle in _angles(order)
    ]


def ladder(corner_hz_B: Tensor, resonance_B: Tensor, sample_rate_hz: int) -> Sections:
    """Design ladder low-passes: four equal poles with feedback around them, 24 dB per octave.

    Args:
        corner_hz_B: of the poles without feedback.
        resonance_B: 0 to below 1, where the ladder would begin to oscillate. As in circuits, lows
            fall by 1 + 4 `resonance_B`.
        sample_rate_hz: of the audio.
    """
    feedback_B = 4 * resonance_B.double()
    # (1 + s)^4 = -feedback
    part_B = feedback_B.pow(0.25) * math.sqrt(0.5)
    sections = [
        second_order(
            (0, 0, 1),
            (1, 2 - 2 * sign * part_B, (1 - sign * part_B).square() + part_B.square()),
            corner_hz_B,
            sample_rate_hz,
        )
        for sign in (-1, 1)
    ]
    return Sections.joined(sections)
