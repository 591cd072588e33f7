"""Loudness and peaks of audio, for checks and display.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.audio.resampling import lowpass
from mixprint.dsp.loudness import integrated_loudness

# Of any rate; ITU-R BS.1770-4 asks for it at 48 kHz.
TRUE_PEAK_OVERSAMPLING = 4
_FRAME_SAMPLES = 64  # that one product of matrices interpolates: the fastest of 32 to 256
_FRAMES_AT_ONCE = 1 << 12  # 6 s, which bounds the memory
MAX_TRUE_PEAK_DBTP = -1.0  # of what is written for listening
SILENT_PEAK_DB = -200.0


def loudness_lufs(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure the integrated loudness, for checks and display (ITU-R BS.1770-4, in LUFS)."""
    with torch.no_grad():
        return float(integrated_loudness(audio_CT.unsqueeze(0), sample_rate_hz)[0])


class TruePeak:
    """The highest magnitude of audio that is handed over block by block; see `true_peak`."""

    def __init__(self) -> None:
        """Start with silence."""
        self._between = _interpolation()
        self._context = (len(self._between) - _FRAME_SAMPLES) // 2
        self._held_CT: Tensor | None = None  # from the context of what is measured next on
        self._peak = 0.0

    def add(self, block_CT: Tensor) -> None:
        """Take the next block, of any length."""
        source_CT = block_CT.detach().to("cpu", torch.float32)
        if self._held_CT is None:
            self._held_CT = source_CT.new_zeros(len(source_CT), self._context)
        self._compare(source_CT)
        self._held_CT = torch.cat([self._held_CT, source_CT], dim=1)
        usable = (self._held_CT.shape[1] - 2 * self._context) // _FRAME_SAMPLES * _FRAME_SAMPLES
        if usable > 0:
            self._measure(self._held_CT[:, : usable + 2 * self._context], usable)
            self._held_CT = self._held_CT[:, usable:].clone()

    def finish(self) -> float:
        """Return the highest magnitude, full scale 1; nothing may follow."""
        if self._held_CT is not None:
            rest = self._held_CT.shape[1] - self._context
            self._measure(functional.pad(self._held_CT, (0, self._context)), rest)
        return self._peak

    def _measure(self, held_CT: Tensor, num_samples: int) -> None:
        """Interpolate so many samples, which lie between their contexts."""
        held_CT = functional.pad(held_CT, (0, -num_samples % _FRAME_SAMPLES))
        frames_CNT = held_CT.unfold(1, len(self._between), _FRAME_SAMPLES)
        for part_CNT in frames_CNT.split(_FRAMES_AT_ONCE, dim=1):
            between_CT = (part_CNT @ self._between).flatten(1)
            # The last frame may go beyond the end.
            self._compare(between_CT[:, : TRUE_PEAK_OVERSAMPLING * num_samples])
            num_samples -= _FRAME_SAMPLES * part_CNT.shape[1]

    def _compare(self, samples_CT: Tensor) -> None:
        if samples_CT.numel():
            self._peak = max(self._peak, float(samples_CT.abs().max()))


@cache
def _interpolation() -> Tensor:
    """Make the matrix from a frame of samples with its contexts to values between them.

    Each column holds the taps of the resampling filter that give one value. As a product of
    matrices it takes a quarter of the time of a polyphase filter.
    """
    taps = torch.from_numpy(lowpass(TRUE_PEAK_OVERSAMPLING, 1)) * TRUE_PEAK_OVERSAMPLING
    half = len(taps) // 2
    context = half // TRUE_PEAK_OVERSAMPLING + 1
    source = TRUE_PEAK_OVERSAMPLING * torch.arange(-context, _FRAME_SAMPLES + context)
    made = torch.arange(TRUE_PEAK_OVERSAMPLING * _FRAME_SAMPLES)
    place = half + made.view(1, -1) - source.view(-1, 1)
    is_inside = (place >= 0) & (place < len(taps))
    return torch.where(is_inside, taps[place.clamp(0, len(taps) - 1)], 0.0)


def true_peak(blocks: Iterable[Tensor]) -> float:
    """Measure the highest magnitude, between samples too, full scale 1.

    Args:
        blocks: audio_CT in blocks of any lengths, of any rate.

    Source: ITU-R BS.1770-4, annex 2: four times oversampled.
    """
    meter = TruePeak()
    for block_CT in blocks:
        meter.add(block_CT)
    return meter.finish()


def true_peak_dbtp(audio_CT: Tensor) -> float:
    """Measure `true_peak` in dBTP."""
    return peak_db(true_peak([audio_CT]))


def peak_db(amplitude: float) -> float:
    """Return a magnitude, full scale 1, in dB; silence reads `SILENT_PEAK_DB`."""
    return 20 * math.log10(amplitude) if amplitude > 0 else SILENT_PEAK_DB
