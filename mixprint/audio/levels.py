"""Loudness and peaks of audio, for checks and display.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mixprint.audio.resampling import resample_blocks
from mixprint.dsp.loudness import integrated_loudness

# Four times 48 kHz, by ITU-R BS.1770-4; 44.1 kHz is raised as much.
TRUE_PEAK_OVERSAMPLING = 4
MAX_TRUE_PEAK_DBTP = -1.0  # of what is written for listening
SILENT_PEAK_DB = -200.0


def loudness_lufs(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure the integrated loudness, for checks and display (ITU-R BS.1770-4, in LUFS)."""
    with torch.no_grad():
        return float(integrated_loudness(audio_CT.unsqueeze(0), sample_rate_hz)[0])


def true_peak(blocks: Iterable[Tensor], sample_rate_hz: int) -> float:
    """Measure the highest magnitude, between samples too, full scale 1.

    Args:
        blocks: audio_CT in blocks of any lengths.
        sample_rate_hz: their rate.

    Source: ITU-R BS.1770-4, annex 2: four times oversampled.
    """
    sample_peak = 0.0

    def watched() -> Iterator[Tensor]:
        nonlocal sample_peak
        for block_CT in blocks:
            sample_peak = max(sample_peak, float(block_CT.abs().max()))
            yield block_CT

    oversampled_hz = TRUE_PEAK_OVERSAMPLING * sample_rate_hz
    between = (
        float(block_CT.abs().max())
        for block_CT in resample_blocks(watched(), sample_rate_hz, oversampled_hz)
        if block_CT.numel()
    )
    return max(max(between, default=0.0), sample_peak)


def true_peak_dbtp(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure `true_peak` in dBTP."""
    return peak_db(true_peak([audio_CT], sample_rate_hz))


def peak_db(amplitude: float) -> float:
    """Return a magnitude, full scale 1, in dB; silence reads `SILENT_PEAK_DB`."""
    return 20 * math.log10(amplitude) if amplitude > 0 else SILENT_PEAK_DB
