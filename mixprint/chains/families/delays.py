"""Delays: single and repeated echoes, and small ones between the channels.

Shape suffixes: N signal, C channel, T sample.
"""

import torch
from torch import Tensor

from mixprint.chains.effect import Effect, Parameter, Values, added
from mixprint.dsp import filter_designs as designs
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.delays import delayed, repeated, repeated_through_filter, reversed_pieces
from mixprint.dsp.filters import filtered

FAMILY = "delays"
# Taps of a multi-tap delay: time as a multiple of the base, side from -1 (left) to 1.
_TAPS = ((1.0, -0.8), (1.75, 0.7), (2.5, -0.3), (4.0, 0.9))

_DELAY = Parameter("delay_ms", "ms", 120.0, 800.0, "log")
_FEEDBACK = Parameter("feedback", "", 0.1, 0.8)
_LEVEL = Parameter("level_db", "dB", -15.0, 0.0)


def _samples(delay_ms_N: Tensor, sample_rate_hz: int) -> Tensor:
    return (delay_ms_N * (sample_rate_hz / 1000)).round().clamp_min(1)


def _slap(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add one short echo with softened highs."""
    echo_NCT = delayed(audio_NCT, _samples(values["delay_ms"], sample_rate_hz))
    soft_NCT = filtered(echo_NCT, designs.one_pole(values["high_cut_hz"], sample_rate_hz))
    return added(audio_NCT, soft_NCT, values["level_db"])


def _echo(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    delay_N = _samples(values["delay_ms"], sample_rate_hz)
    echo_NCT = repeated(delayed(audio_NCT, delay_N), delay_N, values["feedback"])
    return added(audio_NCT, echo_NCT, values["level_db"])


def _ping_pong(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Repeat the sum of both channels on the left and on the right in turn."""
    delay_N, feedback_N = _samples(values["delay_ms"], sample_rate_hz), values["feedback"]
    left_N1T = delayed(audio_NCT.mean(dim=1, keepdim=True), delay_N)
    left_N1T = repeated(left_N1T, 2 * delay_N, feedback_N.square())
    right_N1T = delayed(left_N1T, delay_N) * feedback_N[:, None, None]
    return added(audio_NCT, torch.cat([left_N1T, right_N1T], dim=1), values["level_db"])


def _tape_delay(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Repeat the sound with fewer highs and lows each time."""
    echo_NCT = repeated_through_filter(
        audio_NCT,
        _samples(values["delay_ms"], sample_rate_hz),
        values["feedback"],
        values["low_cut_hz"],
        values["high_cut_hz"],
        sample_rate_hz,
    )
    return added(audio_NCT, echo_NCT, values["level_db"])


def _multi_tap(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add a rhythm of echoes on both sides, each quieter than the one before."""
    mono_N1T = audio_NCT.mean(dim=1, keepdim=True)
    result_NCT = audio_NCT.clone()
    for number, (multiple, side) in enumerate(_TAPS):
        delay_N = _samples(multiple * values["delay_ms"], sample_rate_hz)
        gain_N11 = amplitude(values["level_db"] - number * values["fall_db"])[:, None, None]
        tap_N1T = delayed(mono_N1T, delay_N) * gain_N11
        result_NCT[:, :1] += (1 - side) / 2 * tap_N1T
        result_NCT[:, 1:] += (1 + side) / 2 * tap_N1T
    return result_NCT


def _haas(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Delay one channel by some milliseconds: the left one where they are negative."""
    delay_N = values["delay_ms"] * (sample_rate_hz / 1000)
    left_N1T = delayed(audio_NCT[:, :1], (-delay_N).clamp_min(0))
    return torch.cat([left_N1T, delayed(audio_NCT[:, 1:], delay_N.clamp_min(0))], dim=1)


def _reverse_echo(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    """Add pieces of the sound, played backwards after they have passed."""
    echo_NCT = reversed_pieces(audio_NCT, _samples(values["delay_ms"], sample_rate_hz))
    return added(audio_NCT, echo_NCT, values["level_db"])


EFFECTS = (
    Effect(
        "slap",
        FAMILY,
        (
            Parameter("delay_ms", "ms", 50.0, 160.0, "log"),
            _LEVEL,
            Parameter("high_cut_hz", "Hz", 1_500.0, 14_000.0, "log"),
        ),
        _slap,
    ),
    Effect("echo", FAMILY, (_DELAY, _FEEDBACK, _LEVEL), _echo),
    Effect("ping_pong", FAMILY, (_DELAY, _FEEDBACK, _LEVEL), _ping_pong),
    Effect(
        "tape_delay",
        FAMILY,
        (
            _DELAY,
            _FEEDBACK,
            Parameter("low_cut_hz", "Hz", 40.0, 500.0, "log"),
            Parameter("high_cut_hz", "Hz", 1_200.0, 8_000.0, "log"),
            _LEVEL,
        ),
        _tape_delay,
    ),
    Effect(
        "multi_tap",
        FAMILY,
        (
            Parameter("delay_ms", "ms", 80.0, 400.0, "log"),
            _LEVEL,
            Parameter("fall_db", "dB", 0.0, 5.0),
        ),
        _multi_tap,
        is_held_out=True,
    ),
    Effect("haas", FAMILY, (Parameter("delay_ms", "ms", -35.0, 35.0),), _haas),
    Effect(
        "reverse_echo",
        FAMILY,
        (Parameter("delay_ms", "ms", 200.0, 900.0, "log"), _LEVEL),
        _reverse_echo,
        is_held_out=True,
    ),
)
