"""Modulation: what slow oscillators, or the level of the sound itself, do to it.

Shape suffixes: N signal, C channel, T sample, J frame of a moving filter.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mixprint.chains.effect import SILENCE, Effect, Parameter, Values, blended, evenly_blended, rms
from mixprint.dsp import filter_designs as designs
from mixprint.dsp.delays import read_back
from mixprint.dsp.equaliser import Sections
from mixprint.dsp.filters import filtered
from mixprint.dsp.modulation import (
    frame_centres,
    frame_levels,
    moving_filter,
    quadrature,
    sine,
    turns,
)
from mixprint.dsp.pieces import in_pieces

FAMILY = "modulation"
# Pairs of all-passes of a phaser.
_STAGES = 3
# A flanger repeats its sound 2^passes - 1 times.
_FLANGER_PASSES = 3
_STEEPEST = 8.0
_ROTARY_CROSSOVER_HZ = 800.0
_HORN_RADIUS_MS = 0.5
# The drum of a rotary speaker turns more slowly than the horn.
_DRUM_RATE = 0.83

_PHASE = Parameter("phase", "turns", 0.0, 1.0, is_style=False)
_SLOW = Parameter("rate_hz", "Hz", 0.08, 2.5, "log")
_MIX = Parameter("mix", "", 0.3, 0.8)


def _turns(values: Values, audio_NCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Count the turns of the oscillator for each sample: turn_NT, with its phase."""
    turn_NT = turns(values["rate_hz"], audio_NCT.shape[-1], sample_rate_hz)
    return turn_NT.add_(values["phase"][:, None])


def _frame_sine(values: Values, audio_NCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the oscillator in the middle of each frame: sine_NJ."""
    centre_J = frame_centres(audio_NCT.shape[-1], audio_NCT.device)
    turn_NJ = values["rate_hz"][:, None] * centre_J / sample_rate_hz
    return sine(turn_NJ, values["phase"][:, None])


def _longest(parameters: tuple[Parameter, ...], sample_rate_hz: int, factor: float = 1.0) -> int:
    """Return the longest delay, in samples, of parameters in milliseconds whose values add up."""
    return math.ceil(factor * sum(each.high for each in parameters) / 1000 * sample_rate_hz)


_CHORUS_TIMES = (
    Parameter("delay_ms", "ms", 8.0, 25.0, "log"),
    Parameter("depth_ms", "ms", 0.6, 5.0, "log"),
)


def _chorus(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add a copy with a delay that moves, a quarter turn later on the right."""
    turn_N1T = _turns(values, audio_NCT, sample_rate_hz)[:, None]
    per_ms = sample_rate_hz / 1000
    depth_N11 = (values["depth_ms"] * (per_ms / 2))[:, None, None]
    middle_N11 = (values["delay_ms"] * per_ms)[:, None, None] + depth_N11

    def delay(turn_N1T: Tensor) -> Tensor:
        wave_NCT = torch.cat([sine(turn_N1T), sine(turn_N1T, 0.25)], dim=1)
        return wave_NCT.mul_(depth_N11).add_(middle_N11)

    wet_NCT = read_back(audio_NCT, turn_N1T, delay, _longest(_CHORUS_TIMES, sample_rate_hz))
    return blended(audio_NCT, wet_NCT, values["mix"])


def _swung(depth: Tensor, middle: Tensor, turn: Tensor) -> Tensor:
    """Return what swings around a middle with a depth on either side."""
    return sine(turn).mul_(depth).add_(middle)


_FLANGER_TIMES = (
    Parameter("delay_ms", "ms", 0.2, 2.0, "log"),
    Parameter("depth_ms", "ms", 0.5, 5.0, "log"),
)


def _flanger(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add copies at a short delay that moves, and at its multiples.

    The multiples are what feedback makes while the delay hardly moves; they are doubled each pass.
    """
    turn_N1T = _turns(values, audio_NCT, sample_rate_hz)[:, None]
    per_ms = sample_rate_hz / 1000
    depth_N11 = (values["depth_ms"] * (per_ms / 2))[:, None, None]
    middle_N11 = (values["delay_ms"] * per_ms)[:, None, None] + depth_N11
    delay_N1T = _swung(depth_N11, middle_N11, turn_N1T)
    wet_NCT, gain_N11 = audio_NCT, values["feedback"][:, None, None]
    for k in range(_FLANGER_PASSES):
        longest = _longest(_FLANGER_TIMES, sample_rate_hz, 2**k)
        later_NCT = read_back(wet_NCT, delay_N1T, partial(torch.mul, 2**k), longest)
        wet_NCT = torch.addcmul(wet_NCT, later_NCT, gain_N11, out=later_NCT)
        gain_N11 = gain_N11.square()
    return wet_NCT


_FAST = Parameter("rate_hz", "Hz", 2.0, 9.0, "log")
_DEPTH = Parameter("depth_cents", "cents", 8.0, 100.0, "log")


def _vibrato(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Move the pitch up and down."""
    # A delay of depth (1 + sin w t) moves the pitch by a factor of up to 1 + depth w.
    ratio_N = torch.pow(2.0, values["depth_cents"] / 1200) - 1
    depth_N = ratio_N * sample_rate_hz / (2 * math.pi * values["rate_hz"])
    longest = math.ceil(
        2 * (2 ** (_DEPTH.high / 1200) - 1) * sample_rate_hz / (2 * math.pi * _FAST.low)
    )
    depth_N11 = depth_N[:, None, None]
    return read_back(
        audio_NCT,
        _turns(values, audio_NCT, sample_rate_hz)[:, None],
        partial(_swung, depth_N11, depth_N11),
        longest,
    )


def _tremolo(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Move the level, by a sine (shape 0) or nearly by steps (shape 1)."""
    steep_N11 = (0.1 + _STEEPEST * values["shape"])[:, None, None]
    half_N11 = values["depth"][:, None, None] / 2
    swing_N11 = half_N11 / torch.tanh(steep_N11)

    def piece(audio_NCT: Tensor, turn_N1T: Tensor) -> Tensor:
        wave_N1T = sine(turn_N1T).mul_(steep_N11).tanh_()
        return wave_N1T.mul_(-swing_N11).add_(1 - half_N11) * audio_NCT

    return in_pieces(piece, audio_NCT, _turns(values, audio_NCT, sample_rate_hz)[:, None])


def _auto_pan(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Move the sound from side to side at equal power."""
    depth_N11 = values["depth"][:, None, None]

    def piece(audio_NCT: Tensor, turn_N1T: Tensor) -> Tensor:
        place_N1T = sine(turn_N1T).mul_(depth_N11)
        gain_NCT = torch.cat([1 - place_N1T, 1 + place_N1T], dim=1)
        return gain_NCT.clamp_min_(0).sqrt_().mul_(audio_NCT)

    return in_pieces(piece, audio_NCT, _turns(values, audio_NCT, sample_rate_hz)[:, None])


def _ring_modulator(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    mix_N11 = values["mix"][:, None, None]

    def piece(audio_NCT: Tensor, turn_N1T: Tensor) -> Tensor:
        # The sound by 1 - mix, and times the carrier by mix.
        return sine(turn_N1T).mul_(mix_N11).add_(1 - mix_N11) * audio_NCT

    return in_pieces(piece, audio_NCT, _turns(values, audio_NCT, sample_rate_hz)[:, None])


def _frequency_shifter(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Shift all frequencies up by as many hertz."""

    def piece(cosine_NCT: Tensor, sine_NCT: Tensor, turn_N1T: Tensor) -> Tensor:
        kept_NCT = cosine_NCT * sine(turn_N1T, 0.25)
        return kept_NCT.addcmul_(sine_NCT, sine(turn_N1T), value=-1)

    turn_N1T = _turns(values, audio_NCT, sample_rate_hz)[:, None]
    wet_NCT = in_pieces(piece, *quadrature(audio_NCT), turn_N1T)
    return blended(audio_NCT, wet_NCT, values["mix"])


def _phaser(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add the sound with its phase turned by all-passes that move: notches sweep through it."""
    octaves_NJ = _frame_sine(values, audio_NCT, sample_rate_hz) * values["octaves"][:, None] / 2
    centre_NJ = values["frequency_hz"][:, None] * torch.pow(2.0, octaves_NJ)

    def design(centre_X: Tensor) -> Sections:
        section = designs.all_pass(centre_X, 0.6, sample_rate_hz)
        return Sections.joined([section] * _STAGES)

    wet_NCT = moving_filter(audio_NCT, design, centre_NJ)
    return blended(audio_NCT, wet_NCT, values["mix"])


def _moved(
    audio_NCT: Tensor,
    frequency_NJ: Tensor,
    q_N: Tensor,
    sample_rate_hz: int,
    design: Callable[[Tensor, Tensor, int], Sections],
) -> Tensor:
    """Filter by a design whose frequency moves while its q stays."""
    q_X = q_N[:, None].expand_as(frequency_NJ).flatten()
    return moving_filter(
        audio_NCT, lambda frequency_X: design(frequency_X, q_X, sample_rate_hz), frequency_NJ
    )


def _swept_filter(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Move the corner of a resonant low-pass up and down."""
    octaves_NJ = _frame_sine(values, audio_NCT, sample_rate_hz) * values["octaves"][:, None] / 2
    corner_NJ = values["frequency_hz"][:, None] * torch.pow(2.0, octaves_NJ)
    return _moved(audio_NCT, corner_NJ, values["q"], sample_rate_hz, designs.resonant)


def _auto_wah(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Let a band-pass follow the level: the louder, the higher."""
    relative_NJ = frame_levels(audio_NCT) / rms(audio_NCT).clamp_min(SILENCE)[:, None]
    octaves_NJ = values["octaves"][:, None] * (relative_NJ / 2).clamp_max(1)
    centre_NJ = values["frequency_hz"][:, None] * torch.pow(2.0, octaves_NJ)
    wet_NCT = _moved(audio_NCT, centre_NJ, values["q"], sample_rate_hz, designs.band_pass)
    return evenly_blended(audio_NCT, wet_NCT, values["mix"])


def _rotary(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Let a horn turn for what is above the crossover, and a drum for what is below it.

    The horn comes near to one side while it leaves the other: pitch and level move. Of the drum the
    level moves alone.
    """
    crossover_N = torch.full_like(values["rate_hz"], _ROTARY_CROSSOVER_HZ)
    low_NCT = filtered(audio_NCT, designs.linkwitz_riley(crossover_N, sample_rate_hz))
    high_NCT = filtered(audio_NCT, designs.linkwitz_riley(crossover_N, sample_rate_hz, high=True))
    turn_N1T = _turns(values, audio_NCT, sample_rate_hz)[:, None]
    radius = _HORN_RADIUS_MS / 1000 * sample_rate_hz
    depth_N11 = values["depth"][:, None, None] / 2

    def opposite(turn_N1T: Tensor) -> Tensor:
        wave_N1T = sine(turn_N1T)
        return torch.cat([wave_N1T, -wave_N1T], dim=1)

    def levelled(horn_NCT: Tensor, low_NCT: Tensor, turn_N1T: Tensor) -> Tensor:
        # The horn is louder where it is near, so where the delay is short.
        near_NCT = opposite(turn_N1T).mul_(-depth_N11).add_(1)
        drum_NCT = opposite(_DRUM_RATE * turn_N1T).mul_(depth_N11 / 2).add_(1)
        return near_NCT.mul_(horn_NCT).addcmul_(drum_NCT, low_NCT)

    horn_NCT = read_back(
        high_NCT,
        turn_N1T,
        lambda turn_N1T: opposite(turn_N1T).add_(1).mul_(radius),
        math.ceil(2 * radius),
    )
    return in_pieces(levelled, horn_NCT, low_NCT, turn_N1T)


EFFECTS = (
    Effect("chorus", FAMILY, (_SLOW, *_CHORUS_TIMES, _MIX, _PHASE), _chorus),
    Effect(
        "flanger",
        FAMILY,
        (_SLOW, *_FLANGER_TIMES, Parameter("feedback", "", -0.8, 0.8), _PHASE),
        _flanger,
    ),
    Effect(
        "phaser",
        FAMILY,
        (
            _SLOW,
            Parameter("frequency_hz", "Hz", 300.0, 2_000.0, "log"),
            Parameter("octaves", "octaves", 1.0, 4.0),
            _MIX,
            _PHASE,
        ),
        _phaser,
    ),
    Effect("vibrato", FAMILY, (_FAST, _DEPTH, _PHASE), _vibrato),
    Effect(
        "tremolo",
        FAMILY,
        (
            Parameter("rate_hz", "Hz", 0.8, 12.0, "log"),
            Parameter("depth", "", 0.3, 1.0),
            Parameter("shape", "", 0.0, 1.0),
            _PHASE,
        ),
        _tremolo,
    ),
    Effect(
        "auto_pan",
        FAMILY,
        (
            Parameter("rate_hz", "Hz", 0.2, 8.0, "log"),
            Parameter("depth", "", 0.3, 1.0),
            _PHASE,
        ),
        _auto_pan,
    ),
    Effect(
        "ring_modulator",
        FAMILY,
        (Parameter("rate_hz", "Hz", 30.0, 2_000.0, "log"), Parameter("mix", "", 0.2, 1.0), _PHASE),
        _ring_modulator,
    ),
    Effect(
        "frequency_shifter",
        FAMILY,
        (Parameter("rate_hz", "Hz", 3.0, 500.0, "log"), Parameter("mix", "", 0.3, 1.0), _PHASE),
        _frequency_shifter,
        is_held_out=True,
    ),
    Effect(
        "swept_filter",
        FAMILY,
        (
            Parameter("rate_hz", "Hz", 0.08, 1.5, "log"),
            Parameter("frequency_hz", "Hz", 400.0, 3_000.0, "log"),
            Parameter("octaves", "octaves", 1.0, 4.0),
            Parameter("q", "", 0.7, 6.0, "log"),
            _PHASE,
        ),
        _swept_filter,
    ),
    Effect(
        "auto_wah",
        FAMILY,
        (
            Parameter("frequency_hz", "Hz", 200.0, 600.0, "log"),
            Parameter("octaves", "octaves", 1.0, 4.0),
            Parameter("q", "", 1.0, 6.0, "log"),
            Parameter("mix", "", 0.4, 1.0),
        ),
        _auto_wah,
    ),
    Effect(
        "rotary",
        FAMILY,
        (
            Parameter("rate_hz", "Hz", 0.6, 8.0, "log"),
            Parameter("depth", "", 0.3, 1.0),
            _PHASE,
        ),
        _rotary,
        is_held_out=True,
    ),
)
