"""Facts about MP3 files that libsndfile does not tell: where the audio lies, how long it is.

Source: ISO/IEC 11172-3 (frame header) and 13818-3 (lower rates); id3.org for ID3v1 and ID3v2,
the APEv2 specification; the Xing and VBRI headers as LAME and Fraunhofer write them.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_KBPS_MPEG1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = (44_100, 48_000, 32_000)
_LAYER_3 = 1
_HEADER_BYTES = 4
# Junk between the tags and the first frame; libmpg123 gives up after as much.
_SEARCH_BYTES = 65_536


@dataclass(frozen=True)
class _Frame:
    """A frame header of layer III.

    Attributes:
        num_bytes: length of the frame with its header.
        num_samples: samples per channel.
        kind: version, layer and rate, which all frames of a file share.
    """

    num_bytes: int
    num_samples: int
    kind: int

    @classmethod
    def parse(cls, header: bytes) -> Self | None:
        """Read four bytes; None if they are no header."""
        bits = int.from_bytes(header, "big")
        version, layer = bits >> 19 & 3, bits >> 17 & 3
        bitrate, rate, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
        is_header = len(header) == _HEADER_BYTES and bits >> 21 == 0x7FF
        # Version 1 and rate 3 are reserved; bitrate 0 is the free format, 15 is forbidden.
        if not is_header or version == 1 or layer != _LAYER_3 or rate == 3 or bitrate in (0, 15):
            return None
        is_mpeg1 = version == 3
        kbps = (_KBPS_MPEG1 if is_mpeg1 else _KBPS_MPEG2)[bitrate - 1]
        # MPEG 2 halves the rates, and 2.5 (version 0) once more.
        rate_hz = _RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
        num_samples = 1_152 if is_mpeg1 else 576
        num_bytes = num_samples // 8 * kbps * 1_000 // rate_hz + padding
        return cls(num_bytes, num_samples, bits & 0xFFFE0C00)


def audio_range(content: bytes | mmap.mmap) -> tuple[int, int]:
    """Find the audio between the tags at both ends.

    Args:
        content: the whole file.

    Returns:
        first byte and the one after the last; the whole file if the tags' sizes make no sense.
    """
    start, end = 0, len(content)
    # ID3v2: ten bytes of header, with the size in four times seven bits; flag 0x10 is a footer.
    head = content[:10]
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(head[6:]))
        start += 10 if head[5] & 0x10 else 0
    if content[max(end - 128, 0) : max(end - 125, 0)] == b"TAG":
        end -= 128
    # APEv2 ends with 32 bytes that hold its size; the highest flag says that as many begin it.
    footer = content[max(end - 32, 0) : end]
    if footer[:8] == b"APETAGEX" and len(footer) == 32:
        end -= int.from_bytes(footer[12:16], "little")
        end -= 32 if footer[23] & 0x80 else 0
    return (start, end) if start < end else (0, len(content))


def least_length(path: Path) -> int:
    """Count the samples of an MP3 that does not state its length.

    libsndfile takes the length from the first frame's bitrate then, and stops reading there: of
    a file of variable bitrate most can be lost without an error.

    Returns:
        samples per channel up to the first damaged frame; 0 if the file states its length, or is
        no MP3 of layer III.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position, end = audio_range(content)
        first = None
        for start in range(position, min(position + _SEARCH_BYTES, end)):
            first = _Frame.parse(content[start : start + _HEADER_BYTES])
            if first is not None and _follows(content, start, first):
                position = start
                break
        else:
            return 0
        opening = content[position : position + first.num_bytes]
        if any(name in opening for name in (b"Xing", b"Info", b"VBRI")):
            return 0
        num_samples = 0
        frame: _Frame | None = first
        while frame is not None and position + frame.num_bytes <= end and frame.kind == first.kind:
            num_samples += frame.num_samples
            position += frame.num_bytes
            frame = _Frame.parse(content[position : position + _HEADER_BYTES])
        return num_samples


def _follows(content: mmap.mmap, start: int, frame: _Frame) -> bool:
    """Tell a frame from four bytes of junk: another one of its kind comes next."""
    position = start + frame.num_bytes
    following = _Frame.parse(content[position : position + _HEADER_BYTES])
    return following is not None and following.kind == frame.kind
