"""Read, write and resample audio.

Whatever a file holds, mixprint works on float32 stereo, full scale +-1. The conversions:

* one channel is copied to both sides;
* three to eight channels are mixed down to stereo by the ITU-R BS.775 coefficients, from the
  container's default speaker order; the LFE is left out; more channels are refused;
* any rate from 4 to 384 kHz is resampled;
* nothing is padded, trimmed, normalised or dithered; samples beyond full scale stay.

A file that ends before its declared end, or holds NaN or infinities, is an `AudioError`.

Shape suffixes: C channel, T sample; N channels as in the file.
"""

import math
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint import mp3
from mixprint.atomic import atomic_path
from mixprint.decoding import AudioFile, open_decoder
from mixprint.errors import AudioError
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ
from mixprint.streams import StreamError

FloatArray = NDArray[np.float32]

MIN_SAMPLE_RATE_HZ = 4_000
# A header may claim any rate; beyond this it is damaged, and resampling from it would not end.
MAX_SAMPLE_RATE_HZ = 384_000
TRUE_PEAK_OVERSAMPLING = 4
MAX_TRUE_PEAK_DBTP = -1.0  # of what is written for listening
SILENT_PEAK_DB = -200.0
BLOCK_FRAMES = 1 << 18
# MP3 without a Xing header: libsndfile estimates the length to within a few frames of 1152.
LENGTH_TOLERANCE_S = 0.1

_HALF_POWER = math.sqrt(0.5)
_SPEAKER_GAINS = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF_POWER, _HALF_POWER),
    "LFE": (0.0, 0.0),
    "Ls": (_HALF_POWER, 0.0),
    "Rs": (0.0, _HALF_POWER),
    "Cs": (0.5, 0.5),
}
# The default orders of WAVE and FLAC (RFC 9639, section 9.1.3) and those of Vorbis I (section
# 4.3.9), which Opus shares. libsndfile passes the channels on in the order of the file.
_WAVE_ORDERS = {
    3: ("L", "R", "C"),
    4: ("L", "R", "Ls", "Rs"),
    5: ("L", "R", "C", "Ls", "Rs"),
    6: ("L", "R", "C", "LFE", "Ls", "Rs"),
    7: ("L", "R", "C", "LFE", "Cs", "Ls", "Rs"),
    8: ("L", "R", "C", "LFE", "Ls", "Rs", "Ls", "Rs"),
}
_VORBIS_ORDERS = {
    3: ("L", "C", "R"),
    4: ("L", "R", "Ls", "Rs"),
    5: ("L", "C", "R", "Ls", "Rs"),
    6: ("L", "C", "R", "Ls", "Rs", "LFE"),
    7: ("L", "C", "R", "Ls", "Rs", "Cs", "LFE"),
    8: ("L", "C", "R", "Ls", "Rs", "Ls", "Rs", "LFE"),
}

# A Kaiser-windowed sinc, cut off at 0.95 of the lower Nyquist frequency. With 64 zero crossings
# a side and 100 dB of attenuation the transition is 0.1 of it wide (Kaiser's formula), so it is
# flat to 0.90 (19.8 kHz at 44.1 kHz) and what folds back lies below the noise of 16 bits.
_CUTOFF = 0.95
_ZERO_CROSSINGS = 64
_ATTENUATION_DB = 100.0
# Four times 48 kHz, by ITU-R BS.1770-4; 44.1 kHz is raised as much.


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header declares.

    Attributes:
        sample_rate_hz: frames per second.
        channels: channels per frame.
        duration_s: declared length; a damaged file may hold less.
        num_frames: declared length in frames.
    """

    sample_rate_hz: int
    channels: int
    duration_s: float
    num_frames: int


@contextmanager
def open_audio(path: Path | str) -> Iterator[AudioFile]:
    """Open a file for reading, with all that can be wrong in its header turned into reasons.

    Raises:
        AudioError: ``unreadable``, ``empty``, ``sample_rate``, ``channel_layout`` or
            ``length_unknown``; also when a read in the body fails (``unreadable``).
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - Path would lose bytes that are no valid text
        if not stat.S_ISREG(status.st_mode):
            # Opening a named pipe would wait for a writer for ever.
            raise AudioError("unreadable", f"{shown(path)}: expected a file, found something else")
        if status.st_size == 0:
            raise AudioError("empty", f"{shown(path)}: expected audio, found 0 bytes")
        with open_decoder(os.fsencode(path), status) as file:
            _check_header(path, file)
            yield file
    except StreamError as error:
        raise AudioError(error.reason, f"{shown(path)}: {error.detail}") from error
    except (sf.SoundFileError, OSError) as error:
        raise AudioError(
            "unreadable",
            f"{shown(path)}: expected audio, found nothing to decode: {error_text(error)}",
        ) from error


def probe(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioError: see `open_audio`.
    """
    with open_audio(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames / file.samplerate, file.frames)


def read_audio(
    path: Path | str,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Tensor:
    """Read a file, or a part of it, as stereo at the asked rate (see the module's conversions).

    A part is to the sample what the same part of the whole would be, resampled or not.

    Args:
        path: WAV, FLAC, OGG, MP3 or whatever else libsndfile reads.
        sample_rate_hz: rate of the result in Hz.
        start_s: start of the part in seconds.
        duration_s: length of the part in seconds; None reads to the end.

    Returns:
        audio_CT, float32, always two channels; `duration_s` gives round(duration_s *
        sample_rate_hz) samples, the whole file all that it holds.

    Raises:
        ValueError: start_s or duration_s is negative.
        AudioError: see `open_audio`; ``truncated``, ``not_finite``; ``too_short`` when the part
            reaches beyond the end; ``too_long`` when it does not fit into memory.
    """
    with _open_part(path, sample_rate_hz, start_s, duration_s) as (num_samples, blocks):
        try:
            audio_CT = np.empty((NUM_CHANNELS, num_samples), np.float32)
        except MemoryError as error:
            raise AudioError(
                "too_long", f"{shown(path)}: {num_samples} samples do not fit into memory"
            ) from error
        position = 0
        for block_CT in blocks:
            audio_CT[:, position : position + block_CT.shape[1]] = block_CT
            position += block_CT.shape[1]
    # A few frames fewer than an MP3 without a header seemed to have are not missing audio.
    return torch.from_numpy(audio_CT[:, :position])


def stream_audio(
    path: Path | str,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Generator[Tensor, None, None]:
    """Read the samples of `read_audio` in blocks, in memory that does not grow with the file.

    Nothing is opened before the first block is asked for. The file is closed after the last one,
    or when the generator is closed.

    Args:
        path: see `read_audio`.
        sample_rate_hz: see `read_audio`.
        start_s: see `read_audio`.
        duration_s: see `read_audio`.

    Yields:
        block_CT, float32, two channels, of at least one sample.

    Raises:
        ValueError: see `read_audio`.
        AudioError: see `read_audio`; ``truncated`` and ``not_finite`` come where the reading
            meets them, after the blocks before.
    """
    with _open_part(path, sample_rate_hz, start_s, duration_s) as (_, blocks):
        for block_CT in blocks:
            yield torch.from_numpy(block_CT)


@contextmanager
def _open_part(
    path: Path | str, sample_rate_hz: int, start_s: float, duration_s: float | None
) -> Iterator[tuple[int, Iterator[FloatArray]]]:
    """Open a part of a file; give its declared length in samples, and its blocks.

    Raises:
        ValueError, AudioError: see `read_audio`.
    """
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"need start_s >= 0 and duration_s > 0, got {start_s=}, {duration_s=}")
    with open_audio(path) as file:
        up, down = _ratio(file.samplerate, sample_rate_hz)
        num_available = _resampled_length(file.frames, up, down)
        first = round(start_s * sample_rate_hz)
        last = num_available if duration_s is None else first + round(duration_s * sample_rate_hz)
        if first >= last or last > num_available:
            raise AudioError(
                "too_short",
                f"{shown(path)}: expected audio from {start_s:.3f} s to "
                f"{last / sample_rate_hz:.3f} s, found {file.frames / file.samplerate:.3f} s",
            )
        # Start on a whole period of the rates, early enough for the filter to see its context.
        context = _context_frames(up, down)
        begin = max(0, first // up * down - context)
        end = (
            file.frames if duration_s is None else min(file.frames, -(-last // up) * down + context)
        )
        file.seek(begin)
        parts = _resampled_parts(stereo_blocks(file, path, end - begin), up, down)
        skip = first - begin // down * up

        def blocks() -> Iterator[FloatArray]:
            position = -skip
            for part_CT in parts:
                low, high = max(position, 0), min(position + part_CT.shape[1], last - first)
                if low < high:
                    yield part_CT[:, low - position : high - position]
                position += part_CT.shape[1]
            if duration_s is not None and position < last - first:
                raise AudioError(
                    "truncated",
                    f"{shown(path)}: expected {last - first} samples from {start_s:.3f} s, found "
                    f"{max(position, 0)}",
                )

        yield last - first, blocks()


def stereo_blocks(file: AudioFile, path: Path | str, num_frames: int) -> Iterator[FloatArray]:
    """Read frames from the present position as stereo blocks, checked.

    Args:
        file: as opened by `open_audio`.
        path: for messages.
        num_frames: how many frames to read.

    Yields:
        block_CT, float32, at the file's own rate.

    Raises:
        AudioError: ``truncated`` when the file ends more than `LENGTH_TOLERANCE_S` early,
            ``not_finite`` when a sample is NaN or infinite.
    """
    gains_CN = downmix_gains(file)
    num_read = 0
    while num_read < num_frames:
        block_TN = file.read(min(BLOCK_FRAMES, num_frames - num_read), "float32", always_2d=True)
        if len(block_TN) == 0:
            break
        check_finite(block_TN, path, num_read)
        num_read += len(block_TN)
        yield np.ascontiguousarray(gains_CN @ block_TN.T)
    check_length(file, path, num_frames, num_read)


def check_finite(block_TN: NDArray[np.floating], path: Path | str, first_frame: int) -> None:
    """Refuse NaN and infinities.

    Raises:
        AudioError: ``not_finite``, with the first bad frame.
    """
    finite_T = np.isfinite(block_TN).all(axis=1)
    if not finite_T.all():
        raise AudioError(
            "not_finite",
            f"{shown(path)}: expected finite samples, found NaN or an infinity in frame "
            f"{first_frame + int(np.argmin(finite_T))}",
        )


def check_length(file: AudioFile, path: Path | str, num_expected: int, num_read: int) -> None:
    """Refuse a file that ends before its declared end.

    Raises:
        AudioError: ``truncated``, or ``empty`` when nothing at all was decoded.
    """
    if num_read == 0 and num_expected > 0:
        raise AudioError("empty", f"{shown(path)}: expected {num_expected} frames, found none")
    if num_expected - num_read > LENGTH_TOLERANCE_S * file.samplerate:
        raise AudioError(
            "truncated",
            f"{shown(path)}: expected {num_expected / file.samplerate:.3f} s of audio as declared, "
            f"found {num_read / file.samplerate:.3f} s",
        )


def downmix_gains(file: AudioFile) -> FloatArray:
    """Give the gains that bring a file's channels to stereo.

    Full-scale surround can exceed +-1 after it: as float32 nothing is lost.

    Returns:
        gains_CN.

    Source: ITU-R BS.775, equations for mixing down to 2/0 (a rear centre at half).
    """
    if file.channels == 1:
        return np.ones((NUM_CHANNELS, 1), np.float32)
    if file.channels == NUM_CHANNELS:
        return np.eye(NUM_CHANNELS, dtype=np.float32)
    speakers = _speaker_order(file)
    return np.array([_SPEAKER_GAINS[speaker] for speaker in speakers], np.float32).T


def write_audio(
    path: Path | str, audio_CT: Tensor, sample_rate_hz: int, *, subtype: str = "PCM_16"
) -> None:
    """Write WAV or FLAC, by the suffix, whole or not at all.

    Args:
        path: the file; its folder is created if it is missing.
        audio_CT: audio at full scale +-1; integer formats clip what exceeds it.
        sample_rate_hz: rate in Hz.
        subtype: libsndfile's name of the sample format: PCM_16, PCM_24, FLOAT (WAV only).

    Raises:
        ValueError: wrong shape, unknown suffix, or a subtype that the format does not have.
        AudioError: ``not_finite``.
    """
    container = Path(path).suffix.lower().removeprefix(".").upper()
    if audio_CT.ndim != 2:
        raise ValueError(f"{shown(path)}: audio_CT must be (C, T), got {tuple(audio_CT.shape)}")
    if container not in ("WAV", "FLAC") or not sf.check_format(container, subtype):
        raise ValueError(f"{shown(path)}: cannot write {container or 'no suffix'} with {subtype}")
    audio_TC = audio_CT.detach().to("cpu", torch.float32).numpy().T
    check_finite(audio_TC, path, 0)
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        sf.write(raw, audio_TC, sample_rate_hz, format=container, subtype=subtype)


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
    up, down = _ratio(from_hz, to_hz)
    if up == down:
        return audio_CT
    source_CT = audio_CT.detach().to("cpu", torch.float32).numpy()
    blocks = (
        source_CT[:, start : start + BLOCK_FRAMES]
        for start in range(0, source_CT.shape[1], BLOCK_FRAMES)
    )
    parts = list(_resampled_parts(blocks, up, down))
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
    up, down = _ratio(from_hz, to_hz)
    sources = (block_CT.detach().to("cpu", torch.float32).numpy() for block_CT in blocks)
    for part_CT in _resampled_parts(sources, up, down):
        yield torch.from_numpy(part_CT)


def loudness_lufs(audio_CT: Tensor, sample_rate_hz: int) -> float:
    """Measure the integrated loudness, for checks and display (ITU-R BS.1770-4, in LUFS)."""
    from mixprint.features.loudness import integrated_loudness

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
    """Give a magnitude, full scale 1, in dB; silence reads `SILENT_PEAK_DB`."""
    return 20 * math.log10(amplitude) if amplitude > 0 else SILENT_PEAK_DB


def shown(path: Path | str) -> str:
    r"""Give a path that can be printed: bytes that are no valid text and line breaks escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_text(error: Exception) -> str:
    """Give a foreign error's message without the path, which the caller names in its own way."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip()


def _check_header(path: Path | str, file: AudioFile) -> None:
    """Refuse headers that no audio can follow, before anything is allocated from them."""
    if not MIN_SAMPLE_RATE_HZ <= file.samplerate <= MAX_SAMPLE_RATE_HZ:
        raise AudioError(
            "sample_rate",
            f"{shown(path)}: expected {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} Hz, "
            f"found {file.samplerate} Hz",
        )
    if file.channels > NUM_CHANNELS and _speaker_order(file) == ():
        raise AudioError(
            "channel_layout",
            f"{shown(path)}: expected 1 to {max(_WAVE_ORDERS)} channels, found {file.channels}",
        )
    if file.format == "MP3":
        missing = mp3.least_length(Path(os.fsdecode(path))) - file.frames
        if missing > LENGTH_TOLERANCE_S * file.samplerate:
            raise AudioError(
                "length_unknown",
                f"{shown(path)}: expected a constant bitrate or a Xing header, found neither: the "
                f"decoder would drop the last {missing / file.samplerate:.3f} s",
            )
    if file.frames <= 0:
        raise AudioError("empty", f"{shown(path)}: expected audio, found 0 frames")


def _speaker_order(file: AudioFile) -> tuple[str, ...]:
    """Name the speakers of a file with more than two channels; empty if there is no convention."""
    orders = _VORBIS_ORDERS if file.format == "OGG" else _WAVE_ORDERS
    return orders.get(file.channels, ())


def _ratio(from_hz: int, to_hz: int) -> tuple[int, int]:
    """Reduce the ratio of two rates: (up, down)."""
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be > 0, got {from_hz} and {to_hz} Hz")
    divisor = math.gcd(from_hz, to_hz)
    return to_hz // divisor, from_hz // divisor


def _resampled_length(num_frames: int, up: int, down: int) -> int:
    return -(-num_frames * up // down)


def _context_frames(up: int, down: int) -> int:
    """How much of the source the filter sees on each side, as whole periods of `down` frames."""
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


def _resampled_parts(blocks: Iterator[FloatArray], up: int, down: int) -> Iterator[FloatArray]:
    """Resample a stream of blocks as if it were one: each part is filtered with its context."""
    if up == down:
        yield from blocks
        return
    # Imported here: it takes half a second, and most files have the right rate.
    from scipy.signal import resample_poly

    taps = _lowpass(up, down)
    context = _context_frames(up, down)
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
    yield part_CT[:, skip : skip + _resampled_length(rest, up, down)]
