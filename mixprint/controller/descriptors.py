"""Descriptors as a controller uses them: of any audio, read, and changed without listening again.

Shape suffixes: N item, C channel, T sample, F frequency bin, K mel, H class of loudness, P point,
D number of the descriptor.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.audio.resampling import resample_tracks
from mixprint.console.mixing import as_stereo
from mixprint.dsp import loudness
from mixprint.features import level, spectral
from mixprint.features.descriptors import (
    FLOOR_POWER,
    HOP_SAMPLES,
    LOUDNESS_EDGES_LU,
    NUM_DESCRIPTORS,
    NUM_MELS,
    NUM_STEREO_MELS,
    PLACES,
    SILENCE_DB,
    STEREO_CORNERS_HZ,
    band_db,
    describe,
    mel_banks,
)
from mixprint.features.schema import MIN_DURATION_S, RATIO_FLOOR, SILENCE_POWER, STEM_FEATURES
from mixprint.stems import SAMPLE_RATE_HZ

_FAINT_LU = -20.0


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
    return describe(audio_NCT)


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
    feature_ND = dict(
        zip(STEM_FEATURES, descriptor_ND[:, PLACES["stem_features"]].unbind(dim=1), strict=True)
    )
    edges = torch.tensor(LOUDNESS_EDGES_LU, device=descriptor_ND.device)
    half = (edges[1] - edges[0]) / 2
    relative_db_H = torch.cat([edges - half, edges[-1:] + half])
    # Described is the mean over the bins of a triangle.
    corner_hz = torch.tensor(STEREO_CORNERS_HZ, device=descriptor_ND.device)
    bin_hz = SAMPLE_RATE_HZ / 2 / HOP_SAMPLES
    bins_K = (corner_hz[2:] - corner_hz[:-2]) / 2 / bin_hz
    mean_N2K = torch.pow(10.0, descriptor_ND[:, PLACES["stereo"]] / 10)
    return DescribedLevels(
        bins_K * mean_N2K.unflatten(1, (2, NUM_STEREO_MELS)),
        feature_ND["loudness_lufs"],
        descriptor_ND[:, PLACES["crest"].start],
        feature_ND["ild_db"],
        descriptor_ND[:, PLACES["histogram"]],
        relative_db_H,
        (relative_db_H > _FAINT_LU).to(descriptor_ND),
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
    return power_N3F @ mel_banks(audio_NCT.device).mel_FK


def total_power(power_K: Tensor) -> Tensor:
    """Add up powers in mels, `...K`, over all frequencies."""
    return power_K @ _reading(power_K.device).sum_K2[:, 0]


@lru_cache(maxsize=2)
def mel_points_hz(num_points: int) -> Tensor:
    """Return frequencies that stand for the mels, the same number for each: hz_KP, float64."""
    bank_FK = mel_banks(torch.device("cpu")).mel_FK.double()
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
    above_N4K = descriptor_ND[:, PLACES["mel_levels"]].unflatten(1, (4, NUM_MELS)) - SILENCE_DB
    part_N4K = (above_N4K / above_N4K[:, 3:].clamp_min(1.0)).clamp(0.0, 1.0)
    change_ND[:, PLACES["mel_levels"]] *= part_N4K.flatten(1)
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
    banks = mel_banks(device)
    # Between the middles of the mels a spectrum is taken as a line.
    height_FK = banks.mel_FK / banks.mel_FK.amax(dim=0)
    line_KF = (height_FK / height_FK.sum(dim=1, keepdim=True).clamp_min(FLOOR_POWER)).T
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
    level_NK = band_db(power_NK)
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
        "spectral_tilt_db_per_octave": band_db(density_NK @ reading.octave_KO) @ constants.tilt_O,
        "spectral_flatness": ((density_NK + FLOOR_POWER).log() @ reading.bin_K).exp()
        / (density_NK @ reading.bin_K + FLOOR_POWER),
        "ild_db": level.power_ratio_db(left_N, right_N),
        "correlation": (mid_N - side_N) / ((left_N + floor_N) * (right_N + floor_N)).sqrt(),
        "side_mid_ratio_db": level.power_ratio_db(side_N, mid_N),
    }
    num_between = PLACES["stem_features"].start - PLACES["stereo"].stop
    zeros_N = torch.zeros_like(mid_N)
    return torch.cat(
        [
            level_NK,
            torch.zeros_like(level_NK),
            level_NK,
            level_NK,
            band_db(power_N3K[:, :2] @ reading.stereo_KK).flatten(1),
            zeros_N[:, None].expand(-1, num_between),
            torch.stack([features.get(name, zeros_N) for name in STEM_FEATURES], dim=1),
        ],
        dim=1,
    )
