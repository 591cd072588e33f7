"""FLAC frames: how much audio a stream holds, whatever its header says.

Encoders that write to a pipe leave the number of samples at 0, which is allowed and means unknown;
libsndfile then believes in 2^63. Here the numbered headers of the frames are followed to the end.
What is inside of a frame has a checksum that the decoder looks at.

Source: RFC 9639, sections 8 (metadata), 9.1 (frame header) and 9.3 (its end).
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

from mixprint.audio.fileview import Piece
from mixprint.audio.mp3 import between_tags
from mixprint.audio.streams import CONVERT, Link, StreamError

MAGIC = b"fLaC"
# Magic, a block's header, and the first block: STREAMINFO.
_HEAD_BYTES = 4 + 4 + 34
# Where a stream begins: STREAMINFO comes first, and may be the last block.
_OPENINGS = (MAGIC + b"\x00\x00\x00\x22", MAGIC + b"\x80\x00\x00\x22")
_TOTAL_BITS = 36
# The longest header of a frame.
_FRAME_HEADER_BYTES = 16
_BLOCKS = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}


@dataclass(frozen=True)
class _Info:
    """STREAMINFO, as far as it is needed here.

    Attributes:
        rate_hz: sample rate.
        num_samples: samples per channel; 0 means unknown.
    """

    rate_hz: int
    num_samples: int

    @classmethod
    def parse(cls, head: bytes) -> "_Info":
        """Read the first bytes of a stream."""
        # 20 bits of rate, 3 of channels, 5 of sample size, 36 of length, from byte 10 of the block.
        bits = int.from_bytes(head[18:26], "big")
        return cls(bits >> 44, bits & ((1 << _TOTAL_BITS) - 1))


@dataclass(frozen=True)
class _Frame:
    """The header of a frame.

    Attributes:
        number: of the frame, or of its first sample where the lengths vary.
        num_samples: samples per channel.
    """

    number: int
    num_samples: int


def sample_rate_hz(head: bytes) -> int:
    """Read the rate from the first bytes of a stream."""
    return _Info.parse(head).rate_hz


def find_streams(content: mmap.mmap) -> tuple[Link, ...] | None:
    """Count the samples of the FLAC streams in a file.

    Args:
        content: the whole file; tags may lie around the streams.

    Returns:
        the streams in their order; None if there is one, right at the start, that states its
        length, or if it is no FLAC at all.

    Raises:
        StreamError: ``truncated``: a stream ends before its declared length, or within a frame;
            ``damaged``: a frame is missing or broken.
    """
    start, end = between_tags(content, 0, len(content))
    if content[start : start + len(_OPENINGS[0])] not in _OPENINGS:
        return None
    starts = [start]
    while (following := _next_stream(content, starts[-1] + _HEAD_BYTES, end)) is not None:
        starts.append(following)
    links = []
    for begin, stop in zip(starts, [*starts[1:], end], strict=True):
        links.append(_link(content, begin, between_tags(content, begin, stop)[1]))
    if len(links) == 1 and start == 0 and len(links[0].pieces) == 1:
        return None
    return tuple(links)


def unwrapped(content: mmap.mmap, bodies: Sequence[range], num_samples: int) -> Link:
    """Return a stream that came in parts, with its length in its header.

    Args:
        content: the whole file.
        bodies: the stream's bytes, from its magic on.
        num_samples: its length as its container tells.
    """
    head = content[bodies[0].start : bodies[0].start + _HEAD_BYTES]
    rest = range(bodies[0].start + _HEAD_BYTES, bodies[0].stop)
    return Link((_with_length(head, num_samples), rest, *bodies[1:]), num_samples)


def _next_stream(content: mmap.mmap, start: int, end: int) -> int | None:
    found = [
        position for opening in _OPENINGS if (position := content.find(opening, start, end)) > 0
    ]
    return min(found, default=None)


def _link(content: mmap.mmap, start: int, end: int) -> Link:
    """Follow the frames of one stream.

    Raises:
        StreamError: see `find_streams`.
    """
    head = content[start : start + _HEAD_BYTES]
    info = _Info.parse(head)
    num_samples, last = _count(content, _after_metadata(content, start, end), end, info)
    if num_samples < info.num_samples:
        raise StreamError(
            "truncated",
            f"expected {info.num_samples / info.rate_hz:.3f} s of audio as declared, found "
            f"{num_samples / info.rate_hz:.3f} s",
        )
    is_known = num_samples == info.num_samples
    # Where the length is known, the decoder stops before what may lie behind the last frame.
    if not _is_whole(content[last:end], with_rest=is_known):
        raise StreamError(
            "truncated",
            f"expected whole frames, found the last one cut, at {num_samples / info.rate_hz:.3f} "
            f"s: {CONVERT}",
        )
    if is_known:
        return Link((range(start, end),), num_samples)
    pieces: tuple[Piece, ...] = (
        _with_length(head, num_samples),
        range(start + _HEAD_BYTES, end),
    )
    return Link(pieces, num_samples)


def _with_length(head: bytes, num_samples: int) -> bytes:
    """Put a length into the first bytes of a stream."""
    bits = int.from_bytes(head[18:26], "big") >> _TOTAL_BITS << _TOTAL_BITS
    return head[:18] + (bits | num_samples).to_bytes(8, "big") + head[26:]


def _after_metadata(content: mmap.mmap, start: int, end: int) -> int:
    """Return the byte after the metadata of a stream, where its first frame begins."""
    position, is_last = start + len(MAGIC), False
    while not is_last and position < end:
        is_last = bool(content[position] & 0x80)
        position += 4 + int.from_bytes(content[position + 1 : position + 4], "big")
    return position


def _count(content: mmap.mmap, start: int, end: int, info: _Info) -> tuple[int, int]:
    """Follow the frames by their numbers.

    Returns:
        samples in them, and the first byte of the last one.

    Raises:
        StreamError: ``truncated`` if there is no frame at all; ``damaged`` if frames follow that
            are not the next ones.
    """
    first = _frame(content[start : start + _FRAME_HEADER_BYTES])
    sync = content[start : start + 2]
    if first is None:
        reason = "truncated" if start >= end else "damaged"
        raise StreamError(reason, f"expected FLAC frames behind the header, found none: {CONVERT}")
    # The number counts frames, or samples where the second byte is odd.
    is_varying = sync[1] & 1
    num_samples, last, latest = first.num_samples, start, first
    stray: int | None = None
    position = start + 1
    while (position := content.find(sync, position, end)) >= 0:
        frame = _frame(content[position : position + _FRAME_HEADER_BYTES])
        if frame is not None:
            step = latest.num_samples if is_varying else 1
            if frame.number == latest.number + step:
                num_samples, last, latest = num_samples + frame.num_samples, position, frame
                stray = None
            elif frame.number == stray:
                # Two in a row are no accident.
                raise StreamError(
                    "damaged",
                    "expected one frame behind the other, found one missing or broken at "
                    f"{num_samples / info.rate_hz:.3f} s: {CONVERT}",
                )
            else:
                stray = frame.number + (frame.num_samples if is_varying else 1)
        position += 1
    return num_samples, last


def _frame(header: bytes) -> _Frame | None:
    """Read a frame's header; None if it is none, or broken."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    # The number is coded as in UTF-8, up to seven bytes: as many bytes follow as leading ones.
    lead = header[4]
    num_ones = 8 - (lead ^ 0xFF).bit_length()
    if num_ones == 1 or num_ones == 8:
        return None
    position = 4 + max(num_ones, 1)
    number = lead & (0x7F >> num_ones)
    for byte in header[5:position]:
        number = number << 6 | byte & 0x3F
    block, rate = header[2] >> 4, header[2] & 15
    extra = header[position:]
    if block in (6, 7):
        num_samples = int.from_bytes(extra[: block - 5], "big") + 1
        position += block - 5
    else:
        num_samples = _BLOCKS.get(block, 0)
    position += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0
    for byte in header[: position + 1]:
        checksum = _CRC_8[checksum ^ byte]
    is_header = num_samples and rate != 15 and position < len(header) and checksum == 0
    return _Frame(number, num_samples) if is_header else None


def _table(polynomial: int, num_bits: int) -> tuple[int, ...]:
    """Compute a CRC, highest bit first, for every byte."""
    values = []
    for byte in range(256):
        value = byte << (num_bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (num_bits - 1) & 1 else 0)
        values.append(value & ((1 << num_bits) - 1))
    return tuple(values)


_CRC_8 = _table(0x107, 8)
_CRC_16 = _table(0x18005, 16)


def _is_whole(frame: bytes, *, with_rest: bool) -> bool:
    """Tell by the CRC-16 at its end whether a frame is whole.

    Args:
        frame: from its header on.
        with_rest: other bytes may lie behind it.
    """
    value = 0
    for byte in frame:
        value = (value << 8 & 0xFFFF) ^ _CRC_16[value >> 8 ^ byte]
        # The checksum of a frame with its own behind it is 0, and so is that of zeros.
        if with_rest and value == 0:
            return True
    return value == 0
