"""Ogg pages: which streams a file holds, and whether all of their pages are there.

libsndfile reads the first of several chained streams only, and goes over lost pages as if nothing
had been there: what follows comes early.

Source: RFC 3533 (pages); the Ogg mappings of Vorbis I, Opus (RFC 7845) and FLAC (RFC 9639, 10.1).
"""

import mmap
import zlib
from dataclasses import dataclass, field

from mixprint.audio import flac
from mixprint.audio.fileview import Piece
from mixprint.audio.streams import CONVERT, Link, StreamError

MAGIC = b"OggS"
_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4
# The first packet of what is decoded here, and where it holds the sample rate; positions of Opus
# are counted at 48 kHz, whatever the rate.
_VORBIS, _OPUS, _FLAC = b"\x01vorbis", b"OpusHead", b"\x7fFLAC"
_OPUS_HZ = 48_000
# Before the native stream that the first packet of FLAC begins with.
_FLAC_MAPPING_BYTES = 9
# The first packets of other streams, by which they are named.
_OTHERS = {
    b"Speex   ": "Speex",
    b"\x80theora": "Theora",
    b"fishead\0": "a skeleton",
    b"\x80kate\0\0\0": "Kate",
    b"BBCD\0": "Dirac",
}
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Page:
    """A page with the checksum that it states.

    Attributes:
        start: its first byte.
        body: bytes of its packets.
        flags: whether it is the first or the last of its stream.
        granule: position in the stream at its end.
        serial: number of its stream.
        sequence: its own number within the stream.
    """

    start: int
    body: range
    flags: int
    granule: int
    serial: int
    sequence: int


@dataclass
class _Stream:
    """Pages of one stream, and the first packet, which says what it is."""

    head: bytes
    pages: list[_Page] = field(default_factory=list)

    @property
    def is_audio(self) -> bool:
        """Tell whether it can be decoded here."""
        return self.head.startswith((_VORBIS, _OPUS, _FLAC))

    @property
    def name(self) -> str:
        """Name of its content, for a person."""
        known = (name for magic, name in _OTHERS.items() if self.head.startswith(magic))
        return next(known, "an unknown stream")

    def seconds(self, page: _Page | None) -> float:
        """Time at the end of a page."""
        if page is None:
            return 0.0
        rate_hz = _OPUS_HZ
        if self.head.startswith(_VORBIS):
            rate_hz = int.from_bytes(self.head[12:16], "little")
        elif self.head.startswith(_FLAC):
            rate_hz = flac.sample_rate_hz(self.head[_FLAC_MAPPING_BYTES:])
        return max(page.granule, 0) / max(rate_hz, 1)


def page_checksum(page: bytes) -> int:
    """Compute the CRC-32 of a page, whose own field of it must be zeros.

    It is that of zlib (polynomial 0x04C11DB7) with the bits of bytes and result in the other
    order, and from 0 instead of from all ones.
    """
    value = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED_BITS), "little")


def find_streams(content: mmap.mmap) -> tuple[Link, ...] | None:
    """Check the pages of a file, and find the audio streams that follow each other.

    Args:
        content: the whole file.

    Returns:
        the streams in their order; None if there is no page.

    Raises:
        StreamError: ``truncated``: a stream has no last page; ``damaged``: a page is missing or
            broken; ``unreadable``: there is no audio, or several streams of it at once.
    """
    groups: list[dict[int, _Stream]] = []
    position = 0
    while (page := _page_at(content, position)) is not None:
        position = page.body.stop
        if page.flags & _FIRST:
            if not groups or any(len(stream.pages) > 1 for stream in groups[-1].values()):
                groups.append({})
            groups[-1][page.serial] = _Stream(content[page.body.start : page.body.stop])
        stream = groups[-1].get(page.serial) if groups else None
        if stream is None:
            raise _damaged("the first page of a stream", 0.0)
        last = stream.pages[-1] if stream.pages else None
        if stream.is_audio and page.sequence != (0 if last is None else last.sequence + 1):
            raise _damaged(f"page {0 if last is None else last.sequence + 1}", stream.seconds(last))
        stream.pages.append(page)
    if not groups:
        return None
    rest = content[position : position + len(MAGIC)]
    streams = [_the_audio(group) for group in groups]
    for index, stream in enumerate(streams):
        last = stream.pages[-1]
        is_cut = index == len(streams) - 1 and bool(rest) and MAGIC.startswith(rest)
        if is_cut and _whole_page(content, position) is not None:
            raise _damaged("the last page", stream.seconds(last))
        if is_cut or not last.flags & _LAST:
            raise StreamError(
                "truncated",
                "expected a page that is marked as the last one, found the end of the stream "
                f"after {stream.seconds(last):.3f} s: {CONVERT}",
            )
    return tuple(_link(content, stream) for stream in streams)


def _page_at(content: mmap.mmap, position: int) -> _Page | None:
    """Find the next page whose checksum is right."""
    while (start := content.find(MAGIC, position)) >= 0:
        page = _whole_page(content, start)
        if page is not None:
            header = page[:_HEADER_BYTES]
            checksum = int.from_bytes(header[22:26], "little")
            if checksum == page_checksum(header[:22] + bytes(4) + page[26:]):
                return _Page(
                    start,
                    range(start + _HEADER_BYTES + header[26], start + len(page)),
                    header[5],
                    int.from_bytes(header[6:14], "little", signed=True),
                    int.from_bytes(header[14:18], "little"),
                    int.from_bytes(header[18:22], "little"),
                )
        position = start + 1
    return None


def _whole_page(content: mmap.mmap, start: int) -> bytes | None:
    """Read a page, right or wrong; None if the file ends within it."""
    header = content[start : start + _HEADER_BYTES]
    if len(header) < _HEADER_BYTES:
        return None
    body = start + _HEADER_BYTES + header[26]
    end = body + sum(content[start + _HEADER_BYTES : body])
    return content[start:end] if end <= len(content) else None


def _the_audio(streams: dict[int, _Stream]) -> _Stream:
    """Return the one audio stream of those that lie side by side.

    Raises:
        StreamError: ``unreadable``.
    """
    audio = [stream for stream in streams.values() if stream.is_audio]
    if len(audio) == 1:
        return audio[0]
    names = ", ".join(stream.name for stream in streams.values())
    found = f"{len(audio)} at once" if audio else names
    raise StreamError(
        "unreadable",
        f"expected one stream of Vorbis, Opus or FLAC in Ogg, found {found}: convert it: "
        "ffmpeg -i FILE COPY.wav",
    )


def _damaged(missing: str, time_s: float) -> StreamError:
    return StreamError(
        "damaged",
        f"expected all pages, found {missing} missing or broken at {time_s:.3f} s: {CONVERT}",
    )


def _link(content: mmap.mmap, stream: _Stream) -> Link:
    """Leave out what lies between the pages; FLAC is unwrapped, for libsndfile reads it bare."""
    if not stream.head.startswith(_FLAC):
        pieces: list[Piece] = []
        for page in stream.pages:
            if pieces and isinstance(last := pieces[-1], range) and last.stop == page.start:
                pieces[-1] = range(last.start, page.body.stop)
            else:
                pieces.append(range(page.start, page.body.stop))
        return Link(tuple(pieces), inexact_frames=_inexact_frames(stream))
    bodies = [page.body for page in stream.pages]
    bodies[0] = bodies[0][_FLAC_MAPPING_BYTES:]
    return flac.unwrapped(content, bodies, max(stream.pages[-1].granule, 0))


def _inexact_frames(stream: _Stream) -> int:
    """Count the frames of Vorbis that begin in its last page.

    libvorbisfile counts back from the end of a page, and where the last one is trimmed it does so
    from the wrong place.
    """
    if not stream.head.startswith(_VORBIS):
        return 0
    ends = [page.granule for page in stream.pages if page.granule >= 0]
    return ends[-1] - ends[-2] if len(ends) > 1 else 0
