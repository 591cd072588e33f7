"""Mel filters.

Shape suffixes: M mel, F frequency bin, 1 one.

Source: the HTK mel scale, 2595 log10(1 + f / 700).
"""

import math

import torch
from torch import Tensor


def mel(frequency_hz: float) -> float:
    """Return the place of a frequency on the mel scale."""
    return 2595.0 * math.log10(1 + frequency_hz / 700)


def mel_filterbank(num_mels: int, n_fft: int, sample_rate_hz: int) -> Tensor:
    """Build triangular mel filters, each a weighted mean over the bins (its weights sum to 1).

    A triangle is averaged over the width of each bin instead of being sampled at its centre:
    with many mels and a short window the low triangles fall between two centres, and sampling
    would leave them empty.

    Returns:
        filters_MF, float32.
    """
    top = torch.tensor(1 + sample_rate_hz / 2 / 700, dtype=torch.float64)
    top_mel = 2595.0 * torch.log10(top)
    mels = torch.linspace(0.0, float(top_mel), num_mels + 2, dtype=torch.float64)
    edges_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    left_M1, centre_M1, right_M1 = (edges_hz[i : i + num_mels, None] for i in range(3))
    bin_hz = sample_rate_hz / n_fft
    borders_hz = (torch.arange(n_fft // 2 + 2, dtype=torch.float64) - 0.5) * bin_hz

    def ramp_area(from_hz: Tensor) -> Tensor:
        return (borders_hz - from_hz).clamp_min(0).square() / 2

    # A triangle is a ramp up, a steeper ramp down from its top, and a ramp up that ends it.
    rise, fall = 1 / (centre_M1 - left_M1), 1 / (right_M1 - centre_M1)
    area = ramp_area(left_M1) * rise - ramp_area(centre_M1) * (rise + fall)
    area = area + ramp_area(right_M1) * fall
    filters_MF = area.diff(dim=-1).clamp_min(0)
    return (filters_MF / filters_MF.sum(dim=-1, keepdim=True)).float()
