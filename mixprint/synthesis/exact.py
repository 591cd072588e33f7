"""Signal primitives whose output is the same to the bit on every machine.

Only correctly rounded IEEE 754 operations touch samples: elementwise + - * / and comparisons,
and running sums in a fixed order. Library functions whose last bit depends on the processor
(vectorised sin and exp, BLAS, FFTs, pairwise sums) are avoided; scalars that come from `math` are
rounded to ten digits, which hides differences between C libraries.

Shape suffixes: C channel, T sample, L step within a block, K block.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixprint.stems import SAMPLE_RATE_HZ

Signal = NDArray[np.float64]
Biquad = tuple[float, float, float, float, float]  # b0 b1 b2 a1 a2, with a0 = 1

_BLOCK_SAMPLES = 256
# Odd Taylor coefficients of sin(2 pi x): the error on [0, 1/4] stays below 6e-8 (-144 dB).
_SINE = [
    round((-1) ** n * math.tau ** (2 * n + 1) / math.factorial(2 * n + 1), 10) for n in range(6)
]


class Rng:
    """A random generator that uses nothing but PCG64's 53-bit uniform numbers."""

    def __init__(self, *key: object) -> None:
        """Seed from any printable values, so that each part of a song draws independently."""
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw one number from [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def integer(self, low: int, high: int) -> int:
        """Draw one integer from low to high, both included."""
        return low + math.floor(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Draw True with the given probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[Any]) -> Any:
        """Draw one of the options."""
        return options[self.integer(0, len(options) - 1)]

    def shuffled(self, options: Sequence[Any]) -> list[Any]:
        """Return the options in random order (Fisher-Yates)."""
        result = list(options)
        for i in range(len(result) - 1, 0, -1):
            j = self.integer(0, i)
            result[i], result[j] = result[j], result[i]
        return result

    def noise(self, num_samples: int) -> Signal:
        """Draw white noise, uniform in [-1, 1)."""
        return 2.0 * self._generator.random(num_samples) - 1.0


def scalar(value: float) -> float:
    """Round a number that came from `math` to ten significant digits."""
    return float(f"{value:.9e}")


def gain(level_db: float) -> float:
    """Convert decibels to a factor."""
    return scalar(10.0 ** (level_db / 20.0))


def midi_hz(note: float) -> float:
    """Convert a MIDI note number to its equal-tempered frequency, A4 = 440 Hz."""
    return scalar(440.0 * 2.0 ** ((note - 69.0) / 12.0))


def samples(seconds: float) -> int:
    """Convert seconds to a whole number of samples."""
    return round(seconds * SAMPLE_RATE_HZ)


def total(values: Signal) -> float:
    """Sum in sequence: `np.sum` adds in an order that depends on the processor."""
    return float(np.cumsum(values)[-1]) if values.size else 0.0


def phase(frequency_hz_T: Signal | float, num_samples: int, start_turns: float = 0.0) -> Signal:
    """Integrate a frequency in Hz to a phase in turns."""
    if isinstance(frequency_hz_T, np.ndarray):
        turns_T: Signal = np.cumsum(frequency_hz_T * (1.0 / SAMPLE_RATE_HZ))
        return start_turns + turns_T
    step_turns = scalar(frequency_hz_T / SAMPLE_RATE_HZ)
    return start_turns + np.arange(num_samples, dtype=np.float64) * step_turns


def sine(phase_turns: Signal) -> Signal:
    """Return sin(2 pi x) of a phase in turns."""
    t = phase_turns - np.floor(phase_turns + 0.5)
    u = 0.25 - np.abs(np.abs(t) - 0.25)
    square = u * u
    result = np.full_like(u, _SINE[-1])
    for coefficient in reversed(_SINE[:-1]):
        result *= square
        result += coefficient
    result *= u
    return np.where(t < 0.0, -result, result)


def saw(phase_turns: Signal, step_turns: Signal | float) -> Signal:
    """Return a sawtooth with its steps rounded off (PolyBLEP, Valimaki and Huovilainen 2007).

    Args:
        phase_turns: phase in turns.
        step_turns: the phase's advance per sample, for the width of the rounding.
    """
    t = phase_turns - np.floor(phase_turns)
    after = np.maximum(0.0, 1.0 - t / step_turns)
    before = np.maximum(0.0, 1.0 - (1.0 - t) / step_turns)
    return 2.0 * t - 1.0 + after * after - before * before


def buzz(phase_turns: Signal, brightness: Signal | float) -> Signal:
    """Return harmonics that fall off as brightness**k, at about unit power.

    Closed form of the sum over all harmonics (Moorer 1976); a brightness that moves with time
    acts like a sweeping low-pass.
    """
    b = np.asarray(brightness)
    pulse = sine(phase_turns) / (1.0 + b * b - 2.0 * b * sine(phase_turns + 0.25))
    return pulse * np.sqrt(2.0 * (1.0 - b * b))


def decay(num_samples: int, time_s: float) -> Signal:
    """Return an exponential decay that starts at 1 and falls by 60 dB in time_s."""
    factor = scalar(10.0 ** (-3.0 / max(1.0, time_s * SAMPLE_RATE_HZ)))
    return np.multiply.accumulate(np.full(num_samples, factor))


def envelope(num_samples: int, attack_s: float, release_s: float) -> Signal:
    """Return a trapezoid of straight lines: up in attack_s, level 1, down to 0 in release_s."""
    n = np.arange(num_samples, dtype=np.float64)
    up = (n + 1.0) / max(1.0, samples(attack_s))
    down = (num_samples - n) / max(1.0, samples(release_s))
    return np.minimum(1.0, np.minimum(up, down))


def ramp(values: Sequence[float] | Signal, num_samples: int) -> Signal:
    """Interpolate control points, spread evenly over num_samples, by straight lines."""
    points = np.asarray(values, dtype=np.float64)
    position = np.arange(num_samples) * ((len(points) - 1) / max(1, num_samples))
    index = np.floor(position).astype(np.int64)
    index = np.minimum(index, len(points) - 2)
    fraction = position - index
    return points[index] + (points[index + 1] - points[index]) * fraction


def drift(rng: Rng, num_samples: int, rate_hz: float) -> Signal:
    """Return slow random motion in [-1, 1): noise at rate_hz, joined by straight lines."""
    return ramp(rng.noise(max(2, 2 + int(num_samples * rate_hz / SAMPLE_RATE_HZ))), num_samples)


def low_pass(frequency_hz: float, q: float = 0.7071) -> Biquad:
    """Design a second-order low-pass (RBJ audio EQ cookbook, like the designs below)."""
    cosine, alpha = _angles(frequency_hz, q)
    b = (1 - cosine) / 2
    return _normalised(b, 2 * b, b, 1 + alpha, -2 * cosine, 1 - alpha)


def high_pass(frequency_hz: float, q: float = 0.7071) -> Biquad:
    """Design a second-order high-pass."""
    cosine, alpha = _angles(frequency_hz, q)
    b = (1 + cosine) / 2
    return _normalised(b, -2 * b, b, 1 + alpha, -2 * cosine, 1 - alpha)


def band_pass(frequency_hz: float, q: float) -> Biquad:
    """Design a band-pass with a peak gain of 0 dB."""
    cosine, alpha = _angles(frequency_hz, q)
    return _normalised(alpha, 0.0, -alpha, 1 + alpha, -2 * cosine, 1 - alpha)


def peak(frequency_hz: float, gain_db: float, q: float = 0.8) -> Biquad:
    """Design a bell."""
    cosine, alpha = _angles(frequency_hz, q)
    a = 10.0 ** (gain_db / 40.0)
    return _normalised(
        1 + alpha * a, -2 * cosine, 1 - alpha * a, 1 + alpha / a, -2 * cosine, 1 - alpha / a
    )


def shelf(frequency_hz: float, gain_db: float, *, high: bool) -> Biquad:
    """Design a shelf with slope 1 below (low) or above (high) the frequency."""
    cosine, alpha = _angles(frequency_hz, 0.7071)
    if high:
        cosine = -cosine
    a = 10.0 ** (gain_db / 40.0)
    root = 2 * math.sqrt(a) * alpha
    sign = -1.0 if high else 1.0
    return _normalised(
        a * ((a + 1) - (a - 1) * cosine + root),
        sign * 2 * a * ((a - 1) - (a + 1) * cosine),
        a * ((a + 1) - (a - 1) * cosine - root),
        (a + 1) + (a - 1) * cosine + root,
        sign * -2 * ((a - 1) + (a + 1) * cosine),
        (a + 1) + (a - 1) * cosine - root,
    )


def _angles(frequency_hz: float, q: float) -> tuple[float, float]:
    omega = math.tau * min(frequency_hz, 0.49 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    return math.cos(omega), math.sin(omega) / (2 * q)


def _normalised(b0: float, b1: float, b2: float, a0: float, a1: float, a2: float) -> Biquad:
    return (
        scalar(b0 / a0),
        scalar(b1 / a0),
        scalar(b2 / a0),
        scalar(a1 / a0),
        scalar(a2 / a0),
    )


def filtered(x: Signal, *biquads: Biquad) -> Signal:
    """Run a signal through second-order sections.

    The signal is cut into blocks that are filtered side by side from rest; the state that each
    block should have started with is then carried from block to block and its response added.
    So the inner loop works on whole vectors and still uses only exact operations.

    Args:
        x: (..., T) signal.
        biquads: the sections, in order.

    Returns:
        The filtered signal, of the same shape.
    """
    lead, num_samples = x.shape[:-1], x.shape[-1]
    if num_samples == 0:
        return x
    num_blocks = -(-num_samples // _BLOCK_SAMPLES)
    padded = np.zeros((math.prod(lead), num_blocks * _BLOCK_SAMPLES))
    padded[:, :num_samples] = x.reshape(-1, num_samples)
    x_LCK = np.ascontiguousarray(padded.reshape(-1, num_blocks, _BLOCK_SAMPLES).transpose(2, 0, 1))
    for biquad in biquads:
        _filter_blocks(x_LCK, biquad)
    result = x_LCK.transpose(1, 2, 0).reshape(-1, num_blocks * _BLOCK_SAMPLES)
    return np.ascontiguousarray(result[:, :num_samples]).reshape(*lead, num_samples)


def _filter_blocks(x_LCK: Signal, biquad: Biquad) -> None:
    """Filter in place (transposed direct form II)."""
    b0, b1, b2, a1, a2 = biquad
    s1_CK = np.zeros(x_LCK.shape[1:])
    s2_CK = np.zeros(x_LCK.shape[1:])
    work = np.empty(x_LCK.shape[1:])
    for x_CK in x_LCK:
        y_CK = b0 * x_CK
        y_CK += s1_CK
        np.multiply(x_CK, b1, out=s1_CK)
        s1_CK -= np.multiply(y_CK, a1, out=work)
        s1_CK += s2_CK
        np.multiply(x_CK, b2, out=s2_CK)
        s2_CK -= np.multiply(y_CK, a2, out=work)
        x_CK[:] = y_CK
    # What a block's initial state adds to its output, and the state that is left at its end.
    responses = []
    for s1, s2 in ((1.0, 0.0), (0.0, 1.0)):
        response = np.empty(len(x_LCK))
        for step in range(len(x_LCK)):
            y = s1
            s1, s2 = s2 - a1 * y, -a2 * y
            response[step] = y
        responses.append((response, s1, s2))
    (h1_L, p11, p12), (h2_L, p21, p22) = responses
    start1_CK = np.zeros_like(s1_CK)
    start2_CK = np.zeros_like(s2_CK)
    for channel, (end1_K, end2_K) in enumerate(zip(s1_CK, s2_CK, strict=True)):
        end1, end2 = end1_K.tolist(), end2_K.tolist()
        s1 = s2 = 0.0
        starts1, starts2 = [], []
        for e1, e2 in zip(end1, end2, strict=True):
            starts1.append(s1)
            starts2.append(s2)
            s1, s2 = e1 + p11 * s1 + p21 * s2, e2 + p12 * s1 + p22 * s2
        start1_CK[channel] = starts1
        start2_CK[channel] = starts2
    x_LCK += h1_L[:, None, None] * start1_CK
    x_LCK += h2_L[:, None, None] * start2_CK


def pluck(excitation: Signal, period_samples: int, damping: float, num_samples: int) -> Signal:
    """Ring a string: a delay line with a two-point average in its loop (Karplus-Strong 1983).

    Args:
        excitation: what strikes the string.
        period_samples: length of the delay line; the pitch is rate / (period + 1/2).
        damping: loop gain, just below 1.
        num_samples: length of the result.
    """
    length = period_samples + 1
    line = np.zeros(num_samples + length)
    used = min(len(excitation), num_samples)
    line[length : length + used] = excitation[:used]
    half = 0.5 * damping
    for start in range(length, length + num_samples, period_samples):
        stop = min(start + period_samples, length + num_samples)
        line[start:stop] += half * (
            line[start - period_samples : stop - period_samples]
            + line[start - length : stop - length]
        )
    return line[length:]


def reverb(x_T: Signal, time_s: float, damping_hz: float, size: float = 1.0) -> Signal:
    """Return the wet sound of a stereo room: a feedback delay network (Jot and Chaigne 1991).

    Args:
        x_T: mono input.
        time_s: time to fall by 60 dB.
        damping_hz: high frequencies above it die sooner.
        size: scales the delays; 1 is a hall of 30 to 60 ms paths.

    Returns:
        wet_CT, two decorrelated channels of the input's length.
    """
    delays = [round(d * size) for d in (1327, 1559, 1801, 2017, 2221, 2399, 2617, 2801)]
    gains = np.array([[gain(-60.0 * d / (time_s * SAMPLE_RATE_HZ))] for d in delays])
    num_samples, block, history = len(x_T), min(delays), max(delays)
    lines = np.zeros((8, history + num_samples))
    # One-pole damping, run as a short FIR so that it needs no state: (1-c) * sum c^k z^-k.
    c = scalar(math.exp(-math.tau * damping_hz / SAMPLE_RATE_HZ))
    taps = [scalar((1 - c) * c**k) for k in range(6)]
    taps[-1] = scalar(1.0 - math.fsum(taps[:-1]))
    scale = math.sqrt(0.125)
    source = x_T * 0.35
    for start in range(0, num_samples, block):
        stop = min(start + block, num_samples)
        width = stop - start
        delayed = np.stack(
            [lines[i, history + start - d : history + stop - d] for i, d in enumerate(delays)]
        )
        mixed = delayed * gains
        # Hadamard mixing by butterflies: additions only.
        for half in (1, 2, 4):
            pairs = mixed.reshape(-1, 2, half, width)
            mixed = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        lines[:, history + start : history + stop] = (
            mixed.reshape(8, width) * scale + source[start:stop]
        )
    wet_CT = np.stack(
        [
            lines[0, history:] + lines[2, history:] - lines[4, history:] - lines[6, history:],
            lines[1, history:] + lines[3, history:] - lines[5, history:] - lines[7, history:],
        ]
    )
    damped = taps[0] * wet_CT
    for k, tap in enumerate(taps[1:], start=1):
        damped[:, k:] += tap * wet_CT[:, :-k]
    return damped


def compression_gain(
    level_T: Signal, threshold_db: float, ratio: float, attack_s: float, release_s: float
) -> Signal:
    """Return the gain curve of a feed-forward compressor.

    The level is the peak of each block of 64 samples; the gain reduction in dB is smoothed with
    separate attack and release times (Giannoulis, Massberg and Reiss 2012) and interpolated.

    Args:
        level_T: the side-chain signal.
        threshold_db: level in dBFS above which the gain falls.
        ratio: input dB per output dB above the threshold.
        attack_s: time constant of falling gain.
        release_s: time constant of rising gain.
    """
    block = 64
    num_samples = len(level_T)
    padded = np.zeros(-(-num_samples // block) * block)
    padded[:num_samples] = np.abs(level_T)
    attack = scalar(math.exp(-block / (attack_s * SAMPLE_RATE_HZ)))
    release = scalar(math.exp(-block / (release_s * SAMPLE_RATE_HZ)))
    slope = 1.0 - 1.0 / ratio
    reduction_db, factors = 0.0, [1.0]
    for level in padded.reshape(-1, block).max(axis=1).tolist():
        over_db = 20.0 * math.log10(max(level, 1e-6)) - threshold_db
        wanted_db = slope * max(0.0, over_db)
        pole = attack if wanted_db > reduction_db else release
        reduction_db = round(wanted_db + pole * (reduction_db - wanted_db), 9)
        factors.append(gain(-reduction_db))
    return ramp(factors, len(padded))[:num_samples]
