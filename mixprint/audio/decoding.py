"""Open a file with the decoder that reads all of it.

libsndfile reads most files by itself. Of compressed ones it believes headers that may be wrong,
and reads the first of several joined streams only: those are given to it stream by stream, in a
`FileView` that holds what belongs to the audio.

Shape suffixes: T sample, N channels as in the file.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mixprint.audio import flac, mp3, ogg
from mixprint.audio.fileview import FileView
from mixprint.audio.streams import CONVERT, LENGTH_TOLERANCE_S, Link, StreamError

# Suffixes by which soundfile and libsndfile take any bytes for samples, text and zeros too.
_RAW_SUFFIXES = (b".raw", b".au", b".snd", b".vox", b".gsm")
# Walks that are remembered: readers open the same files again and again, part by part.
_REMEMBERED = 256
# Codecs that say that they can seek, and then fail when they do, beside those that say no.
_NO_SEEKING = ("DWVW_",)
_SKIPPED_FRAMES = 1 << 16
# 32 frames of MP3: enough for 8 kbit/s at 24 kHz, the lowest bitrate.
_PREROLL_FRAMES = 32 * 1_152


class DecodedFile(sf.SoundFile):
    """A file whose samples do not depend on where reading starts, nor on how much is read at once.

    soundfile moves to the present position after every read, and decoders take even that for a
    jump: libFLAC looks for the frame again, and libmpg123 begins a few frames earlier. But a frame
    of MP3 may need 511 bytes before it, which in silence or at a low bitrate are more frames than
    that, and then it comes out wrong. libvorbisfile misses its aim in a last page that is trimmed.
    """

    _inexact_frames = 0

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        """Move to a frame, over some before it that are decoded, too, where it would be wrong."""
        if whence != os.SEEK_SET:
            return int(super().seek(frames, whence))
        if frames == self.tell():
            return frames
        start = frames
        if self.format == "MP3":
            start = frames - _PREROLL_FRAMES
        elif self._inexact_frames:
            start = min(frames, self.frames - self._inexact_frames - _PREROLL_FRAMES)
        start = int(super().seek(max(start, 0)))
        while start < frames and (skipped := self.read(min(_SKIPPED_FRAMES, frames - start))).size:
            start += len(skipped)
        return start

    def read(self, *args: Any, **kwargs: Any) -> NDArray:
        """Read frames as `soundfile.SoundFile` does.

        Raises:
            StreamError: ``damaged``: a frame of FLAC does not fit its checksum.
        """
        try:
            return super().read(*args, **kwargs)
        except sf.LibsndfileError as error:
            if self.format != "FLAC":
                raise
            raise StreamError(
                "damaged",
                f"expected frames that fit their checksums, found a broken one behind "
                f"{self.tell() / self.samplerate:.3f} s: {CONVERT}",
            ) from error


class _LinkFile(DecodedFile):
    """A stream of a file, with a view that belongs to it."""

    def __init__(self, view: FileView, inexact_frames: int) -> None:
        """Open the stream that a view shows."""
        self._view = view
        self._inexact_frames = inexact_frames
        super().__init__(view)

    def close(self) -> None:
        """Close the view, too."""
        super().close()
        self._view.close()


class ChainedFile:
    """Several streams of a file, read one after the other as if they were one.

    It has what mixprint uses of `soundfile.SoundFile`.

    Attributes:
        samplerate: frames per second, the same in all.
        channels: channels per frame, the same in all.
        format: libsndfile's name of the container.
        subtype: libsndfile's name of the coding.
        frames: frames of all streams together.
    """

    def __init__(self, path: bytes, links: tuple[Link, ...]) -> None:
        """Open each stream once to see what it is.

        Raises:
            StreamError: ``joined``: the streams differ in rate, channels or coding.
            sf.SoundFileError, OSError: one cannot be opened.
        """
        self._path, self._links = path, links
        self._starts: list[int] = []
        self._current: tuple[int, _LinkFile] | None = None
        self._position = 0
        self.frames = 0
        kinds = []
        for link in links:
            with _open_link(path, link) as file:
                kinds.append((file.samplerate, file.channels, file.format, file.subtype))
                self._starts.append(self.frames)
                self.frames += file.frames
        if differing := [kind for kind in kinds if kind != kinds[0]]:
            raise StreamError(
                "joined",
                f"expected {len(links)} joined streams of one kind, found {_named(kinds[0])} and "
                f"{_named(differing[0])}: cut them apart, or convert all to one file",
            )
        self.samplerate, self.channels, self.format, self.subtype = kinds[0]

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the stream that is open."""
        if self._current is not None:
            self._current[1].close()
            self._current = None

    def tell(self) -> int:
        """Return the position in frames."""
        return self._position

    def seek(self, frames: int) -> int:
        """Move to a frame, counted from the start of the first stream."""
        self._position = frames
        self.close()
        return frames

    def read(self, frames: int, dtype: str, *, always_2d: bool) -> NDArray:
        """Read frames from the present position; fewer only at the end.

        Args:
            frames: how many to read.
            dtype: as for `soundfile.SoundFile.read`.
            always_2d: True; channels are always the second axis.
        """
        blocks: list[NDArray] = []
        while frames > 0 and (file := self._file_at_position()) is not None:
            block_TN = file.read(frames, dtype, always_2d=always_2d)
            self._position += len(block_TN)
            frames -= len(block_TN)
            blocks.append(block_TN)
            if len(block_TN) == 0:
                break
        return np.concatenate(blocks) if blocks else np.empty((0, self.channels), dtype)

    def _file_at_position(self) -> _LinkFile | None:
        """Open the stream that holds the position; None at the end."""
        if self._position >= self.frames:
            return None
        index = int(np.searchsorted(self._starts, self._position, side="right")) - 1
        if self._current is None or self._current[0] != index:
            self.close()
            self._current = (index, _open_link(self._path, self._links[index]))
            self._current[1].seek(self._position - self._starts[index])
        return self._current[1]


# What is read from: both have samplerate, channels, frames, format, subtype, seek, tell and read.
AudioFile: TypeAlias = "sf.SoundFile | ChainedFile"

# How the streams of a compressed file are found; None for one that libsndfile reads by itself.
Walk: TypeAlias = Callable[[mmap.mmap], tuple[Link, ...] | None]
_MPEG_SUFFIXES = frozenset((".mp3", ".mp2", ".mp1", ".mpa", ".mpga"))


class _ForwardFile(sf.SoundFile):
    """A file whose codec cannot seek: it is read from its start, and what is skipped is decoded."""

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek around each read."""
        return False

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        """Skip frames, from the start."""
        assert whence == os.SEEK_SET
        skipped = 0
        while num_read := len(self.read(min(_SKIPPED_FRAMES, frames - skipped), "float32")):
            skipped += num_read
        return skipped


@contextmanager
def open_plain(source: bytes | FileView) -> Iterator[sf.SoundFile]:
    """Open what libsndfile reads by itself; where it cannot seek, it reads forward.

    Args:
        source: a file's name, or a view of it.

    Raises:
        sf.SoundFileError, OSError: it cannot be opened.
    """
    if isinstance(source, bytes) and source.lower().endswith(_RAW_SUFFIXES):
        # A view has no name.
        with Path(os.fsdecode(source)).open("rb") as raw:
            whole = FileView(raw, [range(os.fstat(raw.fileno()).st_size)])
            with open_plain(whole) as file:
                yield file
        return
    with DecodedFile(source) as file:
        if file.seekable() and not file.subtype.startswith(_NO_SEEKING):
            yield file
            return
    if isinstance(source, FileView):
        source.seek(0)
    with _ForwardFile(source) as file:
        yield file


@contextmanager
def open_decoder(path: bytes, status: os.stat_result) -> Iterator[AudioFile]:
    """Open a file so that all of it is read.

    Args:
        path: name of the file, as bytes: soundfile encodes text strictly, and a name may be no
            valid UTF-8.
        status: of the file; its walk is remembered for as long as size and time stay the same.

    Raises:
        StreamError: audio is missing, or cannot be reached.
        sf.SoundFileError, OSError: it cannot be opened.
    """
    links = _links(path, (status.st_size, status.st_mtime_ns))
    if links is None:
        with open_plain(path) as file:
            yield file
    elif len(links) == 1:
        with _open_link(path, links[0]) as file:
            yield file
    else:
        with ChainedFile(path, links) as chain:
            yield chain


@lru_cache(maxsize=_REMEMBERED)
def _links(path: bytes, _version: tuple[int, int]) -> tuple[Link, ...] | None:
    """Find the streams of a version of a file; None if libsndfile reads it well by itself.

    Raises:
        StreamError: see `open_decoder`.
    """
    with (
        Path(os.fsdecode(path)).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        walk = _walk(content, Path(os.fsdecode(path)).suffix.lower())
        return None if walk is None else walk(content)


def _walk(content: mmap.mmap, suffix: str) -> Walk | None:
    """Choose by the bytes behind leading tags; junk may precede the frames of an MP3."""
    start, _ = mp3.audio_range(content)
    magic = content[start : start + 4]
    if magic == flac.MAGIC:
        return flac.find_streams
    if magic == ogg.MAGIC:
        return ogg.find_streams
    # Of WAV, only what holds MPEG audio comes here: its chunks are junk around the frames.
    is_wave = content[:4] in (b"RIFF", b"RIFX", b"RF64")
    if start > 0 or is_wave or mp3.SYNC.match(content) or suffix in _MPEG_SUFFIXES:
        return mp3.find_streams
    return None


def _open_link(path: bytes, link: Link) -> _LinkFile:
    """Open one stream.

    Raises:
        StreamError: ``length_unknown``: the decoder would stop before its end.
        sf.SoundFileError, OSError: it cannot be opened.
    """
    raw = Path(os.fsdecode(path)).open("rb", buffering=0)  # noqa: SIM115 - the view closes it
    file = _LinkFile(FileView(raw, link.pieces), link.inexact_frames)
    missing_s = ((link.num_frames or 0) - file.frames) / file.samplerate
    if missing_s > LENGTH_TOLERANCE_S:
        file.close()
        raise StreamError(
            "length_unknown",
            f"expected a stream whose length the decoder knows, found one of which it would drop "
            f"the last {missing_s:.3f} s: convert it: ffmpeg -i FILE COPY.wav",
        )
    return file


def _named(kind: tuple[int, int, str, str]) -> str:
    sample_rate_hz, channels, container, coding = kind
    return f"{container} {coding} of {channels} channels at {sample_rate_hz} Hz"
