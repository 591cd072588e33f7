"""Audio as programs give it: files, arrays and tensors.

Shape suffixes: C channel, T sample.
"""

import os
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.audio.files import check_finite, read_audio
from mixprint.audio.resampling import resample
from mixprint.errors import AudioError
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

SongPath: TypeAlias = str | os.PathLike[str]
Array: TypeAlias = NDArray[Any] | Tensor
Audio: TypeAlias = SongPath | Array

# What an error calls audio that comes from no file.
ARRAY_NAME = "array"


def is_path(audio: Any) -> TypeGuard[SongPath]:
    """Tell a file's name from samples."""
    return isinstance(audio, str | os.PathLike)


def stereo(
    song: Audio,
    sample_rate_hz: int,
    segment: tuple[float, float] | None = None,
    *,
    wanted_hz: int = SAMPLE_RATE_HZ,
    name: str = ARRAY_NAME,
) -> Tensor:
    """Return audio_CT, float32 stereo: a song, or a segment of it.

    Args:
        song: a file, or an array or tensor of one or two channels.
        sample_rate_hz: rate of an array; files state theirs.
        segment: its start and its length in s; all when None.
        wanted_hz: rate of the result.
        name: of an array, for messages.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: the song cannot be read, is empty, ends before the segment's end, or holds NaN
            or infinities.
    """
    if is_path(song):
        start_s, duration_s = segment or (0.0, None)
        return read_audio(
            Path(song), sample_rate_hz=wanted_hz, start_s=start_s, duration_s=duration_s
        )
    audio_CT = torch.as_tensor(song).detach().cpu()
    if audio_CT.ndim == 1:
        audio_CT = audio_CT.unsqueeze(0)
    if audio_CT.ndim != 2 or not 1 <= len(audio_CT) <= NUM_CHANNELS:
        raise ValueError(
            f"{name}: expected (channels, samples) of 1 or {NUM_CHANNELS} channels, got "
            f"{tuple(audio_CT.shape)}"
        )
    if not audio_CT.is_floating_point():
        raise ValueError(f"{name}: expected floats at full scale +-1, got {audio_CT.dtype}")
    check_finite(audio_CT.numpy().T, name, 0)
    audio_CT = resample(audio_CT.float(), sample_rate_hz, wanted_hz)
    if segment is not None:
        start, length = (round(seconds * wanted_hz) for seconds in segment)
        found = audio_CT.shape[1]
        audio_CT = audio_CT[:, start : start + length]
        if audio_CT.shape[1] < length:
            raise AudioError(
                "too_short",
                f"{name}: expected {segment[1]:g} s from {segment[0]:g} s on, found "
                f"{found / wanted_hz:.3f} s in all",
            )
    if audio_CT.shape[1] == 0:
        raise AudioError("empty", f"{name}: expected audio, found 0 samples")
    return audio_CT.expand(NUM_CHANNELS, -1)
