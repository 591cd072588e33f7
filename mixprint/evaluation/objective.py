"""Objective measure of a mix beside a reference of other music, as Diff-MST reports it.

`published_terms` is the measure of its table, with its faults, so that figures can be compared:

- amplitudes, which depend on the level of the reference, in place of levels;
- magnitudes of a rectangular window of 32,768 samples, in triangular bands of Traunmueller's scale
  whose upper end, for a correction that is left out on the way back, lies above 20 kHz;
- the logarithm of an empty side, held at 1e-8 only, by which mixes in mono cost 33.

`corrected_terms` are the same features in dB, with the floors and bands of
`mixprint.controller.audio_features`.

Shape suffixes: C channel, T sample, F frequency bin, M frame, K band.

Source: Vanka, Steinmetz, Rolland, Reiss and Fazekas 2024, "Diff-MST: Differentiable Mixing Style
Transfer", and the facts of its published code; Traunmueller 1990 (JASA 88(1)).
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from mixprint.controller.audio_features import WEIGHTS, audio_features

TERMS: Mapping[str, tuple[str, float]] = {
    "rms": ("RMS", 1e3),
    "crest": ("CF", 1e1),
    "width": ("SW", 1e2),
    "imbalance": ("SI", 1e2),
    "bark": ("BS", 1.0),
}
"""Term -> its column in the published table, and how many units of that it is."""

_NUM_FFT, _NUM_BANDS = 32_768, 24
_LOW_HZ, _HIGH_HZ = 20.0, 20_000.0
_TINY = 1e-8
_DB_PER_NEPER = 20 / math.log(10)
# A side that is silent would be infinitely far from one that is not.
_LEAST = 1e-6


def published_terms(mix_CT: Tensor, reference_CT: Tensor, sample_rate_hz: int) -> dict[str, float]:
    """Return the weighted terms of the published measure; their sum is `AF`.

    Args:
        mix_CT: the mix, stereo, full scale at +-1.
        reference_CT: of any length.
        sample_rate_hz: of both.
    """
    found, wanted = (_published_features(x, sample_rate_hz) for x in (mix_CT, reference_CT))
    return {
        name: weight * float((found[name] - wanted[name]).square().mean())
        for name, weight in WEIGHTS.items()
    }


def corrected_terms(mix_CT: Tensor, reference_CT: Tensor, sample_rate_hz: int) -> dict[str, float]:
    """Return the root mean square difference of each feature, in dB.

    Args:
        mix_CT: the mix, stereo, full scale at +-1.
        reference_CT: of any length.
        sample_rate_hz: of both.
    """
    found, wanted = (_levels_db(x, sample_rate_hz) for x in (mix_CT, reference_CT))
    return {name: float((found[name] - wanted[name]).square().mean().sqrt()) for name in WEIGHTS}


def _levels_db(mix_CT: Tensor, sample_rate_hz: int) -> dict[str, Tensor]:
    of = audio_features(mix_CT[None], sample_rate_hz)
    right = of["imbalance"].clamp(_LEAST - 1, 1 - _LEAST)
    return {
        "rms": 20 * of["rms"].log10(),
        "crest": of["crest"],
        "width": 10 * of["width"].clamp_min(_LEAST).log10(),
        "imbalance": 10 * ((1 + right) / (1 - right)).log10(),
        "bark": _DB_PER_NEPER * of["bark"],
    }


def _published_features(mix_CT: Tensor, sample_rate_hz: int) -> dict[str, Tensor]:
    power_C = mix_CT.square().mean(dim=-1)
    rms_C = power_C.clamp_min(_TINY).sqrt()
    left_T, right_T = mix_CT
    parts_2T = torch.stack([left_T + right_T, left_T - right_T])
    sum_power, difference_power = parts_2T.square().mean(dim=-1)
    left, right = power_C
    spectrum_2FM = torch.stft(
        parts_2T,
        _NUM_FFT,
        _NUM_FFT // 4,
        window=torch.ones(_NUM_FFT, device=mix_CT.device),
        return_complex=True,
    )
    level_2K = spectrum_2FM.abs().mean(dim=-1) @ _triangles(sample_rate_hz).to(mix_CT)
    return {
        "rms": rms_C,
        "crest": 20 * (mix_CT.abs().amax(dim=-1) / rms_C).clamp_min(_TINY).log10(),
        "width": difference_power / sum_power.clamp_min(_TINY),
        "imbalance": (right - left) / (right + left).clamp_min(_TINY),
        "bark": (level_2K + _TINY).log(),
    }


def _bark(freq_hz: float) -> float:
    bark = 26.81 * freq_hz / (1960.0 + freq_hz) - 0.53
    if bark < 2.0:
        return bark + 0.15 * (2.0 - bark)
    return bark + 0.22 * max(bark - 20.1, 0.0)


@lru_cache(maxsize=4)
def _triangles(sample_rate_hz: int) -> Tensor:
    """Return the bands, FK: triangles between points that are evenly spaced in Bark."""
    bark_K = torch.linspace(_bark(_LOW_HZ), _bark(_HIGH_HZ), _NUM_BANDS + 2)
    bark_K = torch.where(bark_K < 2.0, (bark_K - 0.3) / 0.85, bark_K)
    # The correction above 20.1 Bark is left out here, as it is there.
    point_hz_K = 1960.0 * (bark_K + 0.53) / (26.28 - bark_K)
    hz_F1 = torch.linspace(0, sample_rate_hz // 2, _NUM_FFT // 2 + 1)[:, None]
    low_K, middle_K, high_K = point_hz_K[:-2], point_hz_K[1:-1], point_hz_K[2:]
    rise_FK = (hz_F1 - low_K) / (middle_K - low_K)
    fall_FK = (high_K - hz_F1) / (high_K - middle_K)
    return torch.minimum(rise_FK, fall_FK).clamp_min(0.0)
