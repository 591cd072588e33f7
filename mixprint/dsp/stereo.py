"""Stereo tools: matrices of both channels, and filters that treat middle and side in two ways.

Middle and side are half the sum and half the difference of the channels.

Shape suffixes: N signal, C channel, T sample, F frequency bin.

Sources: all-pass around a delay, Schroeder 1962 (JAES 10(3)); complementary combs for stereo out of
one channel, Lauridsen 1954 (as described by Schroeder 1958, JAES 6(2)).
"""

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.dsp.decibels import amplitude
from mixprint.dsp.delays import delayed
from mixprint.dsp.equaliser import cut
from mixprint.dsp.filter_designs import tilt
from mixprint.dsp.filters import filtered
from mixprint.dsp.reverb import allpass, delay_response

_PIVOT_HZ = 1_000.0  # of tilts
_RINGING_S = 0.5  # all-passes have died away
# In each channel; without common factors.
_DECORRELATION_MS = ((1.31, 2.87, 5.03), (1.73, 3.41, 4.37))


def panned(audio_NCT: Tensor, pan_N: Tensor) -> Tensor:
    """Weigh the channels at constant power: -1 keeps only the left one, 0 changes nothing."""
    angle_N = (pan_N + 1) * math.pi / 4
    gain_NC = math.sqrt(2) * torch.stack([torch.cos(angle_N), torch.sin(angle_N)], dim=-1)
    return audio_NCT * gain_NC[..., None]


def widened(audio_NCT: Tensor, width_N: Tensor) -> Tensor:
    """Multiply the side: 0 is mono, 1 changes nothing."""
    return _mid_side_scaled(audio_NCT, torch.ones_like(width_N), width_N)


def balanced(audio_NCT: Tensor, mid_db_N: Tensor, side_db_N: Tensor) -> Tensor:
    """Change the levels of middle and side."""
    return _mid_side_scaled(audio_NCT, amplitude(mid_db_N), amplitude(side_db_N))


def rotated(audio_NCT: Tensor, angle_deg_N: Tensor) -> Tensor:
    """Turn the image: by 45 degrees what was in the left channel is in the middle."""
    angle_N = torch.deg2rad(angle_deg_N)[:, None]
    left_NT, right_NT = audio_NCT.unbind(dim=1)
    cosine_N1, sine_N1 = torch.cos(angle_N), torch.sin(angle_N)
    return torch.stack(
        [cosine_N1 * left_NT - sine_N1 * right_NT, sine_N1 * left_NT + cosine_N1 * right_NT], dim=1
    )


def swapped(audio_NCT: Tensor) -> Tensor:
    """Exchange left and right."""
    return audio_NCT.flip(1)


def inverted(audio_NCT: Tensor) -> Tensor:
    """Turn the polarity of the right channel, which exchanges middle and side."""
    left_NT, right_NT = audio_NCT.unbind(dim=1)
    return torch.stack([left_NT, -right_NT], dim=1)


def tilted(
    audio_NCT: Tensor, mid_tilt_db_N: Tensor, side_tilt_db_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Tilt the spectra of middle and side around 1 kHz, by filters of first order.

    Args:
        audio_NCT: stereo signals.
        mid_tilt_db_N: highs less lows in the middle.
        side_tilt_db_N: the same in the side.
        sample_rate_hz: of the audio.
    """
    tilt_db_M = torch.stack([mid_tilt_db_N, side_tilt_db_N], dim=-1).flatten()
    sections = tilt(torch.full_like(tilt_db_M, _PIVOT_HZ), tilt_db_M, sample_rate_hz)
    mid_side_N2T = _mid_side(audio_NCT)
    # Each as a signal of its own.
    tilted_M1T = filtered(mid_side_N2T.flatten(0, 1)[:, None], sections)
    return _left_right(tilted_M1T.view_as(mid_side_N2T))


def bass_to_mono(audio_NCT: Tensor, frequency_hz_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Cut the side below a frequency, with 12 dB per octave."""
    mid_N1T, side_N1T = _mid_side(audio_NCT).split(1, dim=1)
    side_N1T = filtered(side_N1T, cut(frequency_hz_N, sample_rate_hz, high=True))
    return _left_right(torch.cat([mid_N1T, side_N1T], dim=1))


def decorrelated(
    audio_NCT: Tensor, coefficient_N: Tensor, size_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Send each channel through other all-passes, which leave its spectrum as it is.

    Args:
        audio_NCT: stereo signals.
        coefficient_N: of the all-passes, 0 (a delay alone) .. below 1.
        size_N: factor of their delays.
        sample_rate_hz: of the audio.
    """
    num_samples = audio_NCT.shape[-1]
    num_fft = next_fast_len(num_samples + round(_RINGING_S * sample_rate_hz), real=True)
    spectrum_NCF = torch.fft.rfft(audio_NCT, n=num_fft)
    delay_ms_CK = torch.tensor(_DECORRELATION_MS, device=audio_NCT.device)
    for delay_ms_C in delay_ms_CK.unbind(dim=-1):
        samples_NC = delay_ms_C / 1_000 * size_N[:, None] * sample_rate_hz
        turn_NCF = delay_response(samples_NC, num_fft)
        spectrum_NCF = spectrum_NCF * allpass(turn_NCF, coefficient_N[:, None, None])
    return torch.fft.irfft(spectrum_NCF, n=num_fft)[..., :num_samples]


def combed(audio_NCT: Tensor, delay_ms_N: Tensor, amount_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Add the delayed middle to the left channel and take it from the right one.

    What one channel gains at a frequency the other loses; the middle stays.

    Args:
        audio_NCT: stereo signals.
        delay_ms_N: of the middle.
        amount_N: its gain.
        sample_rate_hz: of the audio.
    """
    samples_N = (delay_ms_N * sample_rate_hz / 1_000).round().long()
    added_N1T = delayed(audio_NCT.mean(dim=1, keepdim=True), samples_N) * amount_N[:, None, None]
    return audio_NCT + torch.cat([added_N1T, -added_N1T], dim=1)


def _mid_side(audio_NCT: Tensor) -> Tensor:
    left_NT, right_NT = audio_NCT.unbind(dim=1)
    return torch.stack([left_NT + right_NT, left_NT - right_NT], dim=1) / 2


def _left_right(mid_side_N2T: Tensor) -> Tensor:
    mid_NT, side_NT = mid_side_N2T.unbind(dim=1)
    return torch.stack([mid_NT + side_NT, mid_NT - side_NT], dim=1)


def _mid_side_scaled(audio_NCT: Tensor, mid_N: Tensor, side_N: Tensor) -> Tensor:
    gain_N21 = torch.stack([mid_N, side_N], dim=-1)[..., None]
    return _left_right(_mid_side(audio_NCT) * gain_N21)
