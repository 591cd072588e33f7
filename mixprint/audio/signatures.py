"""Signatures: the kind of a file by its name, and by its first bytes.

Sources: the formats' own specifications; the list is that of what songs' folders really hold:
downloads that became a page of the server, pictures, and audio of codecs that libsndfile lacks.
"""

from dataclasses import dataclass

HEAD_BYTES = 512
# fmt: off
AUDIO_SUFFIXES = frozenset((
    ".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3",
    ".mpga", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf",
))
# Codecs that libsndfile lacks, and formats whose damage nothing here would notice.
UNREADABLE_SUFFIXES = frozenset((
    ".3gp", ".8svx", ".aac", ".ac3", ".adts", ".amr", ".ape", ".asf", ".avr", ".dff", ".dsf",
    ".dts", ".eac3", ".gsm", ".ircam", ".m4a", ".m4b", ".m4p", ".m4r", ".mka", ".mp1", ".mp2",
    ".mp4", ".mpc", ".mpp", ".nist", ".ofr", ".paf", ".pvf", ".ra", ".ram", ".rm", ".sds", ".shn",
    ".sph", ".spx", ".svx", ".tak", ".thd", ".tta", ".voc", ".vox", ".weba", ".webm", ".wma", ".wv",
))
# fmt: on


@dataclass(frozen=True)
class Signature:
    """A kind of file.

    Attributes:
        name: with its article, for a sentence.
        is_audio: it holds audio (or may), so converting it helps.
    """

    name: str
    is_audio: bool = False


# A place, the bytes there, and what they mean.
_AUDIO = (
    (4, b"ftyp", "an MP4 (M4A: AAC or ALAC)"),
    (0, bytes.fromhex("3026b2758e66cf11"), "an ASF (WMA)"),
    (0, b"\xff\xf1", "AAC (ADTS)"),
    (0, b"\xff\xf9", "AAC (ADTS)"),
    (0, b"ADIF", "AAC (ADIF)"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (0, b"MAC ", "Monkey's Audio (APE)"),
    (0, b"wvpk", "WavPack"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"TTA1", "True Audio"),
    (0, b"DSD ", "DSD (DSF)"),
    (0, b"FRM8", "DSD (DSDIFF)"),
    (0, b".RMF", "RealAudio"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"OFR ", "OptimFROG"),
    (8, b"AVI ", "an AVI video"),
    (0, b"FLV", "a Flash video"),
    (0, b"#!AMR", "AMR"),
)
_OTHER = (
    (0, b"MThd", "MIDI, which is notes and no audio"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program for Windows"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file (what macOS keeps beside a file)"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (fetch the file itself: git lfs pull)"),
)
_TEXTS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<head", "an HTML page"),
    (b"<?xml", "XML"),
    (b"<", "XML or HTML"),
    (b"{", "JSON"),
    (b"[", "JSON or settings"),
    (b"#extm3u", "a playlist"),
)
_BOM = b"\xef\xbb\xbf"


def is_hidden(name: str) -> bool:
    """Tell hidden names from titles that begin with dots."""
    return name.startswith(".") and not name.startswith("..")


def foreign(head: bytes) -> Signature | None:
    """Tell what a file is that begins so, if that is certain and nothing that mixprint reads.

    Args:
        head: its first `HEAD_BYTES` bytes, or all of it.
    """
    for table, is_audio in ((_AUDIO, True), (_OTHER, False)):
        for place, content, name in table:
            if head[place : place + len(content)] == content:
                return Signature(name, is_audio)
    if _is_text(head):
        begin = head.removeprefix(_BOM).lstrip().lower()
        for content, name in _TEXTS:
            if begin.startswith(content):
                return Signature(name)
    return None


def looks_like(head: bytes) -> str:
    """Describe a file that nothing can be decoded from."""
    if (signature := foreign(head)) is not None:
        return signature.name
    if head.count(0) == len(head):
        return "zeros"
    return "text" if _is_text(head) else "bytes of no known format"


def _is_text(head: bytes) -> bool:
    r"""Tell text: no control characters but tabs, line breaks and the like."""
    # The last character may be cut.
    text = head.decode("utf-8", "ignore") if head.isascii() else _decoded(head)
    return bool(text) and all(c.isprintable() or c in "\t\r\n\f\ufeff" for c in text)


def _decoded(head: bytes) -> str:
    for num_cut in range(4):
        try:
            return head[: len(head) - num_cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return ""
