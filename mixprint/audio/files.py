"""Read, write and resample audio.

Whatever a file holds, mixprint works on float32 stereo, full scale +-1. The conversions:

* one channel is copied to both sides;
* other channels are mixed down to stereo by the ITU-R BS.775 coefficients, from the speakers that
  the file names (the mask of WAV, RF64, W64 and FLAC, the layout of CAF and AIFF), else from the
  container's default order of two to eight channels; the LFE is left out; speakers that BS.775 does
  not know are refused;
* any rate from 4 to 384 kHz is resampled;
* nothing is padded, trimmed, normalised or dithered; samples beyond full scale stay.

A file that ends before its declared end, or holds NaN or infinities, is an `AudioError`. A length
that was never filled in (pipes, recorders that crashed) means the end of the file.

Shape suffixes: C channel, T sample; N channels as in the file.
"""

import logging
import math
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.audio import flac
from mixprint.audio.containers import MAGICS, Container, read_container
from mixprint.audio.decoding import AudioFile, open_decoder, open_plain
from mixprint.audio.fileview import FileView
from mixprint.audio.layouts import (
    MAX_CHANNELS,
    Layout,
    default_layout,
    downmix_gains,
    stream_layout,
    unknown_speakers,
)
from mixprint.audio.signatures import HEAD_BYTES, foreign, looks_like
from mixprint.audio.streams import LENGTH_TOLERANCE_S, StreamError
from mixprint.errors import AudioError
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ
from mixprint.storage.atomic import atomic_path

log = logging.getLogger("mixprint.audio")

FloatArray = NDArray[np.float32]

MIN_SAMPLE_RATE_HZ = 4_000
# A header may claim any rate; beyond this it is damaged, and resampling from it would not end.
MAX_SAMPLE_RATE_HZ = 384_000
TRUE_PEAK_OVERSAMPLING = 4
MAX_TRUE_PEAK_DBTP = -1.0  # of what is written for listening
SILENT_PEAK_DB = -200.0
BLOCK_FRAMES = 1 << 18
# FLAC has 36 bits for its number of frames; libsndfile gives more where that is unknown.
MAX_STATED_FRAMES = 1 << 36
# What is read. Of libsndfile's other formats nothing here would notice that the end is missing.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")

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


@dataclass(frozen=True)
class OpenedAudio:
    """A file that is open for reading.

    Attributes:
        path: for messages.
        file: its decoder.
        layout: the speakers of its channels.
    """

    path: Path | str
    file: AudioFile
    layout: Layout


@contextmanager
def open_audio(path: Path | str) -> Iterator[OpenedAudio]:
    """Open a file for reading, with all that can be wrong in its header turned into reasons.

    Raises:
        AudioError: ``unreadable``, ``unsupported_format``, ``empty``, ``truncated``, ``damaged``,
            ``joined``, ``sample_rate``, ``channel_layout`` or ``length_unknown``; also when a read
            in the body fails (``unreadable``, or ``damaged`` of FLAC).
    """
    head = b""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path would lose bytes that are no valid text
        if not stat.S_ISREG(status.st_mode):
            # Opening a named pipe would wait for a writer for ever.
            raise AudioError("unreadable", f"{shown(path)}: expected a file, found something else")
        if status.st_size == 0:
            raise AudioError("empty", f"{shown(path)}: expected audio, found 0 bytes")
        with open(path, "rb") as raw:  # noqa: PTH123 - see above
            head = raw.read(HEAD_BYTES)
            _check_signature(path, head)
            container = read_container(raw)
            if container is not None:
                _check_whole(path, container)
            with _decoder(path, status, raw, container) as file:
                _check_header(path, file, container)
                yield OpenedAudio(path, file, _layout(path, raw, file, container))
    except StreamError as error:
        raise AudioError(error.reason, f"{shown(path)}: {error.detail}") from error
    except OSError as error:
        raise AudioError(
            "unreadable", f"{shown(path)}: expected audio, could not read it: {error_text(error)}"
        ) from error
    except sf.SoundFileError as error:
        raise AudioError(
            "unreadable", f"{shown(path)}: expected audio, found {_found(head, error)}"
        ) from error


def probe(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioError: see `open_audio`.
    """
    with open_audio(path) as audio:
        file = audio.file
        return AudioInfo(file.samplerate, file.channels, file.frames / file.samplerate, file.frames)


def stated_duration_s(path: Path | str) -> float:
    """Read the length that a file's header states, in seconds.

    Of FLAC nothing but the header is looked at, for of a song in a bucket no more may be here; of
    WAV `probe` needs no more by itself.

    Raises:
        AudioError: see `open_audio`.
    """
    with suppress(OSError, sf.SoundFileError), open(path, "rb") as raw:  # noqa: PTH123
        if raw.read(len(flac.MAGIC)) == flac.MAGIC:
            with sf.SoundFile(os.fsencode(path)) as file:
                if 0 < file.frames < MAX_STATED_FRAMES:
                    return float(file.frames / file.samplerate)
    return probe(path).duration_s


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
        except (MemoryError, ValueError) as error:
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
    with open_audio(path) as audio:
        file = audio.file
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
        parts = _resampled_parts(stereo_blocks(audio, end - begin), up, down)
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


def stereo_blocks(audio: OpenedAudio, num_frames: int) -> Iterator[FloatArray]:
    """Read frames from the present position as stereo blocks, checked.

    Args:
        audio: as opened by `open_audio`.
        num_frames: how many frames to read.

    Yields:
        block_CT, float32, at the file's own rate.

    Raises:
        AudioError: ``truncated`` when the file ends more than `LENGTH_TOLERANCE_S` early,
            ``not_finite`` when a sample is NaN or infinite.
    """
    gains_CN = downmix_gains(audio.layout)
    num_read = 0
    while num_read < num_frames:
        num_wanted = min(BLOCK_FRAMES, num_frames - num_read)
        block_TN = audio.file.read(num_wanted, "float32", always_2d=True)
        if len(block_TN) == 0:
            break
        check_finite(block_TN, audio.path, num_read)
        num_read += len(block_TN)
        yield np.ascontiguousarray(gains_CN @ block_TN.T)
    check_length(audio, num_frames, num_read)


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


def check_length(audio: OpenedAudio, num_expected: int, num_read: int) -> None:
    """Refuse a file that ends before its declared end.

    Raises:
        AudioError: ``truncated``, or ``empty`` when nothing at all was decoded.
    """
    rate_hz = audio.file.samplerate
    if num_read == 0 and num_expected > 0:
        raise AudioError(
            "empty", f"{shown(audio.path)}: expected {num_expected} frames, found none"
        )
    if num_expected - num_read > LENGTH_TOLERANCE_S * rate_hz:
        raise AudioError(
            "truncated",
            f"{shown(audio.path)}: expected {num_expected / rate_hz:.3f} s of audio as declared, "
            f"found {num_read / rate_hz:.3f} s",
        )


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
    from mixprint.dsp.loudness import integrated_loudness

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


def shown(path: Path | str) -> str:
    r"""Give a path that can be printed: bytes that are no valid text and line breaks escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def resampling_notes(name: str, from_hz: int, to_hz: int) -> tuple[str, ...]:
    """Say of what was read at another rate than its own; nothing of what was not."""
    return () if from_hz == to_hz else (f"{name}: resampled from {from_hz} Hz to {to_hz} Hz",)


def error_text(error: Exception) -> str:
    """Return a foreign error's message without the path, which the caller names in its own way."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip()


def _check_signature(path: Path | str, head: bytes) -> None:
    """Refuse what certainly is something else: decoders find a frame of MP3 in any picture."""
    if (signature := foreign(head)) is None:
        return
    if signature.is_audio:
        raise AudioError(
            "unsupported_format",
            f"{shown(path)}: expected one of {', '.join(FORMATS)}, found {signature.name}: "
            f"{convert_advice(path)}",
        )
    raise AudioError("unreadable", f"{shown(path)}: expected audio, found {signature.name}")


def convert_advice(path: Path | str) -> str:
    """Say how to make a file that can be read."""
    name = shown(os.path.basename(path))  # noqa: PTH119 - the name may be no valid text
    stem = name.rpartition(".")[0] or name
    return f"convert it, for example with: ffmpeg -i '{name}' '{stem}.flac'"


def _found(head: bytes, error: sf.SoundFileError) -> str:
    """Say what a file is that libsndfile does not open.

    Of a file of no kind that it knows libsndfile says whatever the last of its readers said.
    """
    is_known = head.startswith((*MAGICS, b"ID3"))
    return f"nothing to decode: {error_text(error)}" if is_known else looks_like(head)


@contextmanager
def _decoder(
    path: Path | str, status: os.stat_result, raw: BinaryIO, container: Container | None
) -> Iterator[AudioFile]:
    """Open the decoder of a file, on a corrected view of it if need be.

    Raises:
        StreamError: see `open_decoder`.
        sf.SoundFileError, OSError: it cannot be opened.
    """
    name = os.fsencode(path)
    if container is None or container.is_mpeg:
        with open_decoder(name, status) as file:
            yield file
        return
    pieces = container.pieces
    with open_plain(name if pieces is None else FileView(raw, pieces)) as plain:
        yield plain


def _check_whole(path: Path | str, container: Container) -> None:
    """Refuse a file that lacks some of the audio that it declares.

    Raises:
        AudioError: ``truncated``.
    """
    found, declared = container.present_bytes, container.declared_bytes
    if found < declared:
        seconds = container.bytes_per_s
        lengths = f" ({found / seconds:.3f} of {declared / seconds:.3f} s)" if seconds else ""
        raise AudioError(
            "truncated",
            f"{shown(path)}: expected {declared} bytes of audio as its {container.name} header "
            f"declares, found {found}{lengths}",
        )
    if not container.is_declared:
        log.info("%s: its header states no length; read to its end", shown(path))


def _layout(
    path: Path | str, raw: BinaryIO, file: AudioFile, container: Container | None
) -> Layout:
    """Find the speakers of a file's channels.

    Raises:
        AudioError: ``channel_layout``.
    """
    layout = stream_layout(raw, file.channels) if container is None else container.layout
    if layout is None or file.channels == 1:
        layout = default_layout(file.channels, is_ogg=file.format == "OGG")
    if not layout:
        raise AudioError(
            "channel_layout",
            f"{shown(path)}: expected 1 to {MAX_CHANNELS} channels, found {file.channels}",
        )
    if len(layout) != file.channels:
        raise AudioError(
            "channel_layout",
            f"{shown(path)}: expected a speaker for each of {file.channels} channels, found "
            f"{' '.join(layout)}",
        )
    if unknown := unknown_speakers(layout):
        raise AudioError(
            "channel_layout",
            f"{shown(path)}: expected speakers that can be mixed down to stereo, found "
            f"{', '.join(unknown)}",
        )
    return layout


def _check_header(path: Path | str, file: AudioFile, container: Container | None) -> None:
    """Refuse headers that no audio can follow, before anything is allocated from them."""
    if file.format not in FORMATS:
        raise AudioError(
            "unsupported_format",
            f"{shown(path)}: expected one of {', '.join(FORMATS)}, found {file.format}: "
            f"{convert_advice(path)}",
        )
    if not MIN_SAMPLE_RATE_HZ <= file.samplerate <= MAX_SAMPLE_RATE_HZ:
        raise AudioError(
            "sample_rate",
            f"{shown(path)}: expected {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} Hz, "
            f"found {file.samplerate} Hz",
        )
    num_expected = file.frames
    if container is not None and container.frame_bytes:
        num_expected = container.present_bytes // container.frame_bytes
    if file.frames != num_expected:
        raise AudioError(
            "length_unknown",
            f"{shown(path)}: expected {num_expected} frames by its size, found {file.frames}: its "
            "header contradicts itself",
        )
    if container is not None:
        missing = container.least_frames - file.frames
        if missing > LENGTH_TOLERANCE_S * file.samplerate:
            raise AudioError(
                "truncated",
                f"{shown(path)}: expected {container.least_frames} frames as its {container.name} "
                f"header declares, found {file.frames}: {convert_advice(path)}",
            )
    if file.frames <= 0:
        raise AudioError("empty", f"{shown(path)}: expected audio, found 0 frames")


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
