"""Loudness and peaks of audio that comes in blocks, and the gain that keeps the peaks safe.

Shape suffixes: C channel, T sample, K step of 100 ms.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.audio.levels import MAX_TRUE_PEAK_DBTP, peak_db, true_peak
from mixprint.dsp.loudness import HOP_S, hop_energy, integrated_from_energy, k_weight
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Levels:
    """Loudness and true peak of audio.

    Attributes:
        loudness_lufs: integrated, as `mixprint.audio.levels.loudness_lufs` measures the whole.
        true_peak_dbtp: highest magnitude, between samples too, see `mixprint.audio.levels.peak_db`.
        peak_dbfs: highest sample.
    """

    loudness_lufs: float
    true_peak_dbtp: float
    peak_dbfs: float


def stream_levels(blocks: Iterable[Tensor]) -> Levels:
    """Measure the levels of audio in one pass.

    Args:
        blocks: block_CT at 44.1 kHz, together 0.4 s or longer.
    """
    hop = round(HOP_S * SAMPLE_RATE_HZ)
    sample_peak = 0.0
    energies_K: list[Tensor] = []

    def watched() -> Iterator[Tensor]:
        nonlocal sample_peak
        # The filter reaches back by less than one step; before the audio there is silence.
        held_CT = torch.zeros(NUM_CHANNELS, hop)
        for block_CT in blocks:
            sample_peak = max(sample_peak, float(block_CT.abs().max()))
            held_CT = torch.cat((held_CT, block_CT), dim=-1)
            num_hops = held_CT.shape[-1] // hop - 1
            if num_hops >= 1:
                weighted_CT = k_weight(held_CT[:, : (num_hops + 1) * hop], SAMPLE_RATE_HZ)
                energies_K.append(hop_energy(weighted_CT[:, hop:], SAMPLE_RATE_HZ))
                held_CT = held_CT[:, num_hops * hop :]
            yield block_CT

    peak = true_peak(watched(), SAMPLE_RATE_HZ)
    energy_K = torch.cat(energies_K) if energies_K else torch.zeros(0)
    return Levels(
        loudness_lufs=float(integrated_from_energy(energy_K.unsqueeze(0))[0]),
        true_peak_dbtp=peak_db(peak),
        peak_dbfs=peak_db(sample_peak),
    )


def peak_safe_gain_db(true_peak_dbtp: float) -> float:
    """Return the gain, at most 0 dB, that brings a true peak down to `MAX_TRUE_PEAK_DBTP`."""
    return min(0.0, MAX_TRUE_PEAK_DBTP - true_peak_dbtp)
