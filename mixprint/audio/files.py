"""Reading and writing of audio files.

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
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from mixprint.audio.resampling import (
    BLOCK_FRAMES,
    FloatArray,
    context_frames,
    reduced_ratio,
    resampled_length,
    resampled_parts,
)
from mixprint.audio.signatures import HEAD_BYTES, foreign, looks_like
from mixprint.audio.streams import LENGTH_TOLERANCE_S, StreamError
from mixprint.errors import AudioError, error_text
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ
from mixprint.storage.atomic import atomic_path
from mixprint.text import shown

log = logging.getLogger("mixprint.audio")


MIN_SAMPLE_RATE_HZ = 4_000
# A header may claim any rate; beyond this it is damaged, and resampling from it would not end.
MAX_SAMPLE_RATE_HZ = 384_000
# FLAC has 36 bits for its number of frames; libsndfile gives more where that is unknown.
MAX_STATED_FRAMES = 1 << 36
# What is read. Of libsndfile's other formats nothing here would notice that the end is missing.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")


@dataclass(frozen=True)
class AudioInfo:
    """Rate, channels and length that a file's header declares.

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
        up, down = reduced_ratio(file.samplerate, sample_rate_hz)
        num_available = resampled_length(file.frames, up, down)
        first = round(start_s * sample_rate_hz)
        last = num_available if duration_s is None else first + round(duration_s * sample_rate_hz)
        if first >= last or last > num_available:
            raise AudioError(
                "too_short",
                f"{shown(path)}: expected audio from {start_s:.3f} s to "
                f"{last / sample_rate_hz:.3f} s, found {file.frames / file.samplerate:.3f} s",
            )
        # Start on a whole period of the rates, early enough for the filter to see its context.
        context = context_frames(up, down)
        begin = max(0, first // up * down - context)
        end = (
            file.frames if duration_s is None else min(file.frames, -(-last // up) * down + context)
        )
        file.seek(begin)
        parts = resampled_parts(stereo_blocks(audio, end - begin), up, down)
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
