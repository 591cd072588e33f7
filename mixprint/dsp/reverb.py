"""Reverbs of several kinds: impulse responses of many signals at once, and how they are mixed in.

All noise is fixed: drawn anew each time, equal settings would differ. A response does not depend on
which others are made with it.

Shape suffixes: N signal, C channel, T sample, L tap, F frequency bin, K echo.

Sources: decaying noise and damped combs, Moorer 1979 (CMJ 3(2)); combs and all-passes, Schroeder
1962 (JAES 10(3)); all-pass cascades for springs, Välimäki, Parker and Abel 2010 (JAES 58(7/8));
dispersion of plates, Arcas and Chaigne 2010 (Applied Acoustics 71(2)).
"""

import math
from functools import lru_cache

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import convolved
from mixprint.dsp.room import answered

MAX_DECAY_S = 4.0
MAX_PREDELAY_S = 0.1
# Combs and springs are computed on a fixed grid, on which they have died away.
_GRID_S = 4.5
MAX_GRID_DECAY_S = 2.5
_SPLIT_HZ = 3_000.0  # highs above it may die away sooner
_PLATE_DELAY_S = 0.03  # of bending waves at 100 Hz
_SPRING_HZ = 4_300.0  # above it a spring passes nothing
_SPRING_COEFFICIENT = 0.62
_SPRING_RATIOS = (1.0, 1.13)  # of the delays in both channels
# Of both channels in ms; about evenly spread in their logarithm, without common factors.
_COMBS_MS = ((29.7, 37.1, 41.1, 43.7), (30.9, 36.3, 42.5, 44.9))
_ALLPASSES_MS = (5.0, 1.7)
_ALLPASS_COEFFICIENT = 0.7
_NUM_REFLECTIONS = 24
_FADE_S = 0.01
_CHANNELS = 2


def wet_mixed(
    audio_NCT: Tensor, impulse_NCL: Tensor, wet_N: Tensor, *, from_mono: bool = False
) -> Tensor:
    """Mix in what impulse responses answer, at equal power.

    Args:
        audio_NCT: stereo signals.
        impulse_NCL: one response per channel; each is brought to the energy of an impulse.
        wet_N: part of the reverb in the power of the result, 0..1.
        from_mono: whether the mean of both channels is sent, else each its own.
    """
    energy_NC1 = impulse_NCL.square().sum(dim=-1, keepdim=True)
    impulse_NCL = impulse_NCL * energy_NC1.clamp_min(1e-20).rsqrt()
    if from_mono:
        answer_NCT = answered(audio_NCT.mean(dim=1), impulse_NCL)
    else:
        rows_MT = convolved(audio_NCT.flatten(0, 1)[:, None], impulse_NCL.flatten(0, 1))
        answer_NCT = rows_MT.view_as(audio_NCT)
    wet_N11 = wet_N[:, None, None]
    return (1 - wet_N11).sqrt() * audio_NCT + wet_N11.sqrt() * answer_NCT


def room_impulse(
    decay_s_N: Tensor, predelay_ms_N: Tensor, high_ratio_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Make rooms of noise that dies away, the highs sooner: impulse_NCL.

    Args:
        decay_s_N: time to fall by 60 dB, up to `MAX_DECAY_S`.
        predelay_ms_N: silence before.
        high_ratio_N: decay above 3 kHz in parts of that below.
        sample_rate_hz: of the audio.
    """
    low_CL, high_CL = (x.to(decay_s_N.device) for x in _noise_bands(sample_rate_hz))
    time_NL = _times(decay_s_N, sample_rate_hz) - predelay_ms_N[:, None] / 1_000
    low_NL = _decays(time_NL, decay_s_N)
    high_NL = _decays(time_NL, decay_s_N * high_ratio_N)
    num_taps = time_NL.shape[-1]
    return low_CL[:, :num_taps] * low_NL[:, None] + high_CL[:, :num_taps] * high_NL[:, None]


def plate_impulse(decay_s_N: Tensor, brightness_db_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Make plates: dense at once, bright, and the highs arrive first: impulse_NCL.

    Args:
        decay_s_N: time to fall by 60 dB, up to `MAX_DECAY_S`.
        brightness_db_N: gain of what is above 3 kHz.
        sample_rate_hz: of the audio.
    """
    low_CL, high_CL = (x.to(decay_s_N.device) for x in _plate_bands(sample_rate_hz))
    time_NL = _times(decay_s_N, sample_rate_hz)
    num_taps = time_NL.shape[-1]
    gain_N11 = amplitude(brightness_db_N)[:, None, None]
    carrier_NCL = low_CL[:, :num_taps] + gain_N11 * high_CL[:, :num_taps]
    return carrier_NCL * _decays(time_NL, decay_s_N)[:, None]


def gated_impulse(length_s_N: Tensor, slope_db_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Make rooms whose tail is cut off: impulse_NCL.

    Args:
        length_s_N: when it is cut.
        slope_db_N: how far it has fallen by then.
        sample_rate_hz: of the audio.
    """
    return _windowed(length_s_N, -slope_db_N, torch.zeros_like(slope_db_N), sample_rate_hz)


def reversed_impulse(length_s_N: Tensor, rise_db_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Make rooms played backwards: they swell and break off: impulse_NCL.

    Args:
        length_s_N: when it breaks off.
        rise_db_N: how far it has risen by then.
        sample_rate_hz: of the audio.
    """
    return _windowed(length_s_N, torch.zeros_like(rise_db_N), -rise_db_N, sample_rate_hz)


def reflection_impulse(size_ms_N: Tensor, slope_db_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Make early reflections without a tail: impulse_NCL.

    Args:
        size_ms_N: when the last reflection comes.
        slope_db_N: how far they have fallen by then.
        sample_rate_hz: of the audio.
    """
    at_CK, sign_CK = (x.to(size_ms_N.device) for x in _reflections())
    tap_NCK = (at_CK * size_ms_N[:, None, None] * sample_rate_hz / 1_000).round().long()
    gain_NCK = sign_CK * amplitude(-slope_db_N[:, None, None] * at_CK)
    num_taps = math.ceil(float(size_ms_N.max()) * sample_rate_hz / 1_000) + 1
    impulse_NCL = gain_NCK.new_zeros(len(size_ms_N), _CHANNELS, num_taps)
    return impulse_NCL.scatter_add_(-1, tap_NCK, gain_NCK)


def comb_impulse(
    decay_s_N: Tensor, size_N: Tensor, damping_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Make Schroeder's reverbs: four parallel combs, each with a low-pass, and two all-passes.

    Args:
        decay_s_N: time to fall by 60 dB, up to `MAX_GRID_DECAY_S`.
        size_N: factor of all delays.
        damping_N: coefficient of the low-pass in the loops, 0 none .. below 1.
        sample_rate_hz: of the audio.

    Returns:
        impulse_NCL.
    """
    num_fft = _grid_size(sample_rate_hz)
    delay_s_NCK = torch.tensor(_COMBS_MS, device=size_N.device) / 1_000 * size_N[:, None, None]
    gain_NCK = torch.pow(10.0, -3 * delay_s_NCK / decay_s_N[:, None, None])
    step_F = delay_response(torch.ones((), device=size_N.device), num_fft)
    damping_N11 = damping_N[:, None, None]
    loop_N1F = (1 - damping_N11) * torch.reciprocal(1 - damping_N11 * step_F)
    spectrum_NCF = torch.zeros((), device=size_N.device)
    for gain_NC, delay_s_NC in zip(gain_NCK.unbind(-1), delay_s_NCK.unbind(-1), strict=True):
        turn_NCF = delay_response(delay_s_NC * sample_rate_hz, num_fft)
        rest_NCF = 1 - gain_NC[..., None] * loop_N1F * turn_NCF
        spectrum_NCF = spectrum_NCF + turn_NCF * rest_NCF.reciprocal_()
    for delay_ms in _ALLPASSES_MS:
        turn_NF = delay_response(delay_ms / 1_000 * size_N * sample_rate_hz, num_fft)
        spectrum_NCF = spectrum_NCF * allpass(turn_NF, _ALLPASS_COEFFICIENT)[:, None]
    return torch.fft.irfft(spectrum_NCF, n=num_fft)


def spring_impulse(
    delay_ms_N: Tensor, decay_s_N: Tensor, dispersion_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Make springs: echoes that are chirps, longer each time: impulse_NCL.

    Args:
        delay_ms_N: there and back along the spring.
        decay_s_N: time to fall by 60 dB, up to `MAX_GRID_DECAY_S`.
        dispersion_N: number of all-passes in the loop.
        sample_rate_hz: of the audio.
    """
    num_fft = _grid_size(sample_rate_hz)
    frequency_hz_F = torch.fft.rfftfreq(num_fft, 1 / sample_rate_hz, device=delay_ms_N.device)
    # One all-pass, stretched so that its delay is longest at the highest frequency that passes.
    turn_F = _turned((math.pi * frequency_hz_F / _SPRING_HZ).clamp_max(math.pi))
    phase_F = allpass(turn_F, -_SPRING_COEFFICIENT).angle()
    # It falls from 0 to -pi, which an angle may give as pi.
    phase_F = torch.where(phase_F > math.pi / 2, phase_F - 2 * math.pi, phase_F)
    chirp_NF = _turned(-dispersion_N[:, None] * phase_F)
    delay_s_NC = delay_ms_N[:, None] / 1_000 * torch.tensor(_SPRING_RATIOS, device=chirp_NF.device)
    gain_NC = torch.pow(10.0, -3 * delay_s_NC / decay_s_N[:, None])
    loop_NCF = gain_NC[..., None] * delay_response(delay_s_NC * sample_rate_hz, num_fft)
    loop_NCF = loop_NCF * chirp_NF[:, None]
    passed_F = 1 / (1 + (frequency_hz_F / _SPRING_HZ) ** 16)
    # Each end of the spring turns the sign.
    return torch.fft.irfft(loop_NCF * torch.reciprocal(1 + loop_NCF) * passed_F, n=num_fft)


def allpass(turn: Tensor, coefficient: Tensor | float) -> Tensor:
    """Return the response of Schroeder's all-pass around a delay.

    Args:
        turn: what the delay does at each frequency, on the unit circle.
        coefficient: of both paths, below 1.
    """
    # A division of complex numbers takes five times as long as this.
    return (turn - coefficient) * torch.reciprocal(1 - coefficient * turn)


def delay_response(samples: Tensor, num_fft: int) -> Tensor:
    """Return what delays, rounded to whole samples, do at the bins of a transform.

    Args:
        samples: the delays, of any shape.
        num_fft: length of the transform.

    Returns:
        response, with one more axis F.
    """
    bin_F = torch.arange(num_fft // 2 + 1, dtype=torch.float64, device=samples.device)
    # In whole turns first: the angle of a long delay at a high bin is as exact as any.
    turn = (samples.double().round()[..., None] * (bin_F / num_fft)).frac_()
    return _turned(2 * math.pi * turn.float())


def _turned(angle: Tensor) -> Tensor:
    """Return exp(-j angle)."""
    return torch.complex(angle.cos(), -angle.sin())


def _grid_size(sample_rate_hz: int) -> int:
    return next_fast_len(round(_GRID_S * sample_rate_hz), real=True)


def _times(longest_s_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Return time_NL of taps, in seconds, until the longest has died away after its predelay."""
    longest_s = min(float(longest_s_N.max()), MAX_DECAY_S) + MAX_PREDELAY_S
    tap_L = torch.arange(round(longest_s * sample_rate_hz), device=longest_s_N.device)
    return (tap_L / sample_rate_hz).expand(len(longest_s_N), -1)


def _decays(time_NL: Tensor, decay_s_N: Tensor) -> Tensor:
    """Fall by 60 dB in the decay from time 0 to the end; nothing before and after."""
    decay_s_N1 = decay_s_N[:, None]
    is_heard_NL = (time_NL >= 0) & (time_NL < decay_s_N1)
    return torch.pow(10.0, -3 * time_NL.clamp_min(0) / decay_s_N1) * is_heard_NL


def _windowed(
    length_s_N: Tensor, end_db_N: Tensor, start_db_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Cut noise whose level runs evenly from one to another, and fade its end out."""
    time_NL = _times(length_s_N, sample_rate_hz)
    length_N1 = length_s_N[:, None]
    level_db_NL = start_db_N[:, None] + (end_db_N - start_db_N)[:, None] * time_NL / length_N1
    fade_NL = ((length_N1 - time_NL) / _FADE_S).clamp(0, 1)
    noise_CL = _noise(sample_rate_hz)[:, : time_NL.shape[-1]].to(length_s_N.device)
    return noise_CL * (amplitude(level_db_NL) * fade_NL)[:, None]


@lru_cache(maxsize=4)
def _noise(sample_rate_hz: int) -> Tensor:
    """Return the noise of all tails, another in each channel: noise_CL."""
    shape = (_CHANNELS, round((MAX_DECAY_S + MAX_PREDELAY_S) * sample_rate_hz))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@lru_cache(maxsize=4)
def _noise_bands(sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    """Return the noise below and above `_SPLIT_HZ`; both add up to it."""
    noise_CL = _noise(sample_rate_hz)
    low_CL = _low_part(torch.fft.rfft(noise_CL), noise_CL.shape[-1], sample_rate_hz)
    return low_CL, noise_CL - low_CL


@lru_cache(maxsize=4)
def _plate_bands(sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    """Return the noise with the dispersion of bending waves, below and above `_SPLIT_HZ`.

    Their delay falls with the root of the frequency. Its phase is the integral over the frequency:
    2 pi * 2 * delay(100 Hz) * sqrt(100 Hz * f).
    """
    noise_CL = _noise(sample_rate_hz)
    num_taps = noise_CL.shape[-1]
    # Behind the noise there is room for what comes late, which would else wrap to the start.
    num_fft = next_fast_len(num_taps + sample_rate_hz, real=True)
    frequency_hz_F = torch.fft.rfftfreq(num_fft, 1 / sample_rate_hz)
    angle_F = 4 * math.pi * _PLATE_DELAY_S * (100.0 * frequency_hz_F).sqrt()
    spectrum_CF = torch.fft.rfft(noise_CL, n=num_fft) * _turned(angle_F)
    low_CL = _low_part(spectrum_CF, num_fft, sample_rate_hz)[:, :num_taps]
    return low_CL, torch.fft.irfft(spectrum_CF, n=num_fft)[:, :num_taps] - low_CL


def _low_part(spectrum_CF: Tensor, num_fft: int, sample_rate_hz: int) -> Tensor:
    frequency_hz_F = torch.fft.rfftfreq(num_fft, 1 / sample_rate_hz)
    return torch.fft.irfft(spectrum_CF / (1 + (frequency_hz_F / _SPLIT_HZ) ** 4), n=num_fft)


@lru_cache(maxsize=1)
def _reflections() -> tuple[Tensor, Tensor]:
    """Return when reflections come, in parts of the whole, the last at its end; and their signs."""
    generator = torch.Generator().manual_seed(1)
    at_CK = torch.rand(_CHANNELS, _NUM_REFLECTIONS, generator=generator).cumsum(dim=-1)
    sign_CK = torch.randint(2, at_CK.shape, generator=generator) * 2.0 - 1.0
    return at_CK / at_CK[:, -1:], sign_CK
