"""MPEG audio frames (MP3): where the audio of a file lies, and how much of it there is.

libsndfile believes the first header about the length, or guesses it from the first frame's
bitrate, and reads no further. Here all frames are counted; where the count is another one, the
decoder is given the frames alone, behind a header that is right.

Source: ISO/IEC 11172-3 (frame header) and 13818-3 (lower rates); id3.org for ID3v1, ID3v2 and
Lyrics3; the APEv2 specification; the Xing, VBRI and LAME headers as their encoders write them.
"""

import mmap
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from mixprint.audio.fileview import Piece
from mixprint.audio.streams import CONVERT, LENGTH_TOLERANCE_S, Link, StreamError

_LAYER_1, _LAYER_2, _LAYER_3 = 3, 2, 1
# By whether it is MPEG 1, and the layer's two bits.
_KBPS = {
    (True, _LAYER_1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, _LAYER_2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _LAYER_3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _LAYER_1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _LAYER_2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _LAYER_3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = (44_100, 48_000, 32_000)
_HEADER_BYTES = 4
# The fourth byte of a header from which on it says one channel.
_MONO = 0xC0
_COUNTING = (b"Xing", b"Info", b"VBRI")
# Eleven set bits, a version and a layer that are not reserved.
SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", re.DOTALL)
# So many frames in a row are no accident.
_CHAIN = 3
# A frame of the free format is at most as long as this; its header does not say how long.
_FREE_BYTES = 8_192
# What libmpg123 adds to the delay of the encoder.
_DECODER_DELAY = 529
# LAME's extension of the Xing header, and where three bytes in it hold delay and padding.
_LAME_BYTES = 36
_LAME_DELAY = 21


@dataclass(frozen=True)
class _Kind:
    """Properties that all frames of a stream share.

    Attributes:
        is_mpeg1: MPEG 1; else 2 or 2.5.
        layer: two bits of the header.
        rate_hz: sample rate.
        is_mono: one channel.
        num_samples: samples per frame and channel.
        sizes: length of a frame, by the first three bytes of its header.
    """

    is_mpeg1: bool
    layer: int
    rate_hz: int
    is_mono: bool
    num_samples: int
    sizes: dict[bytes, int]

    @property
    def side_bytes(self) -> int:
        """Length of layer III's side information, behind which a Xing header lies."""
        if self.is_mpeg1:
            return 17 if self.is_mono else 32
        return 9 if self.is_mono else 17

    @property
    def name(self) -> str:
        """Name of the kind, which differs between streams that cannot be read as one."""
        layer = {_LAYER_1: "I", _LAYER_2: "II", _LAYER_3: "III"}[self.layer]
        channels = "mono" if self.is_mono else "stereo"
        return f"layer {layer}, {channels} at {self.rate_hz} Hz"

    def seconds(self, num_frames: int) -> float:
        """Duration of some frames."""
        return num_frames * self.num_samples / self.rate_hz


@dataclass(frozen=True)
class _Declared:
    """Declarations of a first frame that is a header and holds no audio.

    Attributes:
        num_frames: frames behind it; None if it does not say.
        lame: LAME's extension, with the encoder's delay; zeros if there is none.
        is_xing: the header is one that libmpg123 knows.
    """

    num_frames: int | None
    lame: bytes = bytes(_LAME_BYTES)
    is_xing: bool = True

    def trimmed(self) -> tuple[int, int]:
        """Samples that a decoder drops at the start and at the end."""
        if not self.lame[0]:
            return 0, 0
        bits = int.from_bytes(self.lame[_LAME_DELAY : _LAME_DELAY + 3], "big")
        return (bits >> 12) + _DECODER_DELAY, max((bits & 0xFFF) - _DECODER_DELAY, 0)


@dataclass
class _Frames:
    """Frames of a file, and what lies between them.

    Attributes:
        kind: what they share.
        starts: where each begins.
        sizes: how long each is.
        gaps: bytes between two frames that are none, and the number of frames before them.
        tail: what lies behind the last one, without tags.
    """

    kind: _Kind
    starts: list[int]
    sizes: list[int]
    gaps: list[tuple[range, int]]
    tail: range = range(0)

    @property
    def end(self) -> int:
        """The byte after the last frame."""
        return self.starts[-1] + self.sizes[-1]

    def runs(self, first: int) -> list[range]:
        """Ranges of bytes with frames only, from a frame on."""
        edges = [self.starts[first]]
        for gap, num_before in self.gaps:
            if num_before > first:
                edges += [gap.start, gap.stop]
        return [range(*pair) for pair in zip(edges[::2], [*edges[1::2], self.end], strict=True)]


def find_streams(content: mmap.mmap) -> tuple[Link, ...] | None:
    """Count the frames of a file, and find what the decoder must be given.

    Args:
        content: the whole file.

    Returns:
        the one stream; None if libsndfile reads the file well by itself, because a Xing header
        counts what is there and nothing but tags lies around it; also if it is no MPEG audio.

    Raises:
        StreamError: ``truncated``: there are fewer frames than declared, or the last one is cut;
            ``damaged``: something else lies where frames may have been; ``joined``: frames of
            different kinds follow each other.
    """
    start, end = audio_range(content)
    found = _first_frame(content, start, end)
    if found is not None and found[0] > start > 0:
        # A tag that states a wrong size may hide frames; images in it are no chains of frames.
        found = _first_frame(content, 10, end)
    if found is None:
        return None
    frames = _walk(content, *found, end)
    declared = _declared(content, frames.starts[0], frames.sizes[0], frames.kind)
    first = 0 if declared is None else 1
    num_frames = len(frames.starts) - first
    if num_frames == 0:
        return None
    is_vouched = declared is not None and declared.num_frames == num_frames
    _check_gaps(content, frames, first, is_vouched=is_vouched)
    if not is_vouched:
        _check_count(content, frames, first, declared)
        _check_ends(content, frames, start)
    is_counted = (
        declared is not None and declared.is_xing and ((declared.num_frames or 0) >= num_frames)
    )
    is_bare = frames.starts[0] == _after_id3v2(content, 0) and frames.end == end
    if is_counted and is_bare and not frames.gaps:
        return None
    return (_link(content, frames, first, declared),)


def audio_range(content: bytes | mmap.mmap) -> tuple[int, int]:
    """Find the audio between the tags at both ends.

    Args:
        content: the whole file.

    Returns:
        first byte and the one after the last; the whole file if the tags' sizes make no sense.
    """
    start, end = between_tags(content, 0, len(content))
    return (start, end) if start < end else (0, len(content))


def between_tags(content: bytes | mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Leave out all tags at both ends of a part."""
    while (after := _after_tag(content, start)) > start:
        start = after
    while (before := _before_tag(content, start, end)) < end:
        end = before
    return start, end


def _after_tag(content: bytes | mmap.mmap, start: int) -> int:
    """Return the byte after a tag that begins here; the same byte if none does."""
    if content[start : start + 3] == b"TAG":
        return start + 128
    header = content[start : start + 32]
    # APEv2 begins with 32 bytes that hold the size of what follows; flag 29 says header.
    if header[:8] == b"APETAGEX" and len(header) == 32 and header[23] & 0x20:
        return start + 32 + int.from_bytes(header[12:16], "little")
    return _after_id3v2(content, start)


def _after_id3v2(content: bytes | mmap.mmap, start: int) -> int:
    """Return the byte after an ID3v2 tag that begins here; the same byte if none does."""
    head = content[start : start + 10]
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    # Ten bytes of header, with the size in four times seven bits; flag 0x10 is a footer.
    size = sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(head[6:]))
    return start + 10 + size + (10 if head[5] & 0x10 else 0)


def _before_tag(content: bytes | mmap.mmap, start: int, end: int) -> int:
    """Return the first byte of a tag that ends here; the same byte if none does."""

    def tail(num_bytes: int, offset: int = 0) -> bytes:
        return content[max(end - num_bytes, start) : max(end - num_bytes + offset, start)]

    before = end
    if tail(128, 3) == b"TAG":
        before = end - 128
        if content[max(before - 227, start) : max(before - 223, start)] == b"TAG+":
            before -= 227
    elif (footer := tail(32, 32))[:8] == b"APETAGEX" and len(footer) == 32:
        # APEv2 ends with 32 bytes that hold its size; flag 31 says that as many begin it.
        before = end - int.from_bytes(footer[12:16], "little") - (32 if footer[23] & 0x80 else 0)
    elif tail(10, 3) == b"3DI":
        size = sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(tail(4, 4)))
        before = end - size - 20
    elif tail(9, 9) == b"LYRICS200" and tail(15, 6).isdigit():
        before = end - 15 - int(tail(15, 6))
    elif tail(9, 9) == b"LYRICSEND":
        opening = content.rfind(b"LYRICSBEGIN", max(end - 5_120, start), end)
        before = opening if opening >= 0 else end
    return before if start <= before else end


@lru_cache(maxsize=256)
def _kind(version: int, layer: int, rate: int, is_mono: bool, free_bytes: int) -> _Kind:
    """Build what frames share from a header's fields (and, in the free format, a frame's size)."""
    is_mpeg1 = version == 3
    # MPEG 2 halves the rates, and 2.5 (version 0) once more.
    rate_hz = _RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    num_samples = 576 if layer == _LAYER_3 and not is_mpeg1 else 1_152
    if layer == _LAYER_1:
        num_samples = 384
    slot_bytes = 4 if layer == _LAYER_1 else 1
    lengths = (
        {0: free_bytes}
        if free_bytes
        else {
            index: num_samples // 8 * kbps * 1_000 // (rate_hz * slot_bytes) * slot_bytes
            for index, kbps in enumerate(_KBPS[is_mpeg1, layer], start=1)
        }
    )
    sizes = {}
    for index, length in lengths.items():
        for is_unprotected in (0, 1):
            for padding in (0, 1):
                for private in (0, 1):
                    second = 0xE0 | version << 3 | layer << 1 | is_unprotected
                    third = index << 4 | rate << 2 | padding << 1 | private
                    sizes[bytes((0xFF, second, third))] = length + padding * slot_bytes
    return _Kind(is_mpeg1, layer, rate_hz, is_mono, num_samples, sizes)


def _kinds(content: mmap.mmap, start: int) -> Iterator[_Kind]:
    """Return the kinds that four bytes may be a header of: none, one, or several free formats."""
    header = content[start : start + _HEADER_BYTES]
    bits = int.from_bytes(header, "big")
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    bitrate, rate, is_mono = bits >> 12 & 15, bits >> 10 & 3, bits >> 6 & 3 == 3
    # Version 1, layer 0, rate 3 and bitrate 15 are reserved.
    if len(header) < _HEADER_BYTES or version == 1 or layer == 0 or rate == 3 or bitrate == 15:
        return
    if bitrate:
        yield _kind(version, layer, rate, is_mono, 0)
        return
    # The free format: its frames are as long as it is to the next one.
    padding = (bits >> 9 & 1) * (4 if layer == _LAYER_1 else 1)
    following = re.compile(re.escape(header[:2]), re.DOTALL)
    for match in following.finditer(content, start + _HEADER_BYTES, start + _FREE_BYTES):
        yield _kind(version, layer, rate, is_mono, match.start() - start - padding)


def _first_frame(content: mmap.mmap, start: int, end: int) -> tuple[int, _Kind] | None:
    """Find the first place where several frames of a kind follow each other, or one to the end."""
    for match in SYNC.finditer(content, start, end):
        for kind in _kinds(content, match.start()):
            position, num_frames = match.start(), 0
            while num_frames < _CHAIN and (size := _size(content, position, end, kind)):
                position += size
                num_frames += 1
            if num_frames == _CHAIN or (num_frames and position == end):
                return match.start(), kind
    return None


def _size(content: mmap.mmap, position: int, end: int, kind: _Kind) -> int:
    """Return the length of the frame of a kind that begins here; 0 if none does, or it is cut."""
    header = content[position : position + _HEADER_BYTES]
    size = kind.sizes.get(header[:3], 0)
    is_frame = size and position + size <= end and (header[3] >= _MONO) == kind.is_mono
    return size if is_frame else 0


def _walk(content: mmap.mmap, position: int, kind: _Kind, end: int) -> _Frames:
    """Go from frame to frame, over whatever lies between them.

    Raises:
        StreamError: ``joined``.
    """
    frames = _Frames(kind, [], [], [])
    while True:
        size_of, is_mono = kind.sizes.get, kind.is_mono
        # As `_size` does it, ten thousand times.
        while (
            (size := size_of((header := content[position : position + _HEADER_BYTES])[:3]))
            and position + size <= end
            and (header[3] >= _MONO) == is_mono
        ):
            frames.starts.append(position)
            frames.sizes.append(size)
            position += size
        tail = range(*between_tags(content, position, end))
        found = _first_frame(content, tail.start, end)
        if found is None:
            frames.tail = tail
            return frames
        if found[1].name != kind.name:
            raise StreamError(
                "joined",
                f"expected frames of one kind, found {kind.name}, and from "
                f"{kind.seconds(len(frames.starts)):.3f} s on {found[1].name}: cut the parts "
                "apart, or convert them to one file: ffmpeg -i FILE COPY.wav",
            )
        frames.gaps.append((range(position, found[0]), len(frames.starts)))
        position, kind = found


def _declared(content: mmap.mmap, start: int, size: int, kind: _Kind) -> _Declared | None:
    """Read a Xing, Info or VBRI header; None if the frame is none."""
    if kind.layer != _LAYER_3:
        return None
    frame = content[start : start + size]
    if frame[36:40] == b"VBRI":
        return _Declared(int.from_bytes(frame[50:54], "big") or None, is_xing=False)
    # Encoders put the header behind the side information, with or without room for a CRC.
    for position in (_HEADER_BYTES + kind.side_bytes, _HEADER_BYTES + kind.side_bytes + 2):
        if frame[position : position + 4] not in (b"Xing", b"Info"):
            continue
        flags = int.from_bytes(frame[position + 4 : position + 8], "big")
        position += 8
        num_frames = None
        if flags & 1:
            num_frames = int.from_bytes(frame[position : position + 4], "big") or None
        for flag, num_bytes in ((1, 4), (2, 4), (4, 100), (8, 4)):
            position += num_bytes if flags & flag else 0
        return _Declared(
            num_frames, frame[position : position + _LAME_BYTES].ljust(_LAME_BYTES, b"\0")
        )
    return None


def _check_gaps(content: mmap.mmap, frames: _Frames, first: int, *, is_vouched: bool) -> None:
    """Refuse bytes between frames, unless they are tags or the number of frames is right.

    Raises:
        StreamError: ``damaged``.
    """
    for gap, num_before in frames.gaps:
        start, end = between_tags(content, gap.start, gap.stop)
        # A frame whose header states a wrong bitrate seems to end early, and none is missing.
        seeming = gap.stop - frames.starts[num_before - 1]
        if start < end and (not is_vouched or seeming in frames.kind.sizes.values()):
            raise StreamError(
                "damaged",
                f"expected one frame behind the other, found {end - start} bytes that are none at "
                f"{frames.kind.seconds(num_before - first):.3f} s, where audio may be lost: "
                f"{CONVERT}",
            )


def _check_count(
    content: mmap.mmap, frames: _Frames, first: int, declared: _Declared | None
) -> None:
    """Refuse fewer frames than are declared, also by the headers of parts that were joined.

    Raises:
        StreamError: ``truncated``.
    """
    kind = frames.kind
    if declared is None:
        return
    headers = [(first, declared)]
    for position in _found(content, frames.starts[first], frames.end):
        index = bisect_right(frames.starts, position) - 1
        part = _declared(content, frames.starts[index], frames.sizes[index], kind)
        headers += [] if part is None else [(index + 1, part)]
    ends = [*(index - 1 for index, _ in headers[1:]), len(frames.starts)]
    for (begin, header), stop in zip(headers, ends, strict=True):
        missing = (header.num_frames or 0) - (stop - begin)
        is_cut = stop == len(frames.starts) and _is_cut(content, frames)
        if missing > 0 and (is_cut or kind.seconds(missing) > LENGTH_TOLERANCE_S):
            skipped, dropped = header.trimmed()
            expected = (header.num_frames or 0) * kind.num_samples - skipped - dropped
            found = (stop - begin) * kind.num_samples - skipped
            raise StreamError(
                "truncated",
                f"expected {expected / kind.rate_hz:.3f} s of audio as declared, found "
                f"{max(found, 0) / kind.rate_hz:.3f} s",
            )


def _found(content: mmap.mmap, start: int, end: int) -> list[int]:
    """Find the names of counting headers, in their order."""
    positions = []
    for name in _COUNTING:
        position = content.find(name, start, end)
        while position >= 0:
            positions.append(position)
            position = content.find(name, position + 1, end)
    return sorted(positions)


def _check_ends(content: mmap.mmap, frames: _Frames, start: int) -> None:
    """Refuse what lies before and behind the frames where audio may have been.

    Raises:
        StreamError: ``truncated``, ``damaged``.
    """
    kind = frames.kind
    if _is_cut(content, frames):
        raise StreamError(
            "truncated",
            f"expected whole frames, found the last one cut after {len(frames.tail)} bytes, at "
            f"{kind.seconds(len(frames.starts)):.3f} s: {CONVERT}",
        )
    bytes_per_s = sum(frames.sizes) / kind.seconds(len(frames.sizes))
    rest = content[frames.tail.start : frames.tail.stop]
    # Zeros are padding, if they are few; other bytes are, if no frame is as short.
    may_be_audio = len(rest) > LENGTH_TOLERANCE_S * bytes_per_s
    may_be_audio |= len(rest.rstrip(b"\0")) >= min(frames.sizes)
    lead = frames.starts[0] - start
    if may_be_audio or lead > LENGTH_TOLERANCE_S * bytes_per_s:
        num_bytes, where = (
            (len(rest), "behind the last frame")
            if may_be_audio
            else (lead, "before the first frame")
        )
        raise StreamError(
            "damaged",
            f"expected nothing but tags around the frames, found {num_bytes} bytes {where}, where "
            f"audio may be lost: {CONVERT}",
        )


def _is_cut(content: mmap.mmap, frames: _Frames) -> bool:
    """Tell whether a frame begins behind the last whole one."""
    rest = content[frames.tail.start : frames.tail.stop][:3]
    return bool(rest) and any(header.startswith(rest) for header in frames.kind.sizes)


def _link(content: mmap.mmap, frames: _Frames, first: int, declared: _Declared | None) -> Link:
    """Put the frames behind a header that counts them (only layer III has such a header)."""
    kind = frames.kind
    num_frames = len(frames.starts) - first
    num_samples = num_frames * kind.num_samples
    pieces: list[Piece] = list(frames.runs(first))
    if kind.layer != _LAYER_3:
        return Link(tuple(pieces), num_samples)
    header = content[frames.starts[first] : frames.starts[first] + _HEADER_BYTES]
    if declared is None or not declared.lame[0]:
        # libmpg123 drops its own delay at least, so there must be something to drop: silence.
        lame = _lame(b"mixprint", kind.num_samples - _DECODER_DELAY, 0)
        silence = _frame(header, kind, b"")
        return Link((_xing(header, kind, num_frames + 1, lame), silence, *pieces), num_samples)
    skipped, dropped = declared.trimmed()
    lame = declared.lame
    if declared.num_frames != num_frames:
        # What the encoder padded lies elsewhere, or is unknown: the end is not trimmed.
        dropped, lame = 0, _lame(lame, skipped - _DECODER_DELAY, 0)
    xing = _xing(header, kind, num_frames, lame)
    return Link((xing, *pieces), num_samples - skipped - dropped)


def _lame(encoder: bytes, delay: int, padding: int) -> bytes:
    """Build LAME's extension, of which only the samples to drop at both ends matter here."""
    extension = encoder[:_LAME_DELAY].ljust(_LAME_DELAY, b"\0")
    return (extension + (delay << 12 | padding).to_bytes(3, "big")).ljust(_LAME_BYTES, b"\0")


def _xing(header: bytes, kind: _Kind, num_frames: int, lame: bytes) -> bytes:
    """Build the frame that counts those behind it."""
    return _frame(header, kind, b"Xing" + b"\0\0\0\1" + num_frames.to_bytes(4, "big") + lame)


def _frame(header: bytes, kind: _Kind, body: bytes) -> bytes:
    """Build a silent frame like others, as short as its body allows, and without a checksum."""
    body = bytes(kind.side_bytes) + body
    fields = _kind(header[1] >> 3 & 3, kind.layer, header[2] >> 2 & 3, kind.is_mono, 0).sizes
    size, opening = min(
        (size, opening)
        for opening, size in fields.items()
        if size >= _HEADER_BYTES + len(body) and opening[1] & 1 and not opening[2] & 1
    )
    return (opening + header[3:] + body).ljust(size, b"\0")
