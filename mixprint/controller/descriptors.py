"""Descriptor of audio: what a controller hears of a track, or of a part of a reference.

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
rises and crests tell compressors. All are measured once, of one spectrogram.

Shape suffixes: N item, C channel, T sample, M frame, F frequency bin, K mel, Q quantile, S step of
100 ms, D number of the descriptor.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.audio.resampling import resample_tracks
from mixprint.console.mixing import as_stereo
from mixprint.dsp import loudness
from mixprint.encoder.model import mel_filterbank
from mixprint.features import level, spectral
from mixprint.features.schema import MIN_DURATION_S, RATIO_FLOOR, SILENCE_POWER, STEM_FEATURES
from mixprint.stems import SAMPLE_RATE_HZ

NUM_MELS, NUM_STEREO_MELS, NUM_ENVELOPES = 64, 20, 6
# Levels of bands: -120 dB is silence, far below what a bin of quiet music holds.
_FLOOR_POWER = 1e-12
_SILENCE_DB = -120.0
_SOUNDING_DB = 40.0
_FALL_FRAMES, _FALL_QUANTILES = (2, 6, 16), (0.05, 0.25, 0.5, 0.75)
_RISE_FRAMES, _RISE_QUANTILE = (1, 2), 0.95
_LOUDNESS_EDGES_LU = tuple(-30.0 + 2.5 * edge for edge in range(15))
_ONSET_DB = 3.0
_FAINT_LU = -20.0
_LEVELS = ("rms_", "loudness_", "band_")
_FEATURES = tuple(STEM_FEATURES)
# Corners of the triangles of mid and side, see `mel_filterbank`: each rises from one corner to the
# next, its centre, and falls to the one after.
_TOP_MEL = 2595.0 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
STEREO_CORNERS_HZ = tuple(
    700.0 * (10.0 ** (_TOP_MEL * place / (NUM_STEREO_MELS + 1) / 2595.0) - 1.0)
    for place in range(NUM_STEREO_MELS + 2)
)
NUM_DESCRIPTORS = (
    4 * NUM_MELS
    + 2 * NUM_STEREO_MELS
    + NUM_ENVELOPES * (len(_FALL_FRAMES) * len(_FALL_QUANTILES) + len(_RISE_FRAMES))
    + len(_LOUDNESS_EDGES_LU)
    + 1
    + 2
    + len(STEM_FEATURES)
)


class _Banks(NamedTuple):
    """Filters of mels, `FK` each."""

    mel_FK: Tensor
    stereo_FK: Tensor
    envelope_FK: Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _banks(device: torch.device) -> _Banks:
    constants = spectral.spectral_constants(SAMPLE_RATE_HZ, device, torch.float32)
    size = constants.window_T.shape[0]
    banks = (
        mel_filterbank(number, size, SAMPLE_RATE_HZ).T.contiguous().to(device, torch.float32)
        for number in (NUM_MELS, NUM_STEREO_MELS, NUM_ENVELOPES)
    )
    return _Banks(*banks)


@torch.no_grad()
def describe_audio(audio_NCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Describe tracks, stems, or mid and side of a mix.

    Levels are absolute: tracks are brought to the working level before.

    Args:
        audio_NCT: one or two channels, full scale at +-1; what is shorter than 3 s is repeated.
        sample_rate_hz: sample rate.

    Returns:
        descriptor_ND, float32, of `NUM_DESCRIPTORS` numbers, finite for silence, too.

    Raises:
        ValueError: there is no audio.
    """
    if audio_NCT.ndim != 3 or audio_NCT.shape[-2] not in (1, 2) or audio_NCT.shape[-1] == 0:
        raise ValueError(f"audio_NCT must be (N, 1 or 2, T), got {tuple(audio_NCT.shape)}")
    if len(audio_NCT) == 0:
        return torch.zeros(0, NUM_DESCRIPTORS, device=audio_NCT.device)
    audio_NCT = resample_tracks(as_stereo(audio_NCT.float()), sample_rate_hz, SAMPLE_RATE_HZ)
    least = round(MIN_DURATION_S * SAMPLE_RATE_HZ)
    if audio_NCT.shape[-1] < least:
        audio_NCT = audio_NCT.repeat(1, 1, -(-least // audio_NCT.shape[-1]))[..., :least]
    if audio_NCT.device.type != "cpu":
        return _described(audio_NCT)
    # One at a time keeps the intermediate results of a CPU in its cache.
    return torch.cat([_described(audio_1CT) for audio_1CT in audio_NCT.split(1)])


def _described(audio_NCT: Tensor) -> Tensor:
    banks = _banks(audio_NCT.device)
    mid_NT, side_NT = audio_NCT.mean(dim=1), (audio_NCT[:, 0] - audio_NCT[:, 1]) / 2
    # The channels' mean power is that of mid and side together.
    parts_N2T = torch.stack([mid_NT, side_NT], dim=1)
    part_N2MF = spectral.power_spectrogram(parts_N2T.unsqueeze(2), SAMPLE_RATE_HZ)
    power_NMF = part_N2MF.sum(dim=1)
    mel_NMK = _db(power_NMF @ banks.mel_FK)
    stereo_N2K = _db(part_N2MF.mean(dim=2) @ banks.stereo_FK)
    envelope_NMK = _db(power_NMF @ banks.envelope_FK)
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


class DescribedLevels(NamedTuple):
    """Levels that a descriptor tells of.

    Attributes:
        power_N2K: power of mid and side in bands, see `STEREO_CORNERS_HZ`; full scale is 1.
        loudness_N: integrated loudness, LUFS.
        crest_db_N: peak over RMS of mid.
        balance_db_N: level of left over that of right.
        share_NH: part of the time in each class of loudness.
        relative_db_H: what the classes are, relative to the integrated loudness.
        is_heard_H: 1 for classes that are not too faint to matter, else 0.
    """

    power_N2K: Tensor
    loudness_N: Tensor
    crest_db_N: Tensor
    balance_db_N: Tensor
    share_NH: Tensor
    relative_db_H: Tensor
    is_heard_H: Tensor


def described_levels(descriptor_ND: Tensor) -> DescribedLevels:
    """Read the levels out of descriptors."""
    stereo, first = slice(4 * NUM_MELS, 4 * NUM_MELS + 2 * NUM_STEREO_MELS), len(STEM_FEATURES)
    histogram_end = NUM_DESCRIPTORS - first - 2
    num_classes = len(_LOUDNESS_EDGES_LU) + 1
    features_ND = descriptor_ND[:, -first:]
    edges = torch.tensor(_LOUDNESS_EDGES_LU, device=descriptor_ND.device)
    half = (edges[1] - edges[0]) / 2
    relative_db_H = torch.cat([edges - half, edges[-1:] + half])
    # Described is the mean over the bins of a triangle.
    corner_hz = torch.tensor(STEREO_CORNERS_HZ, device=descriptor_ND.device)
    bin_hz = SAMPLE_RATE_HZ / 2 / _hop_samples(descriptor_ND.device)
    bins_K = (corner_hz[2:] - corner_hz[:-2]) / 2 / bin_hz
    mean_N2K = torch.pow(10.0, descriptor_ND[:, stereo] / 10).unflatten(1, (2, NUM_STEREO_MELS))
    return DescribedLevels(
        bins_K * mean_N2K,
        features_ND[:, _FEATURES.index("loudness_lufs")],
        descriptor_ND[:, -first - 1],
        features_ND[:, _FEATURES.index("ild_db")],
        descriptor_ND[:, histogram_end - num_classes : histogram_end],
        relative_db_H,
        (relative_db_H > _FAINT_LU).to(descriptor_ND),
    )


def shifted(descriptor_ND: Tensor, change_db_N: Tensor) -> Tensor:
    """Describe what is louder by some dB, without listening to it again."""
    is_level_D = _is_level().to(descriptor_ND.device)
    return descriptor_ND + is_level_D * change_db_N[:, None]


@lru_cache(maxsize=1)
def _is_level() -> Tensor:
    """Return is_level_D: 1 for what rises by 1 dB with the audio, else 0."""
    mels = [1.0] * NUM_MELS
    num_between = NUM_DESCRIPTORS - 4 * NUM_MELS - 2 * NUM_STEREO_MELS - len(STEM_FEATURES)
    stem_features = [float(name.startswith(_LEVELS)) for name in STEM_FEATURES]
    return torch.tensor(
        [
            *mels,
            *[0.0] * NUM_MELS,
            *mels,
            *mels,
            *[1.0] * (2 * NUM_STEREO_MELS),
            *[0.0] * num_between,
            *stem_features,
        ]
    )


def part_powers(audio_NCT: Tensor) -> Tensor:
    """Measure the powers of tracks of a mix, of which `remixed` makes other mixes.

    Args:
        audio_NCT: two channels, at 44.1 kHz, a window of 46 ms or longer.

    Returns:
        power_N3K: mean power of mid and of side in the mels, and the mean product of both.
    """
    left_NT, mid_NT = audio_NCT[:, 0], audio_NCT.mean(dim=1)
    side_NT = left_NT - mid_NT
    parts_N31T = torch.stack([mid_NT, side_NT, left_NT], dim=1).unsqueeze(2)
    power_N3F = spectral.power_spectrogram(parts_N31T, SAMPLE_RATE_HZ).mean(dim=2)
    mid_NF, side_NF, left_NF = power_N3F.unbind(dim=1)
    # |mid + side|^2 is the left channel's power.
    power_N3F = torch.stack([mid_NF, side_NF, (left_NF - mid_NF - side_NF) / 2], dim=1)
    return power_N3F @ _banks(audio_NCT.device).mel_FK


def total_power(power_K: Tensor) -> Tensor:
    """Add up powers in mels, `...K`, over all frequencies."""
    return power_K @ _reading(power_K.device).sum_K2[:, 0]


@lru_cache(maxsize=2)
def mel_points_hz(num_points: int) -> Tensor:
    """Return frequencies that stand for the mels, the same number for each: hz_KP, float64."""
    bank_FK = _banks(torch.device("cpu")).mel_FK.double()
    bin_hz_F = torch.linspace(0, SAMPLE_RATE_HZ / 2, len(bank_FK), dtype=torch.float64)
    middle_hz_K = bin_hz_F @ bank_FK
    border_hz = (middle_hz_K[1:] + middle_hz_K[:-1]) / 2
    first_hz, last_hz = (
        torch.cat([middle_hz_K[:1], border_hz]),
        torch.cat([border_hz, middle_hz_K[-1:]]),
    )
    part_P = (torch.arange(num_points) + 0.5) / num_points
    return first_hz[:, None] + (last_hz - first_hz)[:, None] * part_P


def remixed(descriptor_ND: Tensor, before_N3K: Tensor, after_N3K: Tensor) -> Tensor:
    """Describe what has other powers in the mels, without listening to it again.

    Levels, tilt, flatness and the stereo image are those of the new powers; what tells how sounds
    change over time stays. Quiet moments follow less than the loud ones, which the powers are of:
    in proportion to how far they lie above silence.

    Args:
        descriptor_ND: of the old sound.
        before_N3K: its powers, see `part_powers`.
        after_N3K: the new ones.
    """
    change_ND = _readings(after_N3K) - _readings(before_N3K)
    above_N4K = descriptor_ND[:, : 4 * NUM_MELS].unflatten(1, (4, NUM_MELS)) - _SILENCE_DB
    part_N4K = (above_N4K / above_N4K[:, 3:].clamp_min(1.0)).clamp(0.0, 1.0)
    change_ND[:, : 4 * NUM_MELS] *= part_N4K.flatten(1)
    found_ND = descriptor_ND + change_ND
    for place, low, high in _LIMITS:
        found_ND[:, place - len(STEM_FEATURES)].clamp_(low, high)
    return found_ND


# Places among the stem features of what has limits.
_LIMITS = tuple(
    (list(STEM_FEATURES).index(name), low, high)
    for name, low, high in (
        ("spectral_flatness", 0.0, 1.0),
        ("ild_db", -60.0, 60.0),
        ("correlation", -1.0, 1.0),
        ("side_mid_ratio_db", -60.0, 60.0),
    )
)


class _Reading(NamedTuple):
    """Matrices of `K` rows that read powers in mels.

    Attributes:
        stereo_KK: 20 mels.
        octave_KO: third-octave bands.
        band_KR: ranges of the features.
        sum_K2: power, and power under the K-weighting.
        range_K: power in the range of flatness.
        bin_K: mean over the bins of that range.
    """

    stereo_KK: Tensor
    octave_KO: Tensor
    band_KR: Tensor
    sum_K2: Tensor
    range_K: Tensor
    bin_K: Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _reading(device: torch.device) -> _Reading:
    constants = spectral.spectral_constants(SAMPLE_RATE_HZ, device, torch.float32)
    banks = _banks(device)
    # Between the middles of the mels a spectrum is taken as a line.
    height_FK = banks.mel_FK / banks.mel_FK.amax(dim=0)
    line_KF = (height_FK / height_FK.sum(dim=1, keepdim=True).clamp_min(_FLOOR_POWER)).T
    weight_F = (
        loudness.k_weighting_response(line_KF.shape[1], SAMPLE_RATE_HZ).abs().square().to(line_KF)
    )
    in_range_KF = line_KF[:, constants.low_bin : constants.high_bin]
    return _Reading(
        line_KF @ banks.stereo_FK,
        line_KF @ constants.third_octave_FO,
        line_KF @ constants.band_FR,
        torch.stack([line_KF.sum(dim=1), line_KF @ weight_F], dim=1),
        in_range_KF.sum(dim=1),
        in_range_KF.mean(dim=1),
    )


def _readings(power_N3K: Tensor) -> Tensor:
    """Return what descriptors say of powers, and 0 where they say something else."""
    reading = _reading(power_N3K.device)
    constants = spectral.spectral_constants(SAMPLE_RATE_HZ, power_N3K.device, torch.float32)
    power_NK = power_N3K[:, :2].sum(dim=1)
    level_NK = _db(power_NK)
    sum_N32 = power_N3K @ reading.sum_K2
    mid_N, side_N, product_N = sum_N32[..., 0].unbind(dim=1)
    left_N, right_N = ((mid_N + side_N + sign * 2 * product_N).clamp_min(0.0) for sign in (1, -1))
    density_NK = power_NK / (power_NK @ reading.range_K + SILENCE_POWER)[:, None]
    floor_N = RATIO_FLOOR * (left_N + right_N + SILENCE_POWER)
    features = {
        "rms_left_db": level.rms_db(left_N),
        "rms_right_db": level.rms_db(right_N),
        "loudness_lufs": level.rms_db(sum_N32[:, :2, 1].sum(dim=1)),
        **{
            name: level.rms_db(band_N)
            for name, band_N in zip(
                ("band_low_db", "band_mid_db", "band_high_db"),
                (power_NK @ reading.band_KR).unbind(dim=1),
                strict=True,
            )
        },
        "spectral_tilt_db_per_octave": _db(density_NK @ reading.octave_KO) @ constants.tilt_O,
        "spectral_flatness": ((density_NK + _FLOOR_POWER).log() @ reading.bin_K).exp()
        / (density_NK @ reading.bin_K + _FLOOR_POWER),
        "ild_db": level.power_ratio_db(left_N, right_N),
        "correlation": (mid_N - side_N) / ((left_N + floor_N) * (right_N + floor_N)).sqrt(),
        "side_mid_ratio_db": level.power_ratio_db(side_N, mid_N),
    }
    num_between = NUM_DESCRIPTORS - 4 * NUM_MELS - 2 * NUM_STEREO_MELS - len(STEM_FEATURES)
    zeros_N = torch.zeros_like(mid_N)
    return torch.cat(
        [
            level_NK,
            torch.zeros_like(level_NK),
            level_NK,
            level_NK,
            _db(power_N3K[:, :2] @ reading.stereo_KK).flatten(1),
            zeros_N[:, None].expand(-1, num_between),
            torch.stack([features.get(name, zeros_N) for name in STEM_FEATURES], dim=1),
        ],
        dim=1,
    )


def _db(power: Tensor) -> Tensor:
    return 10 * (power + _FLOOR_POWER).log10()


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
    is_sounding_NMK &= level_NMK > 10 * torch.tensor(10 * _FLOOR_POWER).log10()
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
    edges = torch.tensor(_LOUDNESS_EDGES_LU, device=energy_NS.device)
    place_NS = torch.bucketize(relative_NS, edges)
    one_NSK = torch.nn.functional.one_hot(place_NS, len(_LOUDNESS_EDGES_LU) + 1)
    return one_NSK.float().mean(dim=1)


def _onset_rate(mel_NMK: Tensor) -> Tensor:
    """Count the moments per second at which most mels rise together."""
    flux_NM = (mel_NMK[:, 1:] - mel_NMK[:, :-1]).clamp(0.0, 20.0).mean(dim=-1)
    before_NM, here_NM, after_NM = flux_NM[:, :-2], flux_NM[:, 1:-1], flux_NM[:, 2:]
    is_onset_NM = (here_NM > _ONSET_DB) & (here_NM >= before_NM) & (here_NM > after_NM)
    hop_s = _hop_samples(mel_NMK.device) / SAMPLE_RATE_HZ
    return is_onset_NM.float().mean(dim=1, keepdim=True) / hop_s


def _hop_samples(device: torch.device) -> int:
    constants = spectral.spectral_constants(SAMPLE_RATE_HZ, device, torch.float32)
    return constants.window_T.shape[0] // 2


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
