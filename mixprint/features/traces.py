"""Traces that effects leave in audio: further numbers that tell what was done to a sound.

| part | numbers | of |
| --- | --- | --- |
| panning | 20 | 20 mels: level of left over right, dB |
| correlation | 20 | 20 mels: correlation of left and right, -1 to 1 |
| cepstrum | 40 | mid, then mid and side: 20 classes of quefrency, 0.2 to 17.7 ms: log RMS |
| flatness | 16 | 8 bands: spectral flatness of frames, then of the mean spectrum: log |
| waveform | 10 | of mid, see below |
| crests | 14 | of mid, blocks of 10 ms, then of 100 ms: 3 quantiles of the crest, 4 of the level |

The cepstrum shows delays shorter than a frame: a comb filter is a line at its quefrency, a
resonance a slope. Flatness falls with each partial and rises with noise and distortion. Of the
waveform there are: skewness; log of the kurtosis; logs of the parts of the time above 98, 90 and
50 % of the peak, then below 1 and 0.1 % of it; logs of the parts of the samples at which the sign
changes, and which repeat the one before; log of the offset over the RMS. They show clipping and
coarse steps. The crests are in dB; levels are relative to the loudest block, dB. All stay as they
are when the gain changes. But for the parts of the time, which are counted, all carry a gradient to
the audio, finite for silence, too.

Shape suffixes: N item, T sample, M frame, F frequency bin, K mel, Q class of quefrency, B band,
L block, P quantile; 2 left and right, or mid and side.

Sources: panning and correlation per band, Avendano, "Frequency-domain source identification and
manipulation in stereo mixes" (WASPAA 2003); cepstrum, Bogert, Healy and Tukey, "The quefrency
alanysis of time series for echoes" (1963); flatness, Gray and Markel, "A spectral-flatness measure
for studying the autocorrelation method of linear prediction of speech signals" (1974).
"""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.dsp.quantiles import sorted_quantiles
from mixprint.features.descriptors import (
    FLOOR_POWER,
    NUM_DESCRIPTORS,
    NUM_STEREO_MELS,
    WINDOW_SAMPLES,
    Spectra,
    describe_spectra,
    measured,
    mel_banks,
    places,
)

# Part of both channels' power that is added to each: a ratio ends at +-43 dB.
_RATIO_FLOOR = 1e-4
# Edges of the classes of quefrency: each is a quarter longer than the one before.
QUEFRENCY_EDGES_SAMPLES = tuple(round(9 * 1.25**edge) for edge in range(21))
_NUM_QUEFRENCIES = len(QUEFRENCY_EDGES_SAMPLES) - 1
_DEEPEST_LOG_POWER = 16.0  # 69 dB below the strongest bin
_CEPSTRUM_FLOOR = 1e-4
# Edges of the bands of flatness: their width grows with frequency.
_NUM_FLATNESS_BANDS, _LOWEST_BIN = 8, 2
FLATNESS_EDGES_BINS = tuple(
    int(_LOWEST_BIN + (WINDOW_SAMPLES // 2 + 1 - _LOWEST_BIN) * (edge / _NUM_FLATNESS_BANDS) ** 2)
    for edge in range(_NUM_FLATNESS_BANDS + 1)
)
_FLATNESS_FLOOR = 1e-9  # of the strongest bin: -90 dB
_NEAR_PEAK = ((0.98, 1e-6), (0.9, 1e-6), (0.5, 1e-6))  # part of the peak, floor of the part of time
_NEAR_ZERO = ((0.01, 1e-4), (0.001, 1e-4))
_PART_FLOOR = 1e-4
_KURTOSIS_FLOOR = 1e-3
_AMPLITUDE_FLOOR = 1e-6  # -120 dB
_BLOCK_SAMPLES = (441, 4410)
_CREST_QUANTILES, _LEVEL_QUANTILES = (0.1, 0.5, 0.9), (0.1, 0.25, 0.5, 0.75)
_SOUNDING = 0.03  # RMS of a block over that of the loudest, from which its crest counts: -30 dB
_LOWEST_LEVEL_DB = -60.0
# Keeps the slope of a square root finite where its value does not matter any more.
_TINY = 1e-24

TRACE_PLACES = places(
    {
        "panning": NUM_STEREO_MELS,
        "correlation": NUM_STEREO_MELS,
        "cepstrum": 2 * _NUM_QUEFRENCIES,
        "flatness": 2 * _NUM_FLATNESS_BANDS,
        "waveform": 5 + len(_NEAR_PEAK) + len(_NEAR_ZERO),
        "crests": len(_BLOCK_SAMPLES) * (len(_CREST_QUANTILES) + len(_LEVEL_QUANTILES)),
    }
)
NUM_TRACES = TRACE_PLACES["crests"].stop
NUM_EFFECT_DESCRIPTORS = NUM_DESCRIPTORS + NUM_TRACES


def describe_effects(audio_N2T: Tensor) -> Tensor:
    """Describe stereo audio and the traces of effects in it.

    Args:
        audio_N2T: two channels at 44.1 kHz, 3 s or longer, full scale at +-1.

    Returns:
        descriptor_ND, float32: the `NUM_DESCRIPTORS` numbers of `descriptors.describe`, then
        `NUM_TRACES` traces, see `TRACE_PLACES`.

    Raises:
        ValueError: the audio has another shape, or is shorter.
    """
    return measured(_described_effects, audio_N2T, NUM_EFFECT_DESCRIPTORS)


def _described_effects(spectra: Spectra) -> Tensor:
    return torch.cat([describe_spectra(spectra), measure_traces(spectra)], dim=-1)


def measure_traces(spectra: Spectra) -> Tensor:
    """Measure the traces of effects in audio whose spectra are known: trace_ND."""
    mid_NT = spectra.part_N2T[:, 0]
    mean_N2F = spectra.power_N2MF.mean(dim=2)
    both_NMF = spectra.power_N2MF.sum(dim=1)
    square_NT = mid_NT.square()
    return torch.cat(
        [
            *_stereo_image(mean_N2F, spectra.product_NF),
            _cepstrum(torch.stack([mean_N2F[:, 0], mean_N2F.sum(dim=1)], dim=1)).flatten(1),
            _flatness(both_NMF),
            _waveform(mid_NT, square_NT),
            *(_crests(mid_NT, square_NT, num_samples) for num_samples in _BLOCK_SAMPLES),
        ],
        dim=-1,
    )


class _Masks(NamedTuple):
    """Matrices that average, each column over one class.

    Attributes:
        quefrency_FQ: classes of quefrency.
        band_FB: bands of flatness.
    """

    quefrency_FQ: Tensor
    band_FB: Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # a tensor made in inference mode could never serve a gradient
def _masks(device: torch.device) -> _Masks:
    place_F1 = torch.arange(WINDOW_SAMPLES // 2 + 1)[:, None]
    masks = []
    for edges in (QUEFRENCY_EDGES_SAMPLES, FLATNESS_EDGES_BINS):
        low, high = (torch.tensor(ends) for ends in zip(*pairwise(edges), strict=True))
        inside = ((place_F1 >= low) & (place_F1 < high)).float()
        masks.append((inside / inside.sum(dim=0)).to(device))
    return _Masks(*masks)


def _stereo_image(mean_N2F: Tensor, product_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Return the level of left over right in dB, and their correlation, in mels."""
    bank_FK = mel_banks(mean_N2F.device).stereo_FK
    mid_NK, side_NK = (mean_N2F @ bank_FK).unbind(dim=1)
    both_NK, product_NK = mid_NK + side_NK, product_NF @ bank_FK
    # |mid +- side|^2 = |mid|^2 + |side|^2 +- 2 Re(mid side*) is the power of left, and of right.
    floor_NK = both_NK * _RATIO_FLOOR + FLOOR_POWER
    left_NK = both_NK + 2 * product_NK + floor_NK
    right_NK = both_NK - 2 * product_NK + floor_NK
    panning_NK = 10 * (left_NK.log10() - right_NK.log10())
    return panning_NK, (mid_NK - side_NK) / (left_NK * right_NK).sqrt()


def _cepstrum(power_N2F: Tensor) -> Tensor:
    """Return the log RMS of the cepstrum of mean powers in classes of quefrency: trace_N2Q."""
    log_N2F = (power_N2F + FLOOR_POWER).log()
    log_N2F = log_N2F.clamp_min(log_N2F.amax(dim=-1, keepdim=True) - _DEEPEST_LOG_POWER)
    cepstrum_N2F = torch.fft.irfft(log_N2F - log_N2F.mean(dim=-1, keepdim=True))
    cepstrum_N2F = cepstrum_N2F[..., : power_N2F.shape[-1]]
    mean_N2Q = cepstrum_N2F.square() @ _masks(power_N2F.device).quefrency_FQ
    return (mean_N2Q.clamp_min(_TINY).sqrt() + _CEPSTRUM_FLOOR).log()


def _flatness(power_NMF: Tensor) -> Tensor:
    """Return the log flatness in bands: mean of the frames, then of the mean spectrum."""
    band_FB = _masks(power_NMF.device).band_FB
    floored_NMF = (
        power_NMF + power_NMF.amax(dim=(1, 2), keepdim=True) * _FLATNESS_FLOOR + FLOOR_POWER
    )
    mean_NF = floored_NMF.mean(dim=1)
    log_of_mean_NMB = (floored_NMF @ band_FB).log()
    # The mean of the logarithms over frames and bins, in whichever order.
    of_frames_NB = floored_NMF.log().mean(dim=1) @ band_FB - log_of_mean_NMB.mean(dim=1)
    return torch.cat([of_frames_NB, mean_NF.log() @ band_FB - (mean_NF @ band_FB).log()], dim=-1)


def _rms(mean_square: Tensor) -> Tensor:
    """Return the root of a mean square, -120 dB for silence, with a finite slope."""
    return mean_square.clamp_min(_TINY).sqrt() + _AMPLITUDE_FLOOR


def _waveform(mid_NT: Tensor, square_NT: Tensor) -> Tensor:
    """Return moments, and parts of the time, of a waveform."""
    rms_N = _rms(square_NT.mean(dim=1))
    known_NT = mid_NT.detach()
    magnitude_NT = known_NT.abs()
    peak_N1 = magnitude_NT.amax(dim=1, keepdim=True) + _AMPLITUDE_FLOOR
    here_NT, before_NT = known_NT[:, 1:], known_NT[:, :-1]
    return torch.stack(
        [
            (mid_NT * square_NT).mean(dim=1) / rms_N.pow(3),
            (square_NT.square().mean(dim=1) / rms_N.pow(4) + _KURTOSIS_FLOOR).log(),
            *(_log_part(magnitude_NT > part * peak_N1, floor) for part, floor in _NEAR_PEAK),
            *(_log_part(magnitude_NT < part * peak_N1, floor) for part, floor in _NEAR_ZERO),
            _log_part(here_NT * before_NT < 0, _PART_FLOOR),
            _log_part(here_NT == before_NT, _PART_FLOOR),
            ((mid_NT.mean(dim=1) / rms_N).abs() + _PART_FLOOR).log(),
        ],
        dim=-1,
    )


def _log_part(is_so_NT: Tensor, floor: float) -> Tensor:
    """Return the log of the part of the samples of which something is true."""
    return (is_so_NT.count_nonzero(dim=1) / is_so_NT.shape[1] + floor).log()


def _crests(mid_NT: Tensor, square_NT: Tensor, block_samples: int) -> Tensor:
    """Return quantiles of the crest of blocks that sound, and of the levels of all blocks, dB."""
    num_blocks = mid_NT.shape[1] // block_samples
    power_NLT = square_NT[:, : num_blocks * block_samples].unflatten(1, (num_blocks, -1))
    magnitude_NLT = mid_NT[:, : num_blocks * block_samples].unflatten(1, (num_blocks, -1)).abs()
    rms_NL = _rms(power_NLT.mean(dim=2))
    peak_NL = magnitude_NLT.amax(dim=2).clamp_min(_AMPLITUDE_FLOOR)
    loudest_N1 = rms_NL.amax(dim=1, keepdim=True)
    is_sounding_NL = rms_NL > _SOUNDING * loudest_N1
    # Crests of other blocks sort behind all and are never reached by a quantile.
    crest_db_NL = (20 * (peak_NL / rms_NL).log10()).masked_fill(~is_sounding_NL, torch.inf)
    level_db_NL = (20 * (rms_NL / loudest_N1).log10()).clamp_min(_LOWEST_LEVEL_DB)
    last_N = torch.full_like(loudest_N1[:, 0], num_blocks - 1, dtype=torch.long)
    return torch.cat(
        [
            sorted_quantiles(
                crest_db_NL.sort(dim=1).values, is_sounding_NL.sum(dim=1) - 1, _CREST_QUANTILES
            ),
            sorted_quantiles(level_db_NL.sort(dim=1).values, last_N, _LEVEL_QUANTILES),
        ],
        dim=-1,
    )
