"""Change of the sample rate, of a whole signal or of a stream of blocks.

Shape suffixes: N track, C channel, T sample.
"""

import math
from collections.abc import Iterator
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


def resample_tracks(audio_NCT: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Change the sample rate of tracks of one length; see `resample`. They stay on their device."""
    if from_hz == to_hz:
        return audio_NCT
    flat_CT = resample(audio_NCT.flatten(0, 1), from_hz, to_hz)
    return flat_CT.to(audio_NCT.device).unflatten(0, audio_NCT.shape[:2])


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
def lowpass(up: int, down: int) -> FloatArray:
    """Design the filter at the common rate; its sum is 1, as `resample_poly` expects."""
    half_length = _half_length(up, down)
    cutoff = _CUTOFF / max(up, down)
    time_T = np.arange(-half_length, half_length + 1)
    beta = 0.1102 * (_ATTENUATION_DB - 8.7)  # Kaiser's formula for more than 50 dB
    taps_T = np.sinc(cutoff * time_T) * np.kaiser(2 * half_length + 1, beta)
    return (taps_T / taps_T.sum()).astype(np.float32)


def resampled_parts(blocks: Iterator[FloatArray], up: int, down: int) -> Iterator[FloatArray]:
    """Resample a stream of blocks as if it were one."""
    if up == down:
        yield from blocks
        return
    resampler = Resampler(up, down)
    for block_CT in blocks:
        yield from resampler.add(block_CT)
    yield from resampler.finish()


class Resampler:
    """Resampling of a stream that is handed over block by block, as if it were one.

    Each part is filtered with its context, so it comes when the block after it is known.
    """

    def __init__(self, up: int, down: int) -> None:
        """Start before the first block; see `reduced_ratio` for the arguments."""
        self._up, self._down = up, down
        self._taps = lowpass(up, down)
        self._context = context_frames(up, down)
        self._held_CT: FloatArray | None = None

    def add(self, block_CT: FloatArray) -> list[FloatArray]:
        """Take the next block, and return the part that is known now, if there is one."""
        if self._held_CT is None:
            self._held_CT = np.zeros((block_CT.shape[0], self._context), np.float32)
        self._held_CT = np.concatenate([self._held_CT, block_CT], axis=1)
        usable = (self._held_CT.shape[1] - 2 * self._context) // self._down * self._down
        if usable <= 0:
            return []
        part_CT = self._filtered(self._held_CT[:, : usable + 2 * self._context])
        self._held_CT = self._held_CT[:, usable:]
        return [part_CT[:, : usable // self._down * self._up]]

    def finish(self) -> list[FloatArray]:
        """Return the last part, if anything came at all."""
        if self._held_CT is None:
            return []
        rest = self._held_CT.shape[1] - self._context
        part_CT = self._filtered(np.pad(self._held_CT, ((0, 0), (0, self._context))))
        return [part_CT[:, : resampled_length(rest, self._up, self._down)]]

    def _filtered(self, held_CT: FloatArray) -> FloatArray:
        """Resample with the context before, and leave that out."""
        # Imported here: it takes half a second, and most files have the right rate.
        from scipy.signal import resample_poly

        part_CT: FloatArray = resample_poly(
            held_CT, self._up, self._down, axis=1, window=self._taps
        )
        return part_CT[:, self._context // self._down * self._up :]
