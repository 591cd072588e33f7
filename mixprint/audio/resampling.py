"""Change of the sample rate, of a whole signal or of a stream of blocks.

Shape suffixes: C channel, T sample.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]
BLOCK_FRAMES = 1 << 18
# A Kaiser-windowed sinc, cut off at 0.95 of the lower Nyquist frequency. With 64 zero crossings
# a side and 100 dB of attenuation the transition is 0.1 of it wide (Kaiser's formula), so it is
# flat to 0.90 (19.8 kHz at 44.1 kHz) and what folds back lies below the noise of 16 bits.
_CUTOFF = 0.95
_ZERO_CROSSINGS = 64
_ATTENUATION_DB = 100.0


def resample(audio_CT: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Change the sample rate, by a windowed sinc of linear phase and no delay.

    torchaudio's resampler builds a dense kernel of from_hz x to_hz values (7 GB for 44,099 Hz);
    SciPy's polyphase filter needs none, so any pair of rates works, and by parts too.

    Args:
        audio_CT: audio, any number of channels.
        from_hz: its rate in Hz.
        to_hz: the asked rate in Hz.

    Returns:
        audio_CT, float32, with ceil(T * to_hz / from_hz) samples; equal rates return the input.
    """
    up, down = reduced_ratio(from_hz, to_hz)
    if up == down:
        return audio_CT
    source_CT = audio_CT.detach().to("cpu", torch.float32).numpy()
    blocks = (
        source_CT[:, start : start + BLOCK_FRAMES]
        for start in range(0, source_CT.shape[1], BLOCK_FRAMES)
    )
    parts = list(resampled_parts(blocks, up, down))
    if not parts:
        return audio_CT.new_zeros(audio_CT.shape)
    return torch.from_numpy(np.concatenate(parts, axis=1))


def resample_blocks(blocks: Iterable[Tensor], from_hz: int, to_hz: int) -> Iterator[Tensor]:
    """Resample a stream of blocks as `resample` does the whole.

    Args:
        blocks: block_CT of any lengths.
        from_hz: their rate in Hz.
        to_hz: the asked rate in Hz.

    Yields:
        block_CT, float32.
    """
    up, down = reduced_ratio(from_hz, to_hz)
    sources = (block_CT.detach().to("cpu", torch.float32).numpy() for block_CT in blocks)
    for part_CT in resampled_parts(sources, up, down):
        yield torch.from_numpy(part_CT)


def resampling_notes(name: str, from_hz: int, to_hz: int) -> tuple[str, ...]:
    """Say of what was read at another rate than its own; nothing of what was not."""
    return () if from_hz == to_hz else (f"{name}: resampled from {from_hz} Hz to {to_hz} Hz",)


def reduced_ratio(from_hz: int, to_hz: int) -> tuple[int, int]:
    """Reduce the ratio of two rates: (up, down)."""
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be > 0, got {from_hz} and {to_hz} Hz")
    divisor = math.gcd(from_hz, to_hz)
    return to_hz // divisor, from_hz // divisor


def resampled_length(num_frames: int, up: int, down: int) -> int:
    """Return the length of a signal after resampling."""
    return -(-num_frames * up // down)


def context_frames(up: int, down: int) -> int:
    """Count the frames that the filter sees on each side, as whole periods of `down` frames."""
    if up == down:
        return 0
    half_length = _half_length(up, down)
    return -(-half_length // (up * down)) * down


def _half_length(up: int, down: int) -> int:
    """Half of the filter, in samples of the common rate (source rate times `up`)."""
    return math.ceil(_ZERO_CROSSINGS * max(up, down) / _CUTOFF)


@lru_cache(maxsize=4)
def _lowpass(up: int, down: int) -> FloatArray:
    """Design the filter at the common rate; its sum is 1, as `resample_poly` expects."""
    half_length = _half_length(up, down)
    cutoff = _CUTOFF / max(up, down)
    time_T = np.arange(-half_length, half_length + 1)
    beta = 0.1102 * (_ATTENUATION_DB - 8.7)  # Kaiser's formula for more than 50 dB
    taps_T = np.sinc(cutoff * time_T) * np.kaiser(2 * half_length + 1, beta)
    return (taps_T / taps_T.sum()).astype(np.float32)


def resampled_parts(blocks: Iterator[FloatArray], up: int, down: int) -> Iterator[FloatArray]:
    """Resample a stream of blocks as if it were one: each part is filtered with its context."""
    if up == down:
        yield from blocks
        return
    # Imported here: it takes half a second, and most files have the right rate.
    from scipy.signal import resample_poly

    taps = _lowpass(up, down)
    context = context_frames(up, down)
    held_CT: FloatArray | None = None
    for block_CT in blocks:
        if held_CT is None:
            held_CT = np.zeros((block_CT.shape[0], context), np.float32)
        held_CT = np.concatenate([held_CT, block_CT], axis=1)
        usable = (held_CT.shape[1] - 2 * context) // down * down
        if usable <= 0:
            continue
        part_CT = resample_poly(held_CT[:, : usable + 2 * context], up, down, axis=1, window=taps)
        skip = context // down * up
        yield part_CT[:, skip : skip + usable // down * up]
        held_CT = held_CT[:, usable:]
    if held_CT is None:
        return
    rest = held_CT.shape[1] - context
    held_CT = np.pad(held_CT, ((0, 0), (0, context)))
    part_CT = resample_poly(held_CT, up, down, axis=1, window=taps)
    skip = context // down * up
    yield part_CT[:, skip : skip + resampled_length(rest, up, down)]
