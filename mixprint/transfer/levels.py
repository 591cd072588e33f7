"""Loudness of audio that comes in blocks, and the gain that keeps its peaks safe.

Shape suffixes: C channel, T sample, K step of 100 ms.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from mixprint.audio import MAX_TRUE_PEAK_DBTP
from mixprint.features.loudness import HOP_S, hop_energy, integrated_from_energy, k_weight
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ


def peak_safe_gain(peak: float) -> float:
    """Give the factor, at most 1, that brings a true peak down to `MAX_TRUE_PEAK_DBTP`."""
    return min(1.0, 10 ** (MAX_TRUE_PEAK_DBTP / 20) / peak) if peak > 0 else 1.0


def stream_loudness_lufs(blocks: Iterable[Tensor]) -> float:
    """Measure the integrated loudness, as `mixprint.audio.loudness_lufs` does of the whole.

    Args:
        blocks: block_CT at 44.1 kHz, together 0.4 s or longer.
    """
    hop = round(HOP_S * SAMPLE_RATE_HZ)
    # The filter reaches back by less than one step; before the audio there is silence.
    held_CT = torch.zeros(NUM_CHANNELS, hop)
    energies_K = []
    for block_CT in blocks:
        held_CT = torch.cat((held_CT, block_CT), dim=-1)
        num_hops = held_CT.shape[-1] // hop - 1
        if num_hops < 1:
            continue
        weighted_CT = k_weight(held_CT[:, : (num_hops + 1) * hop], SAMPLE_RATE_HZ)
        energies_K.append(hop_energy(weighted_CT[:, hop:], SAMPLE_RATE_HZ))
        held_CT = held_CT[:, num_hops * hop :]
    energy_K = torch.cat(energies_K) if energies_K else torch.zeros(0)
    return float(integrated_from_energy(energy_K.unsqueeze(0))[0])
