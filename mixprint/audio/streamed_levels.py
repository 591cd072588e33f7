"""Loudness and peaks of audio that comes in blocks, and the gain that keeps the peaks safe.

Shape suffixes: C channel, T sample, K step of 100 ms.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.audio.levels import MAX_TRUE_PEAK_DBTP, TruePeak, peak_db
from mixprint.dsp.loudness import HOP_S, hop_energy, integrated_from_energy, k_weight
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

HOP_SAMPLES = round(HOP_S * SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class MixLevels:
    """Loudness and true peak of audio.

    Attributes:
        loudness_lufs: integrated, as `mixprint.audio.levels.loudness_lufs` measures the whole.
        true_peak_dbtp: highest magnitude, between samples too, see `mixprint.audio.levels.peak_db`.
        peak_dbfs: highest sample.
    """

    loudness_lufs: float
    true_peak_dbtp: float
    peak_dbfs: float


class LevelMeter:
    """A meter of audio at 44.1 kHz that is handed over block by block, together 0.4 s or longer."""

    def __init__(self) -> None:
        self._true_peak = TruePeak()
        self._sample_peak = 0.0
        self._energies_K: list[Tensor] = []
        # The filter reaches back by less than one step; before the audio there is silence.
        self._held_CT = torch.zeros(NUM_CHANNELS, HOP_SAMPLES)

    def add(self, block_CT: Tensor) -> None:
        """Take the next block, of any length."""
        self._true_peak.add(block_CT)
        self._sample_peak = max(self._sample_peak, float(block_CT.abs().max()))
        held_CT = torch.cat((self._held_CT, block_CT), dim=-1)
        num_hops = held_CT.shape[-1] // HOP_SAMPLES - 1
        if num_hops >= 1:
            weighted_CT = k_weight(held_CT[:, : (num_hops + 1) * HOP_SAMPLES], SAMPLE_RATE_HZ)
            self._energies_K.append(hop_energy(weighted_CT[:, HOP_SAMPLES:], SAMPLE_RATE_HZ))
            held_CT = held_CT[:, num_hops * HOP_SAMPLES :]
        self._held_CT = held_CT

    def finish(self) -> MixLevels:
        """Return the levels; nothing may follow."""
        energy_K = torch.cat(self._energies_K) if self._energies_K else torch.zeros(0)
        return MixLevels(
            loudness_lufs=float(integrated_from_energy(energy_K.unsqueeze(0))[0]),
            true_peak_dbtp=peak_db(self._true_peak.finish()),
            peak_dbfs=peak_db(self._sample_peak),
        )


def stream_levels(blocks: Iterable[Tensor]) -> MixLevels:
    """Measure the levels of audio in one pass.

    Args:
        blocks: block_CT at 44.1 kHz, together 0.4 s or longer.
    """
    meter = LevelMeter()
    for block_CT in blocks:
        meter.add(block_CT)
    return meter.finish()


def peak_safe_gain_db(true_peak_dbtp: float) -> float:
    """Return the gain, at most 0 dB, that brings a true peak down to `MAX_TRUE_PEAK_DBTP`."""
    return min(0.0, MAX_TRUE_PEAK_DBTP - true_peak_dbtp)
