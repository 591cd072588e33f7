"""Headers of PCM containers: where the audio lies, how long it is, which speakers.

libsndfile shortens a declared length to what the file holds before anybody can look, so a file cut
in half seems to be a whole file of half the length; where a length was never filled in it may read
nothing; and it knows no speakers. Here WAV (RIFF, RIFX, RF64, BW64), W64, AIFF, AU and CAF are read
up to the audio, and what lies behind it is looked at.

Sources: Microsoft/IBM, Multimedia Programming Interface 1.0 (RIFF) and WAVEFORMATEXTENSIBLE; EBU
Tech 3306 (RF64), ITU-R BS.2088 (BW64); Sonic Foundry, W64; Apple, AIFF-C and Core Audio Format
Specification; Sun, audio(7I) (AU).
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

from mixprint.audio.fileview import Piece
from mixprint.audio.layouts import Layout, apple_layout, mask_layout
from mixprint.audio.streams import StreamError

# What ffmpeg, SoX, LAME and others write as a length that they do not know, because they write to a
# pipe; some subtract the header or go down to whole frames. From 2**62 on no length is meant.
_STREAMED_32 = (0x7F000008, 0x7FFFFFFF, 0xFFFFFFFF)
_STREAMED_BELOW = 4_096
_STREAMED_64 = 2**62
# Behind the container's end anything may lie, but not so much that it could be a lot of audio.
_MAX_APPENDED_S = 1.0
_MAX_BEHIND_PLAIN_S = 0.1  # where nothing but the audio's length tells where the file ends
_MAX_POSITION = 2**43  # 8 TiB: any file system lets a program look there
_MAX_ZEROS = 1 << 28
_MAX_CHUNKS = 10_000
_MAX_KEPT_BYTES = 4_096  # of a chunk that describes the format
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MPEG, _MPEG_LAYER_3 = 0x50, 0x55
_AMBISONIC_GUID = bytes.fromhex("00002107d3118644c8c1ca000000")
_AMBISONIC: Layout = ("W", "X", "Y", "Z")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_AIFC_SAMPLE_BYTES = {
    **{b"NONE": 0, b"twos": 0, b"sowt": 0, b"raw ": 1, b"in24": 3, b"in32": 4, b"42ni": 3},
    **{b"23ni": 4, b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"alaw": 1, b"ulaw": 1},
    **{b"ALAW": 1, b"ULAW": 1},
}
_AU_SAMPLE_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b".snd", b"caff", b"riff", b"fLaC", b"OggS")
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class Container:
    """Place and form of the audio in a file.

    Attributes:
        name: as people call the format.
        start: the audio's first byte.
        end: the byte behind its last one, as declared, or the file's end if no length is declared.
        is_declared: a length is declared; streamed and unfinished files declare none.
        file_size: bytes of the file.
        frame_bytes: bytes of a frame where all are equal; else 0.
        bytes_per_s: of audio, where the header tells; else 0.
        least_frames: how many frames are declared apart from the bytes, for codecs of blocks.
        layout: speakers of the channels, where the file names them.
        patches: bytes of the header as they should be, by their place.
        is_cut: what lies behind the audio is to be kept from the decoder: of W64 and of AU with
            ADPCM libsndfile takes that for audio, too.
        is_mpeg: it holds frames of MPEG audio, which say better than it how many there are.
    """

    name: str
    start: int
    end: int
    is_declared: bool
    file_size: int
    frame_bytes: int
    bytes_per_s: float
    least_frames: int = 0
    layout: Layout | None = None
    patches: Mapping[int, bytes] = field(default_factory=dict)
    is_cut: bool = False
    is_mpeg: bool = False

    @property
    def declared_bytes(self) -> int:
        """Bytes of audio that are declared."""
        return self.end - self.start

    @property
    def present_bytes(self) -> int:
        """Bytes of it that the file holds."""
        return max(min(self.end, self.file_size) - self.start, 0)

    @property
    def pieces(self) -> list[Piece] | None:
        """The file as a decoder should see it; None if that is the file itself."""
        if not self.patches and not self.is_cut:
            return None
        pieces: list[Piece] = []
        position = 0
        for place, content in sorted(self.patches.items()):
            pieces += [range(position, place), content]
            position = place + len(content)
        return [*pieces, range(position, self.end if self.is_cut else self.file_size)]


@dataclass(frozen=True)
class _Grammar:
    """A format's way of writing its chunks.

    Attributes:
        name: as people call the format.
        first: where the first chunk begins.
        id_bytes: length of a chunk's name.
        size_bytes: length of its size.
        order: of the bytes of all numbers.
        counts_header: sizes include the name and the size itself.
        alignment: chunks begin at multiples of it.
        guid: the end of each name that this module asks for.
        audio: name of the chunk with the audio.
    """

    name: str
    first: int = 12
    id_bytes: int = 4
    size_bytes: int = 4
    order: Literal["little", "big"] = "little"
    counts_header: bool = False
    alignment: int = 2
    guid: bytes = b""
    audio: bytes = b"data"

    def number(self, content: bytes) -> int:
        """Read an unsigned number."""
        return int.from_bytes(content, self.order)


_W64 = _Grammar(
    "W64", first=40, id_bytes=16, size_bytes=8, counts_header=True, alignment=8, guid=_W64_GUID
)
_GRAMMARS = {
    b"RIFF": _Grammar("WAV"),
    b"RIFX": _Grammar("WAV", order="big"),
    b"RF64": _Grammar("RF64"),
    b"BW64": _Grammar("BW64"),
}
_AIFF = _Grammar("AIFF", order="big", audio=b"SSND")
_CAF = _Grammar("CAF", first=8, size_bytes=8, order="big", alignment=1)


def read_container(file: BinaryIO) -> Container | None:
    """Read the headers of a file.

    Returns:
        None if it is none of these containers.

    Raises:
        StreamError: ``unreadable``: there is no audio in it; ``truncated``: it ends before the
            audio; ``joined``: another file follows; ``length_unknown``: its sizes contradict each
            other, or it is followed by what may be more audio.
        OSError: the file cannot be read.
    """
    head = _read(file, 0, 40)
    if head[:4] in _GRAMMARS and head[8:12] == b"WAVE":
        return _wave(_Chunks(file, _GRAMMARS[head[:4]]))
    if head[:16] == _W64_RIFF:
        return _wave(_Chunks(file, _W64))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(_Chunks(file, _AIFF))
    if head[:4] == b"caff":
        return _caf(_Chunks(file, _CAF))
    return _au(file, head) if head[:4] in (b".snd", b"dns.") else None


class _Chunks:
    """The chunks of a file.

    Attributes:
        file: the file.
        grammar: of its format.
        file_size: its length.
        starts: where the content of each chunk but the audio begins, by its name.
        audio_start: where the content of the audio's chunk begins.
        audio_size: its length as declared; None if it says that it is not known.
        size_place: where that length stands, and how many bytes it takes.
    """

    def __init__(self, file: BinaryIO, grammar: _Grammar) -> None:
        """Walk from chunk to chunk, to the end of the file or of what can be understood."""
        self.file, self.grammar = file, grammar
        self.file_size = file.seek(0, os.SEEK_END)
        self.starts: dict[bytes, int] = {}
        self.audio_start = 0
        self.audio_size: int | None = None
        self.size_place = (0, 0)
        position = grammar.first
        for name, start, size in self._walk(grammar.first):
            position = start + size
            if name != grammar.audio:
                self.starts.setdefault(name, start)
            elif not self.audio_start:
                self._note_audio(start, size)
                if not self.audio_size:
                    break
        if not self.audio_start and position + self._header_bytes() > self.file_size:
            raise StreamError(
                "truncated",
                f"expected audio behind the {grammar.name} header, found the end of the file",
            )
        if not self.audio_start:
            raise StreamError(
                "unreadable", f"expected audio in a {grammar.name} file, found only other chunks"
            )

    def content(self, name: bytes) -> bytes:
        """Read what a chunk begins with; nothing if there is none."""
        start = self.starts.get(name)
        return b"" if start is None else _read(self.file, start, _MAX_KEPT_BYTES)

    def number(self, place: int, num_bytes: int) -> int:
        """Read an unsigned number."""
        return self.grammar.number(_read(self.file, place, num_bytes))

    def extent(self) -> int:
        """End of the container as declared; the file's end if it declares nothing."""
        if self.grammar is _W64:
            size = self.number(16, 8)
        else:
            size = self.number(4, 4)
            if size == 0xFFFFFFFF and b"ds64" in self.starts:
                size = self.number(self.starts[b"ds64"], 8)
            size += 8
        return self.file_size if size <= 8 or _is_streamed(size, 8) else min(size, self.file_size)

    def follows(self, position: int) -> bool:
        """Tell whether a chunk that fits into the file begins here."""
        header = self._header(position)
        return header is not None and header[1] + header[2] <= self.file_size

    def check_rest(self, end: int, bytes_per_s: float) -> None:
        """Refuse what follows the audio and may be audio, too.

        Raises:
            StreamError: see `read_container`.
        """
        position = end
        for _, start, size in self._walk(position):
            if _read(self.file, start - self._header_bytes(), 4) in MAGICS:
                position = start - self._header_bytes()
                break
            position = start + size
        else:
            if position > end:
                return
        # CAF states no length of its own.
        extent = end if self.grammar is _CAF else self.extent()
        most_s = _MAX_BEHIND_PLAIN_S if self.grammar is _CAF else _MAX_APPENDED_S
        _check_appended(self.file, position, extent, most_s * bytes_per_s, self.grammar.name)

    def encoded_size(self, size: int) -> bytes:
        """Write the length of the audio's chunk as it should stand in `size_place`.

        Raises:
            StreamError: the format has no room for it.
        """
        num_bytes = self.size_place[1]
        size += self._header_bytes() if self.grammar.counts_header else 0
        if size >= 2 ** (8 * num_bytes):
            raise StreamError(
                "length_unknown",
                f"expected a length, found none in {size} bytes of {self.grammar.name}, which can "
                f"state no more than {2 ** (8 * num_bytes)}",
            )
        return size.to_bytes(num_bytes, self.grammar.order)

    def _note_audio(self, start: int, size: int) -> None:
        """Keep where the audio lies; RF64 has its length in another chunk."""
        grammar = self.grammar
        self.audio_start, self.audio_size = start, size
        self.size_place = (start - grammar.size_bytes, grammar.size_bytes)
        if size == 0xFFFFFFFF and b"ds64" in self.starts:
            self.size_place = (self.starts[b"ds64"] + 8, 8)
            self.audio_size = self.number(*self.size_place)
        if _is_streamed(self.audio_size, self.size_place[1]):
            self.audio_size = None

    def _header_bytes(self) -> int:
        return self.grammar.id_bytes + self.grammar.size_bytes

    def _header(self, position: int) -> tuple[bytes, int, int] | None:
        """Read a chunk's name, where its content begins, and its length; None if there is none."""
        grammar = self.grammar
        header = _read(self.file, position, self._header_bytes())
        if len(header) < self._header_bytes() or not all(32 <= byte < 127 for byte in header[:4]):
            return None
        name = header[: grammar.id_bytes].removesuffix(grammar.guid)
        size = grammar.number(header[grammar.id_bytes :])
        if grammar.counts_header:
            size = max(size - len(header), 0)
        return name, position + len(header), size

    def _walk(self, position: int) -> Iterator[tuple[bytes, int, int]]:
        """Go from chunk to chunk; some programs forget to align them."""
        for _ in range(_MAX_CHUNKS):
            aligned = -(-position // self.grammar.alignment) * self.grammar.alignment
            header = self._header(aligned) or self._header(position)
            if header is None:
                return
            yield header
            _, start, size = header
            position = start + size


def _wave(chunks: _Chunks) -> Container:
    """Read WAV and its kin."""
    grammar = chunks.grammar
    fmt = chunks.content(b"fmt ")
    if len(fmt) < 16:
        raise StreamError(
            "unreadable", f"expected the sample format of a {grammar.name} file, found none"
        )
    order = "<" if grammar.order == "little" else ">"
    tag, num_channels, _, bytes_per_s, frame_bytes, _ = struct.unpack(f"{order}HHIIHH", fmt[:16])
    patches = {0: b"RF64"} if grammar.name == "BW64" else {}
    layout = None
    if tag == _EXTENSIBLE and len(fmt) >= 40:
        mask = grammar.number(fmt[20:24])
        is_ambisonic = fmt[26:40] == _AMBISONIC_GUID
        layout = _AMBISONIC if is_ambisonic else mask_layout(mask, num_channels)
        tag = grammar.number(fmt[24:26])
        if grammar is _W64:
            # libsndfile takes any extensible format of W64 for integers, floats too.
            patches[chunks.starts[b"fmt "]] = fmt[24:26]
    if tag not in (_PCM, _FLOAT, _ALAW, _ULAW):
        frame_bytes = 0
    least_frames = 0
    if not frame_bytes and grammar is not _W64 and len(fact := chunks.content(b"fact")) >= 4:
        stated = grammar.number(fact[:4])
        least_frames = 0 if _is_streamed(stated, 4) else stated
    container = _container(
        chunks, frame_bytes, bytes_per_s, layout, patches, least_frames=least_frames
    )
    return replace(container, is_mpeg=tag in (_MPEG, _MPEG_LAYER_3))


def _aiff(chunks: _Chunks) -> Container:
    """Read AIFF and AIFF-C, whose audio begins with an offset and a block size."""
    comm = chunks.content(b"COMM")
    if len(comm) < 18:
        raise StreamError("unreadable", "expected the sample format of an AIFF file, found none")
    num_channels, num_frames, bits = struct.unpack(">HIH", comm[:8])
    compression = comm[18:22] if chunks.number(8, 4) == chunks.grammar.number(b"AIFC") else b"NONE"
    sample_bytes = _AIFC_SAMPLE_BYTES.get(compression)
    frame_bytes = 0
    if sample_bytes is not None:
        frame_bytes = (sample_bytes or -(-bits // 8)) * num_channels
    exponent, mantissa = struct.unpack(">HQ", comm[8:18])
    rate_hz = mantissa * 2.0 ** (min(exponent & 0x7FFF, 16_446) - 16_446)
    layout = apple_layout(chan, num_channels) if (chan := chunks.content(b"CHAN")) else None
    num_bytes = num_frames * frame_bytes
    if not chunks.audio_size and num_bytes and not _is_streamed(num_bytes, 4):
        chunks.audio_size = 8 + num_bytes  # the other place where the length stands
    return _container(chunks, frame_bytes, rate_hz * frame_bytes, layout, head_bytes=8)


def _caf(chunks: _Chunks) -> Container:
    """Read CAF, whose audio begins with a count of edits."""
    desc = chunks.content(b"desc")
    if len(desc) < 32:
        raise StreamError("unreadable", "expected the sample format of a CAF file, found none")
    rate_hz, _, _, frame_bytes, _, num_channels, _ = struct.unpack(">d4sIIIII", desc[:32])
    if desc[8:12] not in (b"lpcm", b"alaw", b"ulaw"):
        frame_bytes = 0
    layout = apple_layout(chan, num_channels) if (chan := chunks.content(b"chan")) else None
    return _container(chunks, frame_bytes, rate_hz * frame_bytes, layout, head_bytes=4)


def _container(
    chunks: _Chunks,
    frame_bytes: int,
    bytes_per_s: float,
    layout: Layout | None,
    patches: Mapping[int, bytes] | None = None,
    *,
    head_bytes: int = 0,
    least_frames: int = 0,
) -> Container:
    """Put together what the chunks say.

    Args:
        chunks: of the file.
        frame_bytes: see `Container`.
        bytes_per_s: of audio.
        layout: see `Container`.
        patches: see `Container`.
        head_bytes: what the audio's chunk begins with before the audio.
        least_frames: see `Container`.
    """
    grammar = chunks.grammar
    start = chunks.audio_start + head_bytes
    if grammar is _AIFF:
        start += chunks.number(chunks.audio_start, 4)
    patched = dict(patches or {})
    declared_end = chunks.audio_start + (chunks.audio_size or 0)
    # Behind a length of 0 that was never filled in lies audio; behind a true one, other chunks.
    is_declared = declared_end > start or (
        chunks.audio_size is not None and chunks.follows(declared_end)
    )
    if is_declared:
        end = max(declared_end, start)
        chunks.check_rest(end, bytes_per_s)
    else:
        end = max(chunks.file_size, start)
        patched[chunks.size_place[0]] = chunks.encoded_size(end - chunks.audio_start)
    return Container(
        name=grammar.name,
        start=start,
        end=end,
        is_declared=is_declared,
        file_size=chunks.file_size,
        frame_bytes=frame_bytes,
        bytes_per_s=bytes_per_s,
        least_frames=least_frames,
        layout=layout,
        patches=patched,
        is_cut=grammar is _W64 and end < chunks.file_size,
    )


def _au(file: BinaryIO, head: bytes) -> Container:
    """Read AU, which has no chunks: the audio is what follows the header."""
    order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
    start, declared, encoding, rate_hz, num_channels = (
        int.from_bytes(head[at : at + 4], order) for at in (4, 8, 12, 16, 20)
    )
    file_size = file.seek(0, os.SEEK_END)
    frame_bytes = _AU_SAMPLE_BYTES.get(encoding, 0) * num_channels
    is_declared = declared > 0 and not _is_streamed(declared, 4)
    end = start + declared if is_declared else max(start, file_size)
    if is_declared:
        _check_appended(file, end, end, _MAX_BEHIND_PLAIN_S * rate_hz * frame_bytes, "AU")
    return Container(
        name="AU",
        start=start,
        end=end,
        is_declared=is_declared,
        file_size=file_size,
        frame_bytes=frame_bytes,
        bytes_per_s=rate_hz * frame_bytes,
        patches={} if is_declared else {8: b"\xff" * 4},
        is_cut=end < file_size,
    )


def _check_appended(
    file: BinaryIO, position: int, extent: int, max_bytes: float, name: str
) -> None:
    """Refuse what follows the audio and may be audio, too.

    Args:
        file: the file.
        position: where it begins.
        extent: where the container ends as declared.
        max_bytes: how much may lie behind that.
        name: of the format.

    Raises:
        StreamError: ``joined`` or ``length_unknown``.
    """
    file_size = file.seek(0, os.SEEK_END)
    head = _read(file, position, 16)
    if head.startswith(MAGICS):
        raise StreamError(
            "joined",
            f"expected one {name} file, found another file joined to it at byte {position}: "
            "split them, or join them with a tool that decodes, such as ffmpeg or SoX",
        )
    # One byte may be a pad byte.
    is_inside = extent - position > 1
    if head.startswith(_TAGS) or not (is_inside or file_size - position > max_bytes > 0):
        return
    if not _is_zero(file, position):
        raise StreamError(
            "length_unknown",
            f"expected a {name} file that ends with its audio as declared, at byte {position}, "
            f"found {file_size - position} bytes more that are no chunk: its header is damaged or "
            "was not finished",
        )


def _is_streamed(size: int, num_bytes: int) -> bool:
    """Tell a length that stands for none."""
    if num_bytes == 8:
        return size >= _STREAMED_64
    return any(0 <= marker - size < _STREAMED_BELOW for marker in _STREAMED_32)


def _is_zero(file: BinaryIO, position: int) -> bool:
    """Tell whether nothing but zeros follows, and not too many to look at."""
    if file.seek(0, os.SEEK_END) - position > _MAX_ZEROS:
        return False
    file.seek(position)
    while block := file.read(1 << 20):
        if block.count(0) < len(block):
            return False
    return True


def _read(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    """Read bytes; none from places that no file system has."""
    if position > _MAX_POSITION:
        return b""
    file.seek(position)
    return file.read(num_bytes)
