"""Dynamics processors: gains that follow the level, on many stereo signals at once.

The level is the peak of each block of `compressor.BLOCK_SAMPLES` in the louder channel; both
channels take the same gain, so the image stays. Thresholds are relative to a signal's own level
(`own_level_db`), so that a setting does the same to quiet and to loud signals. Detectors work at
the rate of blocks in float64, where which of two time constants acts is found exactly.

Shape suffixes: N signal, C channel, T sample, K block, B band of a signal, M signal of one band.

Sources: Giannoulis, Massberg and Reiss 2012 (JAES 60(6)) for gain computers and smoothing;
Linkwitz and Riley 1976 (JAES 24(1)) for the crossovers.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.dsp.compressor import (
    BLOCK_SAMPLES,
    FLOOR_DB,
    above_threshold_db,
    block_levels_db,
    joined,
    pole,
    smoothed,
)
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.dsp.filter_designs import all_pass, linkwitz_riley
from mixprint.dsp.filters import filtered

KNEE_DB = 6.0
# A block is shorter than a period of the bass, whose level would swing with its waveform.
_HOLD_S = 0.01
_DOWNWARD_RANGE_DB = 40.0
_LOOK_AHEAD_S = 0.003
_TRANSIENT_S = (0.001, 0.03)  # how fast the two followers of a transient shaper rise
_SUSTAIN_S = (0.05, 0.4)  # and how fast those of the sustain fall
_FULL_CONTRAST_DB = 12.0  # difference of the followers at which the whole gain is given


def side_chain_db(audio_NCT: Tensor) -> Tensor:
    """Measure the level of each block in the louder channel: level_NK, float64."""
    return block_levels_db(audio_NCT.abs().amax(dim=1)).double()


def own_level_db(level_NK: Tensor) -> Tensor:
    """Return the mean power of the blocks' peaks in dB: level_N."""
    return 10 * torch.log10(torch.pow(10.0, level_NK / 10).mean(dim=-1))


def held(level_NK: Tensor, hold_s: float, sample_rate_hz: int) -> Tensor:
    """Return the highest of the last levels."""
    size = max(round(hold_s * sample_rate_hz / BLOCK_SAMPLES), 1)
    padded = functional.pad(level_NK, (size - 1, 0), value=FLOOR_DB)
    return functional.max_pool1d(padded, size, stride=1)


def scaled(audio_NCT: Tensor, gain_db_NK: Tensor) -> Tensor:
    """Multiply by a gain that is given at the ends of blocks, in lines of amplitude between."""
    gain_NK = amplitude(gain_db_NK).to(audio_NCT.dtype)
    return audio_NCT * joined(gain_NK, gain_NK[:, 0], audio_NCT.shape[-1])[:, None]


def compressed(
    audio_NCT: Tensor,
    threshold_db_N: Tensor,
    ratio_N: Tensor,
    attack_ms_N: Tensor,
    release_ms_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Turn down what is above a threshold, with a soft knee of `KNEE_DB`.

    Args:
        audio_NCT: stereo signals.
        threshold_db_N: above the own level.
        ratio_N: dB of input for a dB of output above it, at least 1.
        attack_ms_N: time constant while the reduction rises.
        release_ms_N: time constant while it falls.
        sample_rate_hz: of the audio.
    """
    level_NK = side_chain_db(audio_NCT)
    threshold_N = own_level_db(level_NK) + threshold_db_N
    over_NK = above_threshold_db(level_NK, threshold_N, torch.full_like(threshold_N, KNEE_DB))
    attack_N, release_N = _poles(attack_ms_N, release_ms_N, sample_rate_hz)
    over_NK = smoothed(over_NK, attack_N, release_N)
    return scaled(audio_NCT, -(1 - 1 / ratio_N.double())[:, None] * over_NK)


def limited(
    audio_NCT: Tensor, threshold_db_N: Tensor, release_ms_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Let no sample exceed a threshold above the own level, by a gain that looks ahead.

    Args:
        audio_NCT: stereo signals.
        threshold_db_N: above the own level.
        release_ms_N: time constant in which the gain returns.
        sample_rate_hz: of the audio.
    """
    level_NK = side_chain_db(audio_NCT)
    threshold_N = own_level_db(level_NK) + threshold_db_N
    over_NK = (level_NK - threshold_N[:, None]).clamp_min(0)
    # A block's gain runs from the value before it to its own: both have to hold its peak.
    ahead = max(round(_LOOK_AHEAD_S * sample_rate_hz / BLOCK_SAMPLES), 1)
    over_NK = functional.max_pool1d(functional.pad(over_NK, (0, ahead)), ahead + 1, stride=1)
    release_N = pole(release_ms_N.double() / 1_000, sample_rate_hz)
    return scaled(audio_NCT, -smoothed(over_NK, torch.zeros_like(release_N), release_N))


def expanded(
    audio_NCT: Tensor,
    threshold_db_N: Tensor,
    ratio_N: Tensor,
    attack_ms_N: Tensor,
    release_ms_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Turn down what is below a threshold, by up to `_DOWNWARD_RANGE_DB`.

    Args:
        audio_NCT: stereo signals.
        threshold_db_N: above the own level.
        ratio_N: dB of output for a dB of input below the threshold, at least 1.
        attack_ms_N: time constant in which the gain returns when the level rises.
        release_ms_N: time constant in which it falls.
        sample_rate_hz: of the audio.
    """
    under_NK = _below_threshold_db(audio_NCT, threshold_db_N, sample_rate_hz)
    cut_NK = ((ratio_N.double() - 1)[:, None] * under_NK).clamp_max(_DOWNWARD_RANGE_DB)
    opening_N, closing_N = _poles(attack_ms_N, release_ms_N, sample_rate_hz)
    return scaled(audio_NCT, -smoothed(cut_NK, closing_N, opening_N, cut_NK[:, 0]))


def gated(
    audio_NCT: Tensor,
    threshold_db_N: Tensor,
    range_db_N: Tensor,
    attack_ms_N: Tensor,
    release_ms_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Close a gate wherever the level falls below a threshold.

    Args:
        audio_NCT: stereo signals.
        threshold_db_N: above the own level.
        range_db_N: how far a closed gate turns down.
        attack_ms_N: time constant in which it opens.
        release_ms_N: time constant in which it closes.
        sample_rate_hz: of the audio.
    """
    level_NK = side_chain_db(audio_NCT)
    threshold_N = own_level_db(level_NK) + threshold_db_N
    is_shut_NK = held(level_NK, 2 * _HOLD_S, sample_rate_hz) < threshold_N[:, None]
    cut_NK = is_shut_NK * range_db_N.double()[:, None]
    opening_N, closing_N = _poles(attack_ms_N, release_ms_N, sample_rate_hz)
    return scaled(audio_NCT, -smoothed(cut_NK, closing_N, opening_N, cut_NK[:, 0]))


def raised(
    audio_NCT: Tensor,
    threshold_db_N: Tensor,
    ratio_N: Tensor,
    range_db_N: Tensor,
    attack_ms_N: Tensor,
    release_ms_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Turn up what is below a threshold: an upward compressor.

    Args:
        audio_NCT: stereo signals.
        threshold_db_N: above the own level.
        ratio_N: dB of input for a dB of output below the threshold, at least 1.
        range_db_N: the highest gain.
        attack_ms_N: time constant in which the gain falls when the level rises.
        release_ms_N: time constant in which it rises.
        sample_rate_hz: of the audio.
    """
    under_NK = _below_threshold_db(audio_NCT, threshold_db_N, sample_rate_hz)
    gain_NK = (1 - 1 / ratio_N.double())[:, None] * under_NK
    gain_NK = torch.minimum(gain_NK, range_db_N.double()[:, None])
    falling_N, rising_N = _poles(attack_ms_N, release_ms_N, sample_rate_hz)
    return scaled(audio_NCT, smoothed(gain_NK, rising_N, falling_N, gain_NK[:, 0]))


def shaped(
    audio_NCT: Tensor, attack_db_N: Tensor, sustain_db_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Turn onsets and what rings after them up or down, whatever their level.

    Where a follower that rises fast is above one that rises slowly there is an onset; where one
    that falls slowly is above one that falls fast, something rings.

    Args:
        audio_NCT: stereo signals.
        attack_db_N: gain of an onset of `_FULL_CONTRAST_DB` and more.
        sustain_db_N: gain of what rings so far below its onset.
        sample_rate_hz: of the audio.
    """
    level_NK = held(side_chain_db(audio_NCT), _HOLD_S, sample_rate_hz)

    def follower(rise_s: float, fall_s: float) -> Tensor:
        times_2 = torch.tensor([rise_s, fall_s], dtype=torch.float64, device=level_NK.device)
        pole_N2 = pole(times_2, sample_rate_hz).expand(len(level_NK), 2)
        return smoothed(level_NK, pole_N2[:, 0], pole_N2[:, 1], level_NK[:, 0])

    def contrast(higher_NK: Tensor, lower_NK: Tensor) -> Tensor:
        return ((higher_NK - lower_NK) / _FULL_CONTRAST_DB).clamp(0, 1)

    fast_s, slow_s = _TRANSIENT_S
    short_s, long_s = _SUSTAIN_S
    plain_NK = follower(fast_s, short_s)
    onset_NK = contrast(plain_NK, follower(slow_s, short_s))
    ringing_NK = contrast(follower(fast_s, long_s), plain_NK)
    gain_db_NK = attack_db_N.double()[:, None] * onset_NK
    return scaled(audio_NCT, gain_db_NK + sustain_db_N.double()[:, None] * ringing_NK)


def pumped(
    audio_NCT: Tensor,
    tempo_bpm_N: Tensor,
    phase_N: Tensor,
    depth_db_N: Tensor,
    recovery_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Turn down on each beat of a tempo, as by a side chain of a kick drum.

    Args:
        audio_NCT: stereo signals.
        tempo_bpm_N: beats in a minute.
        phase_N: part of a beat that has gone by at the first sample.
        depth_db_N: how far, on the beat.
        recovery_N: part of a beat after which the gain is back; it returns along a parabola.
        sample_rate_hz: of the audio.
    """
    num_blocks = -(-audio_NCT.shape[-1] // BLOCK_SAMPLES)
    block_K = torch.arange(num_blocks, dtype=torch.float64, device=audio_NCT.device)
    beats_NK = block_K * (tempo_bpm_N.double() / 60)[:, None] * BLOCK_SAMPLES / sample_rate_hz
    beats_NK = beats_NK + phase_N.double()[:, None]
    left_NK = (1 - beats_NK.frac() / recovery_N.double()[:, None]).clamp_min(0)
    return scaled(audio_NCT, -depth_db_N.double()[:, None] * left_NK.square())


def compressed_in_bands(
    audio_NCT: Tensor,
    crossover_hz_N2: Tensor,
    threshold_db_N: Tensor,
    ratio_N3: Tensor,
    attack_ms_N: Tensor,
    release_ms_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Compress three bands, each against its own level, and add them up.

    Args:
        audio_NCT: stereo signals.
        crossover_hz_N2: between the low and the middle band, and above that.
        threshold_db_N: above the own level of each band.
        ratio_N3: of each band.
        attack_ms_N: of all bands.
        release_ms_N: of all bands.
        sample_rate_hz: of the audio.
    """
    bands_NBCT = split_bands(audio_NCT, crossover_hz_N2, sample_rate_hz)
    compressed_MCT = compressed(
        bands_NBCT.flatten(0, 1),
        threshold_db_N.repeat_interleave(3),
        ratio_N3.flatten(),
        attack_ms_N.repeat_interleave(3),
        release_ms_N.repeat_interleave(3),
        sample_rate_hz,
    )
    return compressed_MCT.view_as(bands_NBCT).sum(dim=1)


def de_essed(
    audio_NCT: Tensor,
    crossover_hz_N: Tensor,
    threshold_db_N: Tensor,
    range_db_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Turn down the highs where they stand out, dB by dB up to a range.

    Args:
        audio_NCT: stereo signals.
        crossover_hz_N: highs are above it.
        threshold_db_N: above the own level of the highs.
        range_db_N: how far at most.
        sample_rate_hz: of the audio.
    """
    low_NCT, high_NCT = split_bands(audio_NCT, crossover_hz_N[:, None], sample_rate_hz).unbind(1)
    level_NK = side_chain_db(high_NCT)
    threshold_N = own_level_db(level_NK) + threshold_db_N
    over_NK = (level_NK - threshold_N[:, None]).clamp_min(0)
    over_NK = torch.minimum(over_NK, range_db_N.double()[:, None])
    attack_N, release_N = (
        pole(torch.full_like(threshold_N, time_s), sample_rate_hz) for time_s in (0.001, 0.05)
    )
    return low_NCT + scaled(high_NCT, -smoothed(over_NK, attack_N, release_N))


def split_bands(audio_NCT: Tensor, crossover_hz_NX: Tensor, sample_rate_hz: int) -> Tensor:
    """Split at rising frequencies by Linkwitz-Riley crossovers of fourth order.

    The bands add up to the input behind an all-pass.

    Args:
        audio_NCT: stereo signals.
        crossover_hz_NX: one frequency between each band and the next.
        sample_rate_hz: of the audio.

    Returns:
        bands_NBCT, the lowest first.
    """
    bands: list[Tensor] = []
    for frequency_hz_N in crossover_hz_NX.unbind(dim=1):
        low, high = (
            linkwitz_riley(frequency_hz_N, sample_rate_hz, high=high) for high in (False, True)
        )
        # Both outputs add up to an all-pass, whose phase lower bands have to take.
        around = all_pass(frequency_hz_N, BUTTERWORTH_Q, sample_rate_hz)
        bands = [filtered(band_NCT, around) for band_NCT in bands]
        bands.append(filtered(audio_NCT, low))
        audio_NCT = filtered(audio_NCT, high)
    return torch.stack([*bands, audio_NCT], dim=1)


def _poles(attack_ms_N: Tensor, release_ms_N: Tensor, sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    attack_s_N, release_s_N = attack_ms_N.double() / 1_000, release_ms_N.double() / 1_000
    return pole(attack_s_N, sample_rate_hz), pole(release_s_N, sample_rate_hz)


def _below_threshold_db(audio_NCT: Tensor, threshold_db_N: Tensor, sample_rate_hz: int) -> Tensor:
    """Return by how much held levels are below a threshold, with a soft knee."""
    level_NK = side_chain_db(audio_NCT)
    threshold_N = own_level_db(level_NK) + threshold_db_N
    held_NK = held(level_NK, _HOLD_S, sample_rate_hz)
    return above_threshold_db(-held_NK, -threshold_N, torch.full_like(threshold_N, KNEE_DB))
