"""Distance of two mixes of different music, by five features of their sound.

| term | feature | weight of the squared difference |
| --- | --- | --- |
| `rms` | root mean square of left and right, amplitude | 0.1 |
| `crest` | peak over RMS of left and right, dB | 0.001 |
| `width` | energy of side over mid | 1 |
| `imbalance` | energy of right less left, over both | 1 |
| `bark` | natural logarithm of the amplitude of mid and side in 24 critical bands | 0.1 |

Features and weights are those by which Diff-MST trains. What is corrected: a floor of -80 dBFS
keeps the empty side of a mono mix from costing more than all else together; a side over mid beyond
`MOST_WIDTH` counts as that, so that a mix without mid is no infinite distance; silence is finite.

Shape suffixes: B mix, C channel, T sample, F frequency bin, K band.

Source: Vanka, Steinmetz, Rolland, Reiss and Fazekas 2024, "Diff-MST: Differentiable Mixing Style
Transfer"; edges of the critical bands: Zwicker 1961.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from mixprint.dsp.spectral_distance import FLOOR_DBFS
from mixprint.features.level import crest_db

WEIGHTS: Mapping[str, float] = {
    "rms": 0.1,
    "crest": 0.001,
    "width": 1.0,
    "imbalance": 1.0,
    "bark": 0.1,
}
"""Term -> weight."""

BARK_EDGES_HZ = (
    *(20.0, 100.0, 200.0, 300.0, 400.0, 510.0, 630.0, 770.0, 920.0, 1080.0, 1270.0, 1480.0, 1720.0),
    *(2000.0, 2320.0, 2700.0, 3150.0, 3700.0, 4400.0, 5300.0, 6400.0, 7700.0, 9500.0, 12_000.0),
    15_500.0,
)
MOST_WIDTH = 4.0
_NUM_FFT = 32_768
_FLOOR_POWER = 10 ** (FLOOR_DBFS / 10)


def audio_features(mix_BCT: Tensor, sample_rate_hz: int) -> dict[str, Tensor]:
    """Measure the five features, differentiable.

    Args:
        mix_BCT: stereo, full scale at +-1.
        sample_rate_hz: of the audio, 32 kHz or more.

    Returns:
        term -> value `B...`.
    """
    power_BC = mix_BCT.square().mean(dim=-1) + _FLOOR_POWER
    left_B, right_B = power_BC.unbind(dim=-1)
    left_BT, right_BT = mix_BCT.unbind(dim=1)
    parts_B2T = torch.stack([left_BT + right_BT, left_BT - right_BT], dim=1) / 2
    mid_B, side_B = (parts_B2T.square().mean(dim=-1) + _FLOOR_POWER).unbind(dim=-1)
    return {
        "rms": power_BC.sqrt(),
        "crest": crest_db(mix_BCT.abs().amax(dim=-1), power_BC),
        "width": (side_B / mid_B).clamp_max(MOST_WIDTH),
        "imbalance": (right_B - left_B) / (right_B + left_B),
        "bark": _bark_levels(parts_B2T, sample_rate_hz),
    }


def audio_feature_terms(
    output_BCT: Tensor, reference_BCT: Tensor, sample_rate_hz: int
) -> dict[str, Tensor]:
    """Return the weighted terms of the distance, one number each; their sum is the distance.

    Args:
        output_BCT: mixes.
        reference_BCT: as many, of any length and of other music.
        sample_rate_hz: of both.
    """
    found, wanted = (audio_features(x, sample_rate_hz) for x in (output_BCT, reference_BCT))
    return {
        name: weight * (found[name] - wanted[name]).square().mean()
        for name, weight in WEIGHTS.items()
    }


def _bark_levels(audio_BCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the natural logarithm of the mean amplitude in critical bands: level_BCK."""
    flat_BT = audio_BCT.flatten(0, 1)
    spectrum_BFM = torch.stft(
        flat_BT,
        _NUM_FFT,
        _NUM_FFT // 2,
        window=_window(audio_BCT.device),
        pad_mode="constant",
        return_complex=True,
    )
    power_BF = (spectrum_BFM.real.square() + spectrum_BFM.imag.square()).mean(dim=-1)
    power_BK = power_BF @ _bands(sample_rate_hz, audio_BCT.device)
    return (power_BK + _FLOOR_POWER).log().unflatten(0, audio_BCT.shape[:2]) / 2


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _window(device: torch.device) -> Tensor:
    """Return a window by which a full-scale sine has the power 1/2 in all bins together."""
    window_T = torch.hann_window(_NUM_FFT, device=device)
    return window_T * (2 / (_NUM_FFT * window_T.square().sum())).sqrt()


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _bands(sample_rate_hz: int, device: torch.device) -> Tensor:
    hz_F = torch.arange(_NUM_FFT // 2 + 1) * (sample_rate_hz / _NUM_FFT)
    low_K, high_K = torch.tensor(BARK_EDGES_HZ[:-1]), torch.tensor(BARK_EDGES_HZ[1:])
    return ((hz_F[:, None] >= low_K) & (hz_F[:, None] < high_K)).float().to(device)
