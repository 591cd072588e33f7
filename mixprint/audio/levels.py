"""Loudness and peaks of audio, for checks and display.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mixprint.audio.resampling import FloatArray, Resampler, reduced_ratio
from mixprint.dsp.loudness import integrated_loudness

# Four times 48 kHz, by ITU-R BS.1770-4; 44.1 kHz is raised as much.
TRUE_PEAK_OVERSAMPLING = 4
MAX_TRUE_PEAK_DBTP = -1.0  # of what is written for listening
SILENT_PEAK_DB = -200.0


def loudness_lufs(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure the integrated loudness, for checks and display (ITU-R BS.1770-4, in LUFS)."""
    with torch.no_grad():
        return float(integrated_loudness(audio_CT.unsqueeze(0), sample_rate_hz)[0])


class TruePeak:
    """The highest magnitude of audio that is handed over block by block; see `true_peak`."""

    def __init__(self, sample_rate_hz: int) -> None:
        """Start with silence at this rate."""
        oversampled_hz = TRUE_PEAK_OVERSAMPLING * sample_rate_hz
        self._between = Resampler(*reduced_ratio(sample_rate_hz, oversampled_hz))
        self._peak = 0.0

    def add(self, block_CT: Tensor) -> None:
        """Take the next block, of any length."""
        source_CT = block_CT.detach().to("cpu", torch.float32).numpy()
        self._compare([source_CT])
        self._compare(self._between.add(source_CT))

    def finish(self) -> float:
        """Return the highest magnitude, full scale 1; nothing may follow."""
        self._compare(self._between.finish())
        return self._peak

    def _compare(self, parts: Iterable[FloatArray]) -> None:
        self._peak = max([self._peak, *(float(np.abs(p).max()) for p in parts if p.size)])


def true_peak(blocks: Iterable[Tensor], sample_rate_hz: int) -> float:
    """Measure the highest magnitude, between samples too, full scale 1.

    Args:
        blocks: audio_CT in blocks of any lengths.
        sample_rate_hz: their rate.

    Source: ITU-R BS.1770-4, annex 2: four times oversampled.
    """
    meter = TruePeak(sample_rate_hz)
    for block_CT in blocks:
        meter.add(block_CT)
    return meter.finish()


def true_peak_dbtp(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure `true_peak` in dBTP."""
    return peak_db(true_peak([audio_CT], sample_rate_hz))


def peak_db(amplitude: float) -> float:
    """Return a magnitude, full scale 1, in dB; silence reads `SILENT_PEAK_DB`."""
    return 20 * math.log10(amplitude) if amplitude > 0 else SILENT_PEAK_DB
