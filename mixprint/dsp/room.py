"""Room of a mix: a fixed sequence of echoes that dies away exponentially.

The echoes are those of a feedback delay network (Jot and Chaigne 1991) without losses. In one whose
lines have gains of gamma^d for delays d, each path of total delay n carries gamma^n, whichever way
it took; so its response is that of the lossless network times an envelope, 60 dB down after the
reverb time, which has a gradient. `mixprint.synthesis.exact.reverb` is the network itself.

Low and high frequencies may die away in other times: then there are three such networks, and what
they answer is put together by filters without phase that add up to 1 (their ringing before an echo
finds room in the silence before the first one).

Shape suffixes: B track, C channel, T sample, N tap, F frequency bin.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.dsp.decibels import amplitude

MAX_TIME_S = 6.0
DAMPING_HZ = 5_000.0
LOW_HZ, HIGH_HZ = 300.0, 4_000.0
_REFERENCE_RATE_HZ = 44_100
# Delays of 30 to 64 ms without common factors.
_DELAYS = (1327, 1559, 1801, 2017, 2221, 2399, 2617, 2801)
INPUT_GAIN = 0.35
# Of the lines in the left channel, and in the right one.
SIGNS = ((1, 0, 1, 0, -1, 0, -1, 0), (0, 1, 0, 1, 0, -1, 0, -1))
_NUM_DAMPING_TAPS = 6
# A rendered room ends where it has died away by so much.
RENDERED_DB = 90.0


@functools.lru_cache(maxsize=4)
def echoes(sample_rate_hz: int) -> Tensor:
    """Return the response of the lossless network, as long as the longest room is rendered.

    Returns:
        echo_CN, float64, two channels.
    """
    delays = line_delays(sample_rate_hz)
    num_taps = round(MAX_TIME_S * RENDERED_DB / 60 * sample_rate_hz)
    block, history = min(delays), max(delays)
    line_DN = np.zeros((len(delays), history + num_taps))
    hadamard_DD = _hadamard(len(delays)) / math.sqrt(len(delays))
    for start in range(0, num_taps, block):
        stop = min(start + block, num_taps)
        delayed_DN = np.stack(
            [
                line_N[history + start - delay : history + stop - delay]
                for line_N, delay in zip(line_DN, delays, strict=True)
            ]
        )
        line_DN[:, history + start : history + stop] = hadamard_DD @ delayed_DN
        if start == 0:
            line_DN[:, history] += INPUT_GAIN
    return torch.from_numpy(np.array(SIGNS) @ line_DN[:, history:])


def line_delays(sample_rate_hz: int) -> list[int]:
    """Return the delays of the network's lines, in samples."""
    return [round(delay * sample_rate_hz / _REFERENCE_RATE_HZ) for delay in _DELAYS]


def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


@dataclass(frozen=True)
class Rooms:
    """Rooms of tracks, one each.

    Attributes:
        send_db_B: level of what is sent there, the mean of both channels.
        time_s_B: time to fall by 60 dB.
        low_ratio_B: that time below `LOW_HZ`, in parts of `time_s_B`; None is 1.
        high_ratio_B: that time above `HIGH_HZ`; None is 1.
    """

    send_db_B: Tensor
    time_s_B: Tensor
    low_ratio_B: Tensor | None = None
    high_ratio_B: Tensor | None = None

    def impulse_response(self, sample_rate_hz: int, num_taps: int) -> Tensor:
        """Return what the rooms answer to an impulse, the send included; differentiable.

        Returns:
            impulse_BCN, float64.
        """
        echo_CN = echoes(sample_rate_hz)[:, :num_taps].to(self.time_s_B.device)
        answer_BCN = _died_away(echo_CN, self.time_s_B, sample_rate_hz)
        ratios = ((self.low_ratio_B, LOW_HZ, False), (self.high_ratio_B, HIGH_HZ, True))
        total_BCN = answer_BCN
        for ratio_B, freq_hz, is_high in ratios:
            if ratio_B is not None:
                other_BCN = _died_away(echo_CN, ratio_B * self.time_s_B, sample_rate_hz)
                band_BCN = _band(other_BCN - answer_BCN, freq_hz / sample_rate_hz, is_high)
                total_BCN = total_BCN + band_BCN
        gain_B11 = amplitude(self.send_db_B.double())[:, None, None]
        return gain_B11 * _damped(total_BCN, sample_rate_hz)

    def longest_taps(self, sample_rate_hz: int) -> int:
        """Return the taps after which nothing is left that is heard."""
        ratio_B = torch.ones_like(self.time_s_B)
        for other_B in (self.low_ratio_B, self.high_ratio_B):
            if other_B is not None:
                ratio_B = torch.maximum(ratio_B, other_B)
        longest_s = min(float((self.time_s_B * ratio_B).max()), MAX_TIME_S)
        return math.ceil(longest_s * RENDERED_DB / 60 * sample_rate_hz)


def _died_away(echo_CN: Tensor, time_s_B: Tensor, sample_rate_hz: int) -> Tensor:
    num_taps = echo_CN.shape[-1]
    tap_N = torch.arange(num_taps, dtype=torch.float64, device=echo_CN.device)
    rate_B = -3 * math.log(10.0) / (time_s_B.double().clamp_max(MAX_TIME_S) * sample_rate_hz)
    return echo_CN * torch.exp(rate_B[:, None] * tap_N)[:, None]


def _band(audio_BCN: Tensor, frequency: float, is_high: bool) -> Tensor:
    """Leave what is below a frequency, in parts of the sample rate, or (high) what is above it."""
    num_taps = audio_BCN.shape[-1]
    num_fft = next_fast_len(2 * num_taps, real=True)
    bin_F = torch.arange(num_fft // 2 + 1, dtype=torch.float64, device=audio_BCN.device)
    low_F = 1 / (1 + (bin_F / (num_fft * frequency)) ** 4)
    spectrum_BCF = torch.fft.rfft(audio_BCN, n=num_fft) * (1 - low_F if is_high else low_F)
    return torch.fft.irfft(spectrum_BCF, n=num_fft)[..., :num_taps]


def _damped(audio_BCN: Tensor, sample_rate_hz: int) -> Tensor:
    """Turn high frequencies down."""
    taps = damping_taps(sample_rate_hz)
    damped_BCN = taps[0] * audio_BCN
    for delay, tap in enumerate(taps[1:], start=1):
        damped_BCN[..., delay:] += tap * audio_BCN[..., :-delay]
    return damped_BCN


def damping_taps(sample_rate_hz: int) -> list[float]:
    """Return the first taps of a low-pass of first order at `DAMPING_HZ`, of sum 1."""
    pole = math.exp(-2 * math.pi * DAMPING_HZ / sample_rate_hz)
    taps = [(1 - pole) * pole**n for n in range(_NUM_DAMPING_TAPS - 1)]
    return [*taps, 1 - sum(taps)]


def answered(sent_BT: Tensor, impulse_BCN: Tensor) -> Tensor:
    """Return what rooms answer to what is sent there, as long as it; differentiable.

    Args:
        sent_BT: mean of both channels of each track.
        impulse_BCN: see `Rooms.impulse_response`.

    Returns:
        wet_BCT.
    """
    num_samples = sent_BT.shape[-1]
    num_fft = next_fast_len(num_samples + impulse_BCN.shape[-1] - 1, real=True)
    sent_B1F = torch.fft.rfft(sent_BT, n=num_fft)[:, None]
    room_BCF = torch.fft.rfft(impulse_BCN.to(sent_BT.dtype), n=num_fft)
    return torch.fft.irfft(sent_B1F * room_BCF, n=num_fft)[..., :num_samples]


class StreamedRooms:
    """Rooms that audio is sent to in blocks, in float64."""

    def __init__(self, rooms: Rooms, sample_rate_hz: int) -> None:
        """Start in silence."""
        self._impulse_BCN = rooms.impulse_response(
            sample_rate_hz, rooms.longest_taps(sample_rate_hz)
        ).detach()
        self._tail_BCN = torch.zeros_like(self._impulse_BCN)

    def add(self, sent_BT: Tensor) -> Tensor:
        """Return what the rooms answer during the next block: to it and to all before."""
        num_samples, num_taps = sent_BT.shape[-1], self._tail_BCN.shape[-1]
        padded_BT = torch.nn.functional.pad(sent_BT.double(), (0, num_taps))
        whole_BCT = answered(padded_BT, self._impulse_BCN)
        whole_BCT[..., :num_taps] += self._tail_BCN
        self._tail_BCN = whole_BCT[..., num_samples:].clone()
        return whole_BCT[..., :num_samples]
