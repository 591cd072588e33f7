"""Alignment of a mix with what it was made of: delay, polarity and drift of its clock.

Delays are those at which the cross-correlation is highest, with its spectrum flattened (Knapp and
Carter 1976) so that equalisers and rooms do not blur it, in windows all over the song.

Shape suffixes: C channel, T sample, K window, B band, M frame.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft
from torch import Tensor

from mixprint.errors import DataError

# Clocks of different devices run apart by less than this; more is another speed.
MAX_DRIFT_PPM = 1_000.0
# A mix and its tracks share more than this of the movement of their bands; two songs have less.
MIN_LIKENESS = 0.5
# Less than this says nothing about how they lie.
MIN_SHARED_S = 1.0
# Windows agree when their delays lie so near the line through all.
_TOLERANCE_S = 0.002
_MIN_AGREEING = 0.5
_MIN_DRIFT_SAMPLES = 3.0
_WHITENING = 0.8
_SILENT = 1e-4
_BANDS_HZ = (100.0, 250.0, 630.0, 1_600.0, 4_000.0, 10_000.0)
_FRAME_S = 0.1
_NUM_TAPS = 32  # of the interpolation


@dataclass(frozen=True)
class _Windows:
    """Windows in which a delay is looked for, and how far around what is expected."""

    length_s: float
    reach_s: float
    max_number: int


_ROUGH = _Windows(5.0, 4.0, 16)
# Short, so that clocks that run apart do not blur them.
_FINE = _Windows(1.0, 0.05, 64)
_HEARD = 0.1  # of the loudness of the whole
# Of the highest peak: of loops and tones, which fit in many places, the nearest place is meant.
_TIED = 0.95


@dataclass(frozen=True)
class Alignment:
    """Position of a mix relative to its tracks.

    Attributes:
        delay_s: the mix comes so much later; below 0 it comes earlier.
        polarity: -1 where it is inverted.
        drift_ppm: so much slower it runs, in parts per million.
        likeness: correlation of the movements of their bands once aligned; 1 is the same.
    """

    delay_s: float
    polarity: int
    drift_ppm: float
    likeness: float


def align(dry_CT: Tensor, mix_CT: Tensor, sample_rate_hz: int, where: str) -> Alignment:
    """Find how a mix lies to the sum of its dry tracks.

    Args:
        dry_CT: the sum, any channels.
        mix_CT: the mix, any channels; its length may differ.
        sample_rate_hz: of both.
        where: what they are, for messages.

    Raises:
        DataError: one is silent or too short, they are not the same music, or they run at
            different speeds.
    """
    dry_T, mix_T = (x_CT.double().mean(dim=0).numpy() for x_CT in (dry_CT, mix_CT))
    for name, audio_T in (("tracks", dry_T), ("mix", mix_T)):
        if len(audio_T) < MIN_SHARED_S * sample_rate_hz:
            raise DataError(
                f"{where}: expected at least {MIN_SHARED_S:g} s of tracks and mix, found "
                f"{len(audio_T) / sample_rate_hz:.3f} s of the {name}"
            )
        audio_T -= audio_T.mean()  # a constant is no sound
        if np.abs(audio_T).max() < _SILENT:
            raise DataError(f"{where}: expected sound, found silence in the {name}")
    rough = _delays(dry_T, mix_T, sample_rate_hz, _ROUGH, (0.0, 0.0), where)
    drift, delay_s = _line(rough.times_s, rough.delays_s)
    if abs(drift) > MAX_DRIFT_PPM * 1e-6 or rough.agreeing(drift, delay_s).mean() < _MIN_AGREEING:
        raise DataError(
            f"{where}: expected the same music at the same speed in tracks and mix, at most "
            f"{_ROUGH.reach_s:g} s apart, found delays from {rough.delays_s.min():.3f} to "
            f"{rough.delays_s.max():.3f} s from window to window; a wrong sample rate does that, "
            "too"
        )
    fine = _delays(dry_T, mix_T, sample_rate_hz, _FINE, (drift, delay_s), where)
    agrees = fine.agreeing(*_line(fine.times_s, fine.delays_s))
    if not agrees.any():
        raise DataError(
            f"{where}: expected the same music in tracks and mix, found delays that differ from "
            "window to window"
        )
    if agrees.sum() > 1:
        drift, delay_s = np.polyfit(fine.times_s[agrees], fine.delays_s[agrees], 1).tolist()
    # A sample more or less at the end of a short song is no drift.
    if abs(drift) * len(dry_T) < _MIN_DRIFT_SAMPLES:
        drift, delay_s = 0.0, float(np.median(fine.delays_s[agrees]))
    polarity = 1 if fine.signs[agrees].sum() >= 0 else -1
    found = Alignment(delay_s, polarity, 1e6 * drift, 0.0)
    aligned_CT = aligned(mix_CT, found, sample_rate_hz, len(dry_T))
    first = max(round(-delay_s * sample_rate_hz), 0)
    shared = slice(first, max(round(len(mix_T) - delay_s * sample_rate_hz), 0))
    shared_T = dry_T[shared]
    if len(shared_T) < MIN_SHARED_S * sample_rate_hz:
        raise DataError(
            f"{where}: expected at least {MIN_SHARED_S:g} s that tracks and mix share, found "
            f"{len(shared_T) / sample_rate_hz:.3f} s: the mix lies {delay_s:+.3f} s from its tracks"
        )
    likeness = _likeness(shared_T, aligned_CT.double().mean(dim=0).numpy()[shared], sample_rate_hz)
    if likeness < MIN_LIKENESS:
        raise DataError(
            f"{where}: expected the same music in tracks and mix, found bands that move alike by "
            f"{likeness:.2f} only (at least {MIN_LIKENESS:g})"
        )
    return Alignment(delay_s, polarity, 1e6 * drift, likeness)


def aligned(mix_CT: Tensor, alignment: Alignment, sample_rate_hz: int, num_samples: int) -> Tensor:
    """Bring a mix into the time and polarity of its tracks.

    Returns:
        mix_CT of the asked length, silent where it has nothing.
    """
    start = alignment.delay_s * sample_rate_hz
    speed = 1.0 + 1e-6 * alignment.drift_ppm
    if alignment.drift_ppm == 0.0:
        return alignment.polarity * _shifted(mix_CT, round(start), num_samples)
    position_T = start + speed * torch.arange(num_samples, dtype=torch.float64)
    return alignment.polarity * _interpolated(mix_CT, position_T)


@dataclass(frozen=True)
class _Delays:
    """Delays in windows: at which time of the tracks, how long, and the sign of the peak."""

    times_s: np.ndarray
    delays_s: np.ndarray
    signs: np.ndarray

    def agreeing(self, drift: float, delay_s: float) -> np.ndarray:
        """Tell which lie near a line."""
        return np.abs(self.delays_s - (delay_s + drift * self.times_s)) < _TOLERANCE_S


def _delays(
    dry_T: np.ndarray,
    mix_T: np.ndarray,
    sample_rate_hz: int,
    windows: _Windows,
    expected: tuple[float, float],
    where: str,
) -> _Delays:
    """Find the delay in each of some windows of the tracks.

    Args:
        dry_T: the tracks.
        mix_T: the mix.
        sample_rate_hz: of both.
        windows: where it is looked for.
        expected: drift, and delay at the start, around which it is looked for.
        where: what they are, for messages.

    Raises:
        DataError: the mix is silent wherever it is looked for.
    """
    reach = round(windows.reach_s * sample_rate_hz)
    length = min(round(windows.length_s * sample_rate_hz), len(dry_T))
    found: list[tuple[float, float, float]] = []
    for start in _loud_starts(dry_T, length, windows.max_number):
        part_T = dry_T[start : start + length]
        time_s = (start + length / 2) / sample_rate_hz
        middle = round((expected[1] + expected[0] * time_s) * sample_rate_hz)
        first = start + middle - reach
        other_T = mix_T[max(first, 0) : max(first + length + 2 * reach, 0)]
        if np.abs(other_T).max(initial=0.0) < _SILENT:
            continue  # the mix ends earlier, or begins later
        correlation_T = _correlation(part_T, np.pad(other_T, (max(-first, 0), 0)))
        correlation_T = correlation_T[: 2 * reach + 1]
        size_T = np.abs(correlation_T)
        best = _nearest_peak(size_T, reach)
        delay = best + _between(size_T, best) - reach + middle
        found.append((time_s, delay / sample_rate_hz, np.sign(correlation_T[best])))
    if not found:
        raise DataError(
            f"{where}: expected the mix to sound where its tracks do, at most {_ROUGH.reach_s:g} s "
            "apart, found it silent there"
        )
    return _Delays(*np.array(found).T)


def _loud_starts(dry_T: np.ndarray, length: int, max_number: int) -> list[int]:
    """Choose windows in which there is sound, spread over all of them."""
    num_windows = max(2 * len(dry_T) // length - 1, 1)
    starts = np.linspace(0, len(dry_T) - length, num_windows).astype(int)
    loudness_K = np.array([np.sqrt(np.mean(dry_T[a : a + length] ** 2)) for a in starts])
    loud = starts[loudness_K >= _HEARD * np.sqrt(np.mean(dry_T**2))]
    chosen = np.linspace(0, len(loud) - 1, min(len(loud), max_number)).round().astype(int)
    return [int(start) for start in loud[chosen]]


def _nearest_peak(values_T: np.ndarray, middle: int) -> int:
    """Return where the highest value is, or of several that are as high, the nearest one."""
    tied = np.flatnonzero(values_T >= _TIED * values_T.max())
    best = int(tied[np.abs(tied - middle).argmin()])
    # From the slope of a peak to its top.
    while (around := values_T[max(best - 1, 0) : best + 2]).max() > values_T[best]:
        best = max(best - 1, 0) + int(around.argmax())
    return best


def _between(values_T: np.ndarray, best: int) -> float:
    """Return how far beside a highest sample the peak is: that of a parabola through three."""
    if not 0 < best < len(values_T) - 1:
        return 0.0
    before, here, after = values_T[best - 1 : best + 2]
    bend = before - 2 * here + after
    return float((before - after) / (2 * bend)) if bend < 0 else 0.0


def _correlation(part_T: np.ndarray, whole_T: np.ndarray) -> np.ndarray:
    """Correlate a part with a longer signal, with a spectrum that is nearly flat."""
    num_fft = next_fast_len(2 * max(len(whole_T), len(part_T)), real=True)
    cross_F = rfft(whole_T, num_fft) * rfft(part_T, num_fft).conj()
    size_F = np.abs(cross_F)
    return irfft(cross_F / (size_F + 1e-6 * size_F.max() + 1e-30) ** _WHITENING, num_fft)


def _line(x_K: np.ndarray, y_K: np.ndarray) -> tuple[float, float]:
    """Fit a line that some wrong points do not move (Theil 1950, Sen 1968): slope, value at 0."""
    first, second = np.triu_indices(len(x_K), 1)
    slope = (
        float(np.median((y_K[second] - y_K[first]) / (x_K[second] - x_K[first])))
        if len(first)
        else 0.0
    )
    return slope, float(np.median(y_K - slope * x_K))


def _likeness(dry_T: np.ndarray, mix_T: np.ndarray, sample_rate_hz: int) -> float:
    """Correlate the movements of the bands of two signals, in dB; the mean over the bands."""
    size = round(_FRAME_S * sample_rate_hz)
    levels = []
    for audio_T in (dry_T, mix_T):
        frames_MS = audio_T[: len(audio_T) // size * size].reshape(-1, size)
        power_MF = np.abs(rfft(frames_MS * np.hanning(size), axis=1)) ** 2
        edges = np.searchsorted(np.arange(power_MF.shape[1]) / _FRAME_S, _BANDS_HZ)
        band_MB = np.stack(
            [power_MF[:, a:b].sum(axis=1) for a, b in itertools.pairwise(edges)], axis=1
        )
        # What lies far below the loudest moment of its band is silence.
        levels.append(10 * np.log10(band_MB + 1e-6 * band_MB.max(axis=0) + 1e-20))
    moved = [level_MB - level_MB.mean(axis=0) for level_MB in levels]
    size_B = np.sqrt((moved[0] ** 2).sum(axis=0) * (moved[1] ** 2).sum(axis=0))
    heard_B = size_B > 0
    if not heard_B.any():
        return 0.0
    return float(((moved[0] * moved[1]).sum(axis=0)[heard_B] / size_B[heard_B]).mean())


def _shifted(audio_CT: Tensor, start: int, num_samples: int) -> Tensor:
    before, first = max(-start, 0), max(start, 0)
    part_CT = audio_CT[:, first : first + max(num_samples - before, 0)]
    missing = num_samples - before - part_CT.shape[-1]
    return torch.nn.functional.pad(part_CT, (before, missing))


def _interpolated(audio_CT: Tensor, position_T: Tensor) -> Tensor:
    """Read audio between its samples, by a windowed sinc; silent outside."""
    half = _NUM_TAPS // 2
    parts = []
    for part_T in position_T.split(1 << 18):
        first = math.floor(float(part_T[0])) - half
        last = math.floor(float(part_T[-1])) + half + 1
        stretch_CT = _shifted(audio_CT, first, last - first)
        whole_T = part_T.floor()
        index_TN = (whole_T.long() - first)[:, None] + torch.arange(1 - half, half + 1)
        away_TN = (part_T - whole_T).float()[:, None] - torch.arange(1 - half, half + 1)
        taps_TN = torch.sinc(away_TN) * torch.cos(math.pi * away_TN / _NUM_TAPS).square()
        parts.append((stretch_CT[:, index_TN] * taps_TN.to(audio_CT.dtype)).sum(dim=-1))
    return torch.cat(parts, dim=-1)
