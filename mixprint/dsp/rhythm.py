"""Onsets: how much begins at each time, and how alike two rhythms are.

Shape suffixes: S signal, T sample, F frequency bin, B band, N frame.

Source: spectral flux with compressed magnitudes, half-wave rectified (Bello et al., "A tutorial on
onset detection in music signals", IEEE TSAP 13(5), 2005).
"""

import math

import torch
from torch import Tensor

FRAMES_PER_S = 75
LOWEST_HZ, HIGHEST_HZ, NUM_BANDS = 40.0, 4_300.0, 16
# Of magnitudes relative to the loudest, before the logarithm: -40 dB and less hardly count.
_COMPRESSION = 100.0
_MOST_LAG_FRAMES = 2
_TINY = 1e-12


def onset_envelope(audio_ST: Tensor, sample_rate_hz: int) -> Tensor:
    """Measure how much the levels of 16 bands up to 4.3 kHz rise from frame to frame.

    Args:
        audio_ST: signals; their percussive parts tell it most clearly.
        sample_rate_hz: a multiple of `FRAMES_PER_S`.

    Returns:
        onset_SN, `FRAMES_PER_S` a second, 0 and more; it does not depend on the gain.
    """
    hop = sample_rate_hz // FRAMES_PER_S
    window_samples = 4 * hop
    window_T = torch.hann_window(window_samples, device=audio_ST.device)
    spectrum_SFN = torch.stft(audio_ST, window_samples, hop, window=window_T, return_complex=True)
    power_SFN = torch.view_as_real(spectrum_SFN).square().sum(dim=-1)
    bands_FB = _bands(window_samples, sample_rate_hz).to(audio_ST)
    # The floor keeps the gradient of the root finite in silence.
    level_SBN = (power_SFN.mT @ bands_FB).mT.clamp_min(_TINY**2).sqrt()
    loudest_S11 = level_SBN.amax(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    rise_SBN = torch.log1p(_COMPRESSION * level_SBN / loudest_S11).diff(dim=-1).clamp_min(0)
    return torch.nn.functional.pad(rise_SBN.sum(dim=1), (1, 0))


def rhythm_likeness(onset_SN: Tensor, other_SN: Tensor) -> Tensor:
    """Correlate onset envelopes, at the best of the lags up to two frames: likeness_S, -1 to 1.

    An envelope without any onset is like none: 0.
    """
    length = min(onset_SN.shape[-1], other_SN.shape[-1])
    onset_SN, other_SN = onset_SN[..., :length], other_SN[..., :length]
    found = []
    for lag in range(-_MOST_LAG_FRAMES, _MOST_LAG_FRAMES + 1):
        here_SN = onset_SN[..., max(lag, 0) : length + min(lag, 0)]
        there_SN = other_SN[..., max(-lag, 0) : length + min(-lag, 0)]
        found.append(correlation(here_SN, there_SN))
    return torch.stack(found).amax(dim=0)


def correlation(a_SN: Tensor, b_SN: Tensor) -> Tensor:
    """Correlate signals of one length: correlation_S, -1 to 1, 0 where one does not change."""
    a_SN, b_SN = (x_SN - x_SN.mean(dim=-1, keepdim=True) for x_SN in (a_SN, b_SN))
    norm_S = a_SN.norm(dim=-1) * b_SN.norm(dim=-1)
    return (a_SN * b_SN).sum(dim=-1) / norm_S.clamp_min(_TINY)


def _bands(window_samples: int, sample_rate_hz: int) -> Tensor:
    """Return which band a bin is in, one or none: bands_FB."""
    edges_hz = torch.logspace(math.log10(LOWEST_HZ), math.log10(HIGHEST_HZ), NUM_BANDS + 1)
    bins_F1 = torch.arange(window_samples // 2 + 1)[:, None] * sample_rate_hz / window_samples
    # A bin counts for each band that its width meets, so that low bands are not empty.
    half_hz = sample_rate_hz / window_samples / 2
    low_F1, high_F1 = bins_F1 - half_hz, bins_F1 + half_hz
    overlap_FB = torch.minimum(high_F1, edges_hz[1:]) - torch.maximum(low_F1, edges_hz[:-1])
    return overlap_FB.clamp_min(0) / (2 * half_hz)
