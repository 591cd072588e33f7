"""Levels of tracks behind a console, estimated from their descriptors alone.

No audio is made: what an equaliser, a compressor, a room, width, pan, faders and the master do to
the mean power of mid and side in bands follows from their settings, and from a descriptor of the
track before them. So thousands of predictions can be compared in the time of one mix. What is
neglected: drives, the time constants of compressors, and that power in one band of a mid and a side
may be related otherwise than in all bands together.

Shape suffixes: N track of any song, B song, 2 is mid and side, K band, G point of a band, H class
of loudness, S step of time, C channel; 3 is mid, side and their product.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.console.mixing import Values, stereo_matrix
from mixprint.controller.descriptors import DescribedLevels, described_levels
from mixprint.dsp.compressor import Compressors, above_threshold_db
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import Sections, power_response
from mixprint.dsp.room import DAMPING_HZ, echoes
from mixprint.features.descriptors import STEREO_CORNERS_HZ
from mixprint.stems import SAMPLE_RATE_HZ

# By how much what a compressor follows, the peaks of short blocks, lies above the loudness of
# 100 ms: dB, and dB for each dB of crest, and for each unit of the logarithm of attack and release
# in ms. Fitted to the gain reduction of the console on drawn settings; a deviation of 1.6 dB is
# left.
_FOLLOWED_DB, _OF_CREST, _OF_ATTACK, _OF_RELEASE = -1.1, 0.24, -1.46, 1.01
_CREST_OF_MIX_DB = 36.0
# A release holds the reduction between loud moments: it varies less than the levels do.
_VARIES = 0.3
# Bands so far below the loudest one of a song are alike, and so are sides so far below mid and side
# together, which make a track no wider; and balances beyond this.
_FAINT_DB, _NARROW_DB, _MOST_BALANCE_DB = 50.0, 20.0, 24.0
# Weights of what is compared beside the bands.
_MIX_WEIGHT, _BALANCE_WEIGHT, _RANGE_WEIGHT = 1.0, 0.25, 0.5
# Of a band: its lower half, its centre, its upper half.
_POINTS, _POINT_WEIGHTS = (-0.5, 0.0, 0.5), (0.25, 0.5, 0.25)
_ROOM_STEP_S = 0.01
_TINY = 1e-12


class Levels(NamedTuple):
    """Levels of tracks as they sound in a mix.

    Attributes:
        power_N2K: mean power of mid and side in bands.
        balance_db_N: level of left over that of right.
        range_db_N: standard deviation of the loudness over time.
    """

    power_N2K: Tensor
    balance_db_N: Tensor
    range_db_N: Tensor


def true_levels(descriptor_ND: Tensor) -> Levels:
    """Return the levels of tracks that were described as they sound in the mix."""
    found = described_levels(descriptor_ND)
    return Levels(
        found.power_N2K, _limited(found.balance_db_N), _range(found, found.relative_db_H[None])
    )


def estimated_levels(
    descriptor_ND: Tensor, values: Values, song_N: Tensor, num_songs: int
) -> Levels:
    """Estimate the levels of tracks behind the console; differentiable in the values.

    Args:
        descriptor_ND: of the tracks at the working level.
        values: of the tracks of all songs one after another, and of the masters, one each. The
            trims do not count.
        song_N: number of the song that each track belongs to.
        num_songs: number of songs.
    """
    dry, track_N = described_levels(descriptor_ND), values.track_N
    power_N2K = dry.power_N2K
    equalised_N2K = power_N2K * _shape(values.track_sections())[:, None].to(power_N2K)
    change_db_N = _level_db(equalised_N2K) - _level_db(power_N2K)
    reduction_db_NH = _reduction(values, dry, change_db_N)
    kept_N1 = _loud_mean(dry, torch.pow(10.0, -reduction_db_NH / 10))
    power_N2K = equalised_N2K * kept_N1[:, None]
    ratio_N = torch.pow(10.0, dry.balance_db_N / 10)
    product_NK = ((ratio_N - 1) / (ratio_N + 1) / 2)[:, None] * power_N2K.sum(dim=1)
    mid_NK, side_NK = power_N2K.unbind(dim=1)
    room_NK = mid_NK * _room(track_N["room.send_db"], track_N["room.time_s"]).to(mid_NK) / 2
    power_N3K = torch.stack([mid_NK + room_NK, side_NK + room_NK, product_NK], dim=1)
    placed_N3K = squared(stereo_matrix(values)).to(power_N3K) @ power_N3K
    mid_N, side_N, product_N = placed_N3K.sum(dim=-1).unbind(dim=1)
    left_N, right_N = ((mid_N + side_N + sign * 2 * product_N).clamp_min(0.0) for sign in (1, -1))
    balance_db_N = 10 * torch.log10((left_N + _TINY) / (right_N + _TINY))
    faded_N2K = placed_N3K[:, :2].clamp_min(_TINY)
    gain_BK = _master(values, faded_N2K, song_N, num_songs)
    return Levels(
        faded_N2K * gain_BK[song_N][:, None],
        _limited(balance_db_N),
        _range(dry, dry.relative_db_H - reduction_db_NH),
    )


def squared(matrix_NCC: Tensor) -> Tensor:
    """Return what matrices of left and right do to powers of mid and side, and to their product.

    Args:
        matrix_NCC: see `mixprint.console.mixing.stereo_matrix`.

    Returns:
        matrix_N33.
    """
    mid_side_CC = torch.tensor(
        [[0.5, 0.5], [0.5, -0.5]], dtype=matrix_NCC.dtype, device=matrix_NCC.device
    )
    (a, b), (c, d) = (2 * mid_side_CC @ matrix_NCC @ mid_side_CC).permute(1, 2, 0)
    rows = ((a * a, b * b, 2 * a * b), (c * c, d * d, 2 * c * d), (a * c, b * d, a * d + b * c))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def level_distance(found: Levels, true: Levels, song_N: Tensor, num_songs: int) -> Tensor:
    """Return by how much levels differ in each song, distance_db_B.

    Compared are the bands of tracks and of their sum, in mid and side, down to what can hardly be
    heard beside the rest; the tracks' balance; and how much their loudness varies.

    Args:
        found: predicted levels.
        true: true levels.
        song_N: number of the song that each track belongs to.
        num_songs: number of songs; one without tracks has no distance.
    """
    count_B = torch.bincount(song_N, minlength=num_songs).clamp_min(1)
    top_N = true.power_N2K.detach().amax(dim=(1, 2))
    top_B = top_N.new_zeros(num_songs).scatter_reduce(0, song_N, top_N, "amax")
    floor_B = top_B * 10 ** (-_FAINT_DB / 10) + _TINY

    def sums(value_N: Tensor) -> Tensor:
        return value_N.new_zeros(num_songs, *value_N.shape[1:]).index_add(0, song_N, value_N)

    def apart(found_N2K: Tensor, true_N2K: Tensor, floor_N: Tensor) -> Tensor:
        narrow_N1K = 10 ** (-_NARROW_DB / 10) * true_N2K.sum(dim=1, keepdim=True)
        floor_N1K = floor_N[:, None, None] + narrow_N1K
        a_db, b_db = (10 * torch.log10(x_N2K + floor_N1K) for x_N2K in (found_N2K, true_N2K))
        return functional.smooth_l1_loss(a_db, b_db, reduction="none").mean(dim=(1, 2))

    bands_N = apart(found.power_N2K, true.power_N2K, floor_B[song_N])
    own_N = (
        bands_N
        + _BALANCE_WEIGHT * (found.balance_db_N - true.balance_db_N).abs()
        + _RANGE_WEIGHT * (found.range_db_N - true.range_db_N).abs()
    )
    mix_B = apart(sums(found.power_N2K), sums(true.power_N2K), floor_B)
    return sums(own_N) / count_B + _MIX_WEIGHT * mix_B


def _shape(sections: Sections) -> Tensor:
    """Return what an equaliser does to the power of bands, shape_NK."""
    hz_KG = _points().to(sections.b_BK3.device)
    power_NKG = power_response(sections, hz_KG.flatten(), SAMPLE_RATE_HZ).unflatten(-1, hz_KG.shape)
    return power_NKG @ torch.tensor(_POINT_WEIGHTS, dtype=power_NKG.dtype, device=hz_KG.device)


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _points() -> Tensor:
    """Return point_hz_KG, in the triangle of each band."""
    corner_hz = torch.tensor(STEREO_CORNERS_HZ, dtype=torch.float64)
    below_K, hz_K, above_K = corner_hz[:-2], corner_hz[1:-1], corner_hz[2:]
    points = [hz_K + point * (above_K - hz_K if point > 0 else hz_K - below_K) for point in _POINTS]
    return torch.stack(points, dim=-1)


def _level_db(power_N2K: Tensor) -> Tensor:
    return 10 * torch.log10(power_N2K.sum(dim=(1, 2)) + _TINY)


def _reduction(values: Values, dry: DescribedLevels, change_db_N: Tensor) -> Tensor:
    """Return the gain reduction of the tracks' compressors in classes of loudness, dB_NH."""
    compressors = values.compressors(values.track_N)
    loudness_N = dry.loudness_N + change_db_N + _followed(compressors, dry.crest_db_N)
    above_NH = above_threshold_db(
        (loudness_N[:, None] + dry.relative_db_H).double(),
        compressors.threshold_db_B,
        compressors.knee_db_B,
    )
    mean_N1 = _loud_mean(dry, above_NH)
    above_NH = mean_N1 + _VARIES * (above_NH - mean_N1)
    return (compressors.slope_B[:, None] * above_NH).to(change_db_N)


def _loud_mean(dry: DescribedLevels, value_NH: Tensor) -> Tensor:
    """Return the mean over the classes of loudness by their energy: mean_N1."""
    energy_NH = dry.share_NH * torch.pow(10.0, dry.relative_db_H / 10)
    sum_N1 = (energy_NH * value_NH).sum(dim=-1, keepdim=True)
    return sum_N1 / energy_NH.sum(dim=-1, keepdim=True).clamp_min(_TINY)


def _followed(compressors: Compressors, crest_db: Tensor | float) -> Tensor:
    """Return by how much what compressors follow is above the loudness, dB_N."""
    times = _OF_ATTACK * torch.log(1_000 * compressors.attack_s_B)
    times = times + _OF_RELEASE * torch.log(1_000 * compressors.release_s_B)
    return _FOLLOWED_DB + _OF_CREST * crest_db + times


def _room(send_db_N: Tensor, time_s_N: Tensor) -> Tensor:
    """Return the power that rooms answer with in bands, of both channels' mean, room_NK."""
    energy_S = _echo_energy().to(send_db_N.device)
    step_S = torch.arange(len(energy_S), device=send_db_N.device) + 0.5
    fall_db_NS = -60.0 * _ROOM_STEP_S * step_S / time_s_N[:, None]
    energy_N = (energy_S * torch.pow(10.0, fall_db_NS / 10)).sum(dim=-1)
    hz_K = torch.tensor(STEREO_CORNERS_HZ[1:-1], dtype=torch.float64, device=send_db_N.device)
    damping_K = 1 / (1 + (hz_K / DAMPING_HZ).square())
    sent_N = amplitude(send_db_N).square() * energy_N
    return sent_N[:, None] * damping_K


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _echo_energy() -> Tensor:
    """Return the energy of the echoes in steps of time, the mean of both channels."""
    echo_CT = echoes(SAMPLE_RATE_HZ)
    step = round(_ROOM_STEP_S * SAMPLE_RATE_HZ)
    whole = echo_CT.shape[-1] // step * step
    return echo_CT[:, :whole].unflatten(-1, (-1, step)).square().sum(dim=-1).mean(dim=0)


def _master(values: Values, power_N2K: Tensor, song_N: Tensor, num_songs: int) -> Tensor:
    """Return what the masters do to the power of bands, gain_BK."""
    master_B = values.master_1
    shape_BK = _shape(values.master_sections()).to(power_N2K)
    mix_BK = power_N2K.new_zeros(num_songs, power_N2K.shape[-1])
    mix_BK = mix_BK.index_add(0, song_N, power_N2K.sum(dim=1)) * shape_BK
    compressors = values.compressors(master_B)
    level_db_B = 10 * torch.log10(mix_BK.sum(dim=-1) + _TINY)
    level_db_B = level_db_B + _followed(compressors, _CREST_OF_MIX_DB)
    above_B1 = above_threshold_db(
        level_db_B[:, None].double(), compressors.threshold_db_B, compressors.knee_db_B
    )
    gain_db_B = master_B["output_db"] - compressors.slope_B * above_B1[:, 0]
    return shape_BK * amplitude(gain_db_B).square()[:, None].to(shape_BK)


def _range(dry: DescribedLevels, level_db_H: Tensor) -> Tensor:
    """Return the standard deviation of loudness over time, of what can be heard of it."""
    share_NH = dry.share_NH * dry.is_heard_H
    share_NH = share_NH / share_NH.sum(dim=-1, keepdim=True).clamp_min(_TINY)
    mean_N1 = (share_NH * level_db_H).sum(dim=-1, keepdim=True)
    return (share_NH * (level_db_H - mean_N1).square()).sum(dim=-1).clamp_min(1e-6).sqrt()


def _limited(balance_db_N: Tensor) -> Tensor:
    return balance_db_N.clamp(-_MOST_BALANCE_DB, _MOST_BALANCE_DB)
