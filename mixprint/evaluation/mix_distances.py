"""Distances of a mix to the truth, which generated songs have.

| measure | unit | meaning |
| --- | --- | --- |
| `stft` | 1 | spectra of the mixes at several resolutions (`dsp.spectral_distance`) |
| `bands_db` | dB | band levels of the mixes over 100 ms: without the fine structure of rooms |
| `stem_stft` | 1 | `stft` of each stem, the mean |
| `features` | standard deviations | root mean square difference of the 64 features |
| `loudness_lu` | LU | of the mixes, integrated |
| `stereo_db` | dB | side over mid, and left over right, of the mixes in three ranges |

`stft` follows each echo of a room: another room of the same level and reverb time is as far away as
none. `bands_db` hears its level and how it decays, and no echoes.

Shape suffixes: S stem, C channel (left, right, then mid and side), T sample, F frequency bin,
K band, M moment.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.features import Standardisation, extract, feature_distance
from mixprint.features.level import power_ratio_db
from mixprint.features.schema import BAND_EDGES_HZ
from mixprint.stems import SAMPLE_RATE_HZ

MEASURES: Mapping[str, str] = {
    "stft": "1",
    "bands_db": "dB",
    "stem_stft": "1",
    "features": "standard deviations",
    "loudness_lu": "LU",
    "stereo_db": "dB",
}
"""Measure -> unit; 0 is the truth itself."""

WINDOW = 8192
# Of the band levels. The lowest band is as wide as the next one: a level of noise over 100 ms
# varies by 4.3 dB over the root of the bandwidth times the time, 1 dB for 180 Hz.
MOMENT_S = 0.1
BAND_LEVEL_EDGES_HZ = (20.0, 200.0, 400.0, 800.0, 1_600.0, 3_200.0, 6_400.0, 12_800.0, 20_000.0)
FLOOR_DBFS = -70.0
_FRAMES_PER_MOMENT = 4


@torch.no_grad()
def distances(
    output_SCT: Tensor, truth_SCT: Tensor, truth_CT: Tensor, standardisation: Standardisation
) -> dict[str, float]:
    """Measure how far an output lies from the truth; see the module's docstring.

    Args:
        output_SCT: the stems of the output; their sum is its mix.
        truth_SCT: the stems of the truth, of the same kind.
        truth_CT: the truth's mix.
        standardisation: of the features.
    """
    output_CT = output_SCT.sum(0)
    features_2D = extract(torch.stack([output_SCT, truth_SCT]), SAMPLE_RATE_HZ)
    found: dict[str, Tensor | float] = {
        "stft": multi_resolution_stft(output_CT, truth_CT),
        "bands_db": band_level_distance_db(output_CT, truth_CT),
        "stem_stft": multi_resolution_stft(output_SCT, truth_SCT).mean(),
        "features": feature_distance(features_2D[:1], features_2D[1:], standardisation).squeeze(),
        "loudness_lu": abs(_lufs(output_CT) - _lufs(truth_CT)),
        "stereo_db": (_stereo_db(output_CT) - _stereo_db(truth_CT)).abs().mean(),
    }
    return {name: float(value) for name, value in found.items()}


def band_level_distance_db(a_CT: Tensor, b_CT: Tensor) -> Tensor:
    """Measure by how much levels differ, in bands about an octave wide and moments of 100 ms.

    Args:
        a_CT: stereo audio at `SAMPLE_RATE_HZ`, full scale at +-1, a moment or longer.
        b_CT: as long.

    Returns:
        mean difference in dB, over left, right, mid and side, of what is above `FLOOR_DBFS` in one
        of the two; below it all is equally silent. Two silences are equal.
    """
    a_CKM, b_CKM = (_band_levels_db(x_CT).clamp_min(FLOOR_DBFS) for x_CT in (a_CT, b_CT))
    sounds_CKM = (a_CKM > FLOOR_DBFS) | (b_CKM > FLOOR_DBFS)
    return (a_CKM - b_CKM).abs().sum() / sounds_CKM.sum().clamp_min(1)


def _band_levels_db(audio_CT: Tensor) -> Tensor:
    """Return level_db_CKM of left, right, mid and side; a full-scale sine has 0 dBFS."""
    left_T, right_T = audio_CT
    audio_CT = torch.stack([left_T, right_T, (left_T + right_T) / 2, (left_T - right_T) / 2])
    hop = round(MOMENT_S * SAMPLE_RATE_HZ / _FRAMES_PER_MOMENT)
    size = 2 * hop
    window_F = torch.hann_window(size, dtype=audio_CT.dtype)
    spectrum_CFM = torch.stft(
        audio_CT, size, hop, window=window_F, pad_mode="constant", return_complex=True
    )
    # The factor makes the sum over the bins of a full-scale sine 1.
    power_CFM = spectrum_CFM.abs().square() * (4 / (size * float(window_F.square().sum())))
    num_moments = power_CFM.shape[-1] // _FRAMES_PER_MOMENT
    moments_CFMN = power_CFM[..., : num_moments * _FRAMES_PER_MOMENT].unflatten(
        -1, (num_moments, _FRAMES_PER_MOMENT)
    )
    power_CFM = moments_CFMN.mean(-1)
    edges = [round(hz * size / SAMPLE_RATE_HZ) for hz in BAND_LEVEL_EDGES_HZ]
    power_CKM = torch.stack(
        [power_CFM[:, low:high].sum(1) for low, high in pairwise(edges)],
        dim=1,
    )
    return 10 * torch.log10(power_CKM.clamp_min(1e-12))


def _lufs(audio_CT: Tensor) -> float:
    return loudness_lufs(audio_CT, SAMPLE_RATE_HZ)


def _stereo_db(audio_CT: Tensor) -> Tensor:
    """Return side over mid, then left over right, in each range of `BAND_EDGES_HZ`, limited."""
    left_T, right_T = audio_CT
    channels_4T = torch.stack([left_T, right_T, (left_T + right_T) / 2, (left_T - right_T) / 2])
    power_4F = power_spectrum(channels_4T)
    hz_F = torch.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ)
    power_4K = torch.stack(
        [power_4F[:, (hz_F >= low) & (hz_F < high)].sum(1) for low, high in BAND_EDGES_HZ.values()],
        dim=1,
    )
    left_K, right_K, mid_K, side_K = power_4K
    return torch.cat([power_ratio_db(side_K, mid_K), power_ratio_db(left_K, right_K)])


def power_spectrum(audio_CT: Tensor) -> Tensor:
    """Average power_CF over time, in windows of `WINDOW` samples."""
    spectrum_CFM = torch.stft(
        audio_CT,
        WINDOW,
        WINDOW // 4,
        window=hann_window(),
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum_CFM.abs().square().mean(-1)


@lru_cache(maxsize=1)
def hann_window() -> Tensor:
    """Return the window of `power_spectrum`."""
    return torch.hann_window(WINDOW)
