"""Descriptor of audio: levels, stereo, and how both change over time, of a track or of a stem.

| part | numbers | of |
| --- | --- | --- |
| mel levels | 256 | 64 mels: mean, deviation, 10 % and 90 % over time, dB |
| stereo | 40 | 20 mels: mean level of mid, and of side, dB |
| falls | 72 | 6 mels: by how much levels have fallen after 46, 139 and 372 ms: 4 quantiles, dB |
| rises | 12 | 6 mels: by how much they rise within 23 and 46 ms: 95 % quantile, dB |
| loudness histogram | 16 | parts of the time, relative to the integrated loudness |
| onsets | 1 | per second |
| crest | 1 | of mid, dB |
| stem features | 14 | see `mixprint.features.schema` |

The falls tell rooms: a dry sound dies away as fast as its instrument, a wet one as the room. The
rises and crests tell compressors. All are measured once, of one spectrogram, and carry a gradient
to the audio, a finite one for silence, too; but the histogram and the onsets, which are counted.

Shape suffixes: N item, C channel, T sample, M frame, F frequency bin, K mel, Q quantile, S step of
100 ms, D number of the descriptor; 2 left and right, or mid and side.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.dsp import loudness
from mixprint.dsp.mel import mel_filterbank
from mixprint.features import level, spectral
from mixprint.features.schema import MIN_DURATION_S, SILENCE_POWER, STEM_FEATURES
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

NUM_MELS, NUM_STEREO_MELS, NUM_ENVELOPES = 64, 20, 6
WINDOW_SAMPLES = spectral.window_samples(SAMPLE_RATE_HZ)
HOP_SAMPLES = WINDOW_SAMPLES // 2
# Levels of bands: -120 dB is silence, far below what a bin of quiet music holds.
FLOOR_POWER = 1e-12
SILENCE_DB = -120.0
_SOUNDING_DB = 40.0
_FALL_FRAMES, _FALL_QUANTILES = (2, 6, 16), (0.05, 0.25, 0.5, 0.75)
_RISE_FRAMES, _RISE_QUANTILE = (1, 2), 0.95
LOUDNESS_EDGES_LU = tuple(-30.0 + 2.5 * edge for edge in range(15))
_ONSET_DB = 3.0
_LEVELS = ("rms_", "loudness_", "band_")
# Corners of the triangles of mid and side, see `mel_filterbank`: each rises from one corner to the
# next, its centre, and falls to the one after.
_TOP_MEL = 2595.0 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
STEREO_CORNERS_HZ = tuple(
    700.0 * (10.0 ** (_TOP_MEL * place / (NUM_STEREO_MELS + 1) / 2595.0) - 1.0)
    for place in range(NUM_STEREO_MELS + 2)
)


def places(sizes: dict[str, int]) -> MappingProxyType[str, slice]:
    """Return where the parts of a row lie, in their order."""
    borders = pairwise(accumulate(sizes.values(), initial=0))
    return MappingProxyType({name: slice(*ends) for name, ends in zip(sizes, borders, strict=True)})


PLACES = places(
    {
        "mel_levels": 4 * NUM_MELS,
        "stereo": 2 * NUM_STEREO_MELS,
        "falls": NUM_ENVELOPES * len(_FALL_FRAMES) * len(_FALL_QUANTILES),
        "rises": NUM_ENVELOPES * len(_RISE_FRAMES),
        "histogram": len(LOUDNESS_EDGES_LU) + 1,
        "onsets": 1,
        "crest": 1,
        "stem_features": len(STEM_FEATURES),
    }
)
NUM_DESCRIPTORS = PLACES["stem_features"].stop


class Banks(NamedTuple):
    """Filters of mels, `FK` each."""

    mel_FK: Tensor
    stereo_FK: Tensor
    envelope_FK: Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # a tensor made in inference mode could never serve a gradient
def mel_banks(device: torch.device) -> Banks:
    """Build the filters of the mels: 64 of levels, 20 of the stereo image, 6 of envelopes."""
    banks = (
        mel_filterbank(number, WINDOW_SAMPLES, SAMPLE_RATE_HZ)
        .T.contiguous()
        .to(device, torch.float32)
        for number in (NUM_MELS, NUM_STEREO_MELS, NUM_ENVELOPES)
    )
    return Banks(*banks)


class Spectra(NamedTuple):
    """Stereo audio as mid and side, with their spectra: measured once for all that describes it.

    Attributes:
        audio_N2T: left and right, at 44.1 kHz.
        part_N2T: mid and side.
        power_N2MF: their powers, see `spectral.spectrogram`; both add up to the channels' mean.
        product_NF: the product of their spectra, real part, averaged over time.
    """

    audio_N2T: Tensor
    part_N2T: Tensor
    power_N2MF: Tensor
    product_NF: Tensor


def mid_side_spectra(audio_N2T: Tensor) -> Spectra:
    """Measure the spectra of mid and side."""
    mid_NT, side_NT = audio_N2T.mean(dim=1), (audio_N2T[:, 0] - audio_N2T[:, 1]) / 2
    part_N2T = torch.stack([mid_NT, side_NT], dim=1)
    spectrum_N2MF = spectral.spectrogram(part_N2T, SAMPLE_RATE_HZ)
    # Kept alive, the complex spectra would make what follows half as slow again on a CPU.
    mid_NMF, side_NMF = torch.view_as_real(spectrum_N2MF).flatten(-2).unbind(dim=1)
    product_NF = (mid_NMF * side_NMF).mean(dim=1).unflatten(-1, (-1, 2)).sum(dim=-1)
    return Spectra(audio_N2T, part_N2T, spectral.power(spectrum_N2MF), product_NF)


def measured(measure: Callable[[Spectra], Tensor], audio_N2T: Tensor, num_numbers: int) -> Tensor:
    """Measure numbers of the spectra of each item.

    Args:
        measure: what makes a row of numbers of each item.
        audio_N2T: two channels at 44.1 kHz, 3 s or longer, full scale at +-1.
        num_numbers: how many numbers a row has.

    Returns:
        numbers, (N, `num_numbers`), float32, also under autocast.

    Raises:
        ValueError: the audio has another shape, or is shorter.
    """
    least = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
    if audio_N2T.ndim != 3 or audio_N2T.shape[1] != NUM_CHANNELS or audio_N2T.shape[2] < least:
        raise ValueError(
            f"audio_N2T must be (N, {NUM_CHANNELS}, {least} or more), got {tuple(audio_N2T.shape)}"
        )
    if len(audio_N2T) == 0:
        return audio_N2T.new_zeros(0, num_numbers, dtype=torch.float32)
    # One at a time keeps the intermediate results of a CPU in its cache.
    chunk_size = 1 if audio_N2T.device.type == "cpu" else len(audio_N2T)
    with torch.autocast(audio_N2T.device.type, enabled=False):
        chunks = audio_N2T.float().split(chunk_size)
        return torch.cat([measure(mid_side_spectra(chunk_N2T)) for chunk_N2T in chunks])


def describe(audio_N2T: Tensor) -> Tensor:
    """Describe stereo audio.

    Args:
        audio_N2T: two channels at 44.1 kHz, 3 s or longer, full scale at +-1.

    Returns:
        descriptor_ND, float32, of `NUM_DESCRIPTORS` numbers, finite for silence, too.

    Raises:
        ValueError: the audio has another shape, or is shorter.
    """
    return measured(describe_spectra, audio_N2T, NUM_DESCRIPTORS)


def describe_spectra(spectra: Spectra) -> Tensor:
    """Describe audio whose spectra are known: descriptor_ND."""
    audio_NCT, part_N2MF = spectra.audio_N2T, spectra.power_N2MF
    mid_NT = spectra.part_N2T[:, 0]
    banks = mel_banks(audio_NCT.device)
    power_NMF = part_N2MF.sum(dim=1)
    mel_NMK = band_db(power_NMF @ banks.mel_FK)
    stereo_N2K = band_db(part_N2MF.mean(dim=2) @ banks.stereo_FK)
    envelope_NMK = band_db(power_NMF @ banks.envelope_FK)
    energy_NS = loudness.hop_energy(loudness.k_weight(audio_NCT, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    loudness_N = loudness.integrated_from_energy(energy_NS)
    return torch.cat(
        [
            _mel_statistics(mel_NMK),
            stereo_N2K.flatten(1),
            _falls_and_rises(envelope_NMK),
            _histogram(energy_NS, loudness_N),
            _onset_rate(mel_NMK),
            level.crest_db(mid_NT.abs().amax(dim=-1), mid_NT.square().mean(dim=-1))[:, None],
            _stem_features(audio_NCT, power_NMF.mean(dim=1), energy_NS, loudness_N),
        ],
        dim=-1,
    )


def shifted(descriptor_ND: Tensor, change_db_N: Tensor) -> Tensor:
    """Describe what is louder by some dB, without listening to it again.

    Args:
        descriptor_ND: `NUM_DESCRIPTORS` numbers, and any that do not move with the gain after them.
        change_db_N: by how much each item is louder.
    """
    is_level_D = _is_level().to(descriptor_ND.device)
    is_level_D = functional.pad(is_level_D, (0, descriptor_ND.shape[1] - NUM_DESCRIPTORS))
    return descriptor_ND + is_level_D * change_db_N[:, None]


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _is_level() -> Tensor:
    """Return is_level_D: 1 for what rises by 1 dB with the audio, else 0."""
    is_level_D = torch.zeros(NUM_DESCRIPTORS)
    is_deviation = slice(NUM_MELS, 2 * NUM_MELS)
    is_level_D[PLACES["mel_levels"]] = 1.0
    is_level_D[PLACES["mel_levels"]][is_deviation] = 0.0
    is_level_D[PLACES["stereo"]] = 1.0
    is_level_D[PLACES["stem_features"]] = torch.tensor(
        [float(name.startswith(_LEVELS)) for name in STEM_FEATURES]
    )
    return is_level_D


def band_db(power: Tensor) -> Tensor:
    """Convert the power of bands to dB; silence reads -120."""
    return 10 * (power + FLOOR_POWER).log10()


def _mel_statistics(mel_NMK: Tensor) -> Tensor:
    """Return mean, deviation, 10 % and 90 % of each mel."""
    sorted_NMK = mel_NMK.sort(dim=1).values
    last = mel_NMK.shape[1] - 1
    quantiles = [sorted_NMK[:, round(part * last)] for part in (0.1, 0.9)]
    deviation_NK = mel_NMK.std(dim=1, correction=0)
    return torch.cat([mel_NMK.mean(dim=1), deviation_NK, *quantiles], dim=-1)


def _falls_and_rises(level_NMK: Tensor) -> Tensor:
    """Return quantiles of how far levels fall and rise, of the moments that sound."""
    is_sounding_NMK = level_NMK > level_NMK.amax(dim=(1, 2), keepdim=True) - _SOUNDING_DB
    is_sounding_NMK &= level_NMK > 10 * torch.tensor(10 * FLOOR_POWER).log10()
    numbers = []
    for lag, parts in (
        *((lag, _FALL_QUANTILES) for lag in _FALL_FRAMES),
        *((lag, (_RISE_QUANTILE,)) for lag in _RISE_FRAMES),
    ):
        change_NMK = level_NMK[:, lag:] - level_NMK[:, :-lag]
        numbers.append(_quantiles(change_NMK, is_sounding_NMK[:, :-lag], parts).flatten(1))
    return torch.cat(numbers, dim=-1)


def _quantiles(value_NMK: Tensor, is_meant_NMK: Tensor, parts: tuple[float, ...]) -> Tensor:
    """Return quantiles over M of what is meant, 0 where nothing is: value_NQK."""
    count_NK = is_meant_NMK.sum(dim=1)
    sorted_NMK = value_NMK.masked_fill(~is_meant_NMK, torch.inf).sort(dim=1).values
    part_Q = torch.tensor(parts, device=value_NMK.device)
    place_NQK = (part_Q[:, None] * (count_NK - 1).clamp_min(0)[:, None]).round().long()
    return sorted_NMK.gather(1, place_NQK).nan_to_num(posinf=0.0)


def _histogram(energy_NS: Tensor, loudness_N: Tensor) -> Tensor:
    """Return the parts of the time in which it is so much louder than on the whole."""
    relative_NS = 10 * (energy_NS + SILENCE_POWER).log10() - loudness_N[:, None]
    edges = torch.tensor(LOUDNESS_EDGES_LU, device=energy_NS.device)
    place_NS = torch.bucketize(relative_NS, edges)
    one_NSK = torch.nn.functional.one_hot(place_NS, len(LOUDNESS_EDGES_LU) + 1)
    return one_NSK.float().mean(dim=1)


def _onset_rate(mel_NMK: Tensor) -> Tensor:
    """Count the moments per second at which most mels rise together."""
    flux_NM = (mel_NMK[:, 1:] - mel_NMK[:, :-1]).clamp(0.0, 20.0).mean(dim=-1)
    before_NM, here_NM, after_NM = flux_NM[:, :-2], flux_NM[:, 1:-1], flux_NM[:, 2:]
    is_onset_NM = (here_NM > _ONSET_DB) & (here_NM >= before_NM) & (here_NM > after_NM)
    hop_s = HOP_SAMPLES / SAMPLE_RATE_HZ
    return is_onset_NM.float().mean(dim=1, keepdim=True) / hop_s


def _stem_features(
    audio_NCT: Tensor, spectrum_NF: Tensor, energy_NS: Tensor, loudness_N: Tensor
) -> Tensor:
    """Return the features of the stem block, in their order."""
    constants = spectral.spectral_constants(SAMPLE_RATE_HZ, audio_NCT.device, torch.float32)
    power_NC = audio_NCT.square().mean(dim=-1)
    return torch.cat(
        [
            level.rms_db(power_NC),
            level.crest_db(audio_NCT.abs().amax(dim=-1), power_NC),
            loudness_N[:, None],
            loudness.dynamic_range_from_energy(energy_NS)[:, None],
            spectral.band_levels_db(spectrum_NF, constants),
            spectral.tilt_db_per_octave(spectrum_NF, constants)[:, None],
            spectral.flatness(spectrum_NF, constants)[:, None],
            torch.stack(level.stereo_image(audio_NCT, power_NC), dim=-1),
        ],
        dim=-1,
    )
