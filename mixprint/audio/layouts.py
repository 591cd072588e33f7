"""Speaker layouts: which channel of a file belongs to which speaker, and the mix down to stereo.

A layout is a tuple of speakers, one for each channel. The mix down knows the speakers L, R, C, LFE,
Ls, Rs and Cs; a layout may name others (``Tfl``, ``Lc``, ``W``), for which BS.775 has no gains.

Sources: ITU-R BS.775 (mix down); Microsoft, WAVEFORMATEXTENSIBLE (masks); Apple, Core Audio Format
Specification, channel layout chunk (CAF, and `CHAN` of AIFF); RFC 9639, sections 9.1.3 and 8.6.2
(FLAC); Vorbis I, section 4.3.9, which Opus shares; RFC 7845, section 5.1.1 (Opus).
"""

import math
import os
import re
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Layout = tuple[str, ...]

_FLAC_COMMENTS = 4
_FLAC_MASK = re.compile(rb"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-f]{1,8})", re.IGNORECASE)
_OGG_HEAD_BYTES = 4_096  # the first page, with the head of the first stream

_HALF_POWER = math.sqrt(0.5)
_GAINS = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF_POWER, _HALF_POWER),
    "LFE": (0.0, 0.0),
    "Ls": (_HALF_POWER, 0.0),
    "Rs": (0.0, _HALF_POWER),
    "Cs": (0.5, 0.5),
}
STEREO = ("L", "R")
# What a file means that names no speakers, by its number of channels.
_WAVE_ORDERS: dict[int, Layout] = {
    2: STEREO,
    3: ("L", "R", "C"),
    4: ("L", "R", "Ls", "Rs"),
    5: ("L", "R", "C", "Ls", "Rs"),
    6: ("L", "R", "C", "LFE", "Ls", "Rs"),
    7: ("L", "R", "C", "LFE", "Cs", "Ls", "Rs"),
    8: ("L", "R", "C", "LFE", "Ls", "Rs", "Ls", "Rs"),
}
_VORBIS_ORDERS: dict[int, Layout] = {
    2: STEREO,
    3: ("L", "C", "R"),
    4: ("L", "R", "Ls", "Rs"),
    5: ("L", "C", "R", "Ls", "Rs"),
    6: ("L", "C", "R", "Ls", "Rs", "LFE"),
    7: ("L", "C", "R", "Ls", "Rs", "Cs", "LFE"),
    8: ("L", "C", "R", "Ls", "Rs", "Ls", "Rs", "LFE"),
}
MAX_CHANNELS = max(_WAVE_ORDERS)

# The bits of a mask from the lowest on. Side and back speakers are one to the mix down.
_MASK_SPEAKERS = (
    *("L", "R", "C", "LFE", "Ls", "Rs", "Lc", "Rc", "Cs", "Ls", "Rs"),
    *("Ts", "Tfl", "Tfc", "Tfr", "Tbl", "Tbc", "Tbr"),
)
# Apple's labels of single channels.
_APPLE_SPEAKERS = {
    **{1: "L", 2: "R", 3: "C", 4: "LFE", 5: "Ls", 6: "Rs", 7: "Lc", 8: "Rc", 9: "Cs"},
    **{10: "Ls", 11: "Rs", 12: "Ts", 13: "Tfl", 14: "Tfc", 15: "Tfr", 16: "Tbl", 17: "Tbc"},
    **{18: "Tbr", 33: "Ls", 34: "Rs", 35: "Lw", 36: "Rw", 37: "LFE", 42: "C"},
    **{200: "W", 201: "X", 202: "Y", 203: "Z", 204: "M", 205: "S", 301: "L", 302: "R"},
}
# Apple's names of whole layouts; the lower half of a tag is the number of channels.
_APPLE_LAYOUTS = {
    tag: tuple(speakers.split())
    for tag, speakers in {
        100: "C",
        101: "L R",
        102: "L R",
        103: "L R",
        104: "M S",
        105: "L R",
        106: "L R",
        107: "W X Y Z",
        108: "L R Ls Rs",
        109: "L R Ls Rs C",
        110: "L R Ls Rs C Cs",
        111: "L R Ls Rs C Cs Ls Rs",
        113: "L R C",
        114: "C L R",
        115: "L R C Cs",
        116: "C L R Cs",
        117: "L R C Ls Rs",
        118: "L R Ls Rs C",
        119: "L C R Ls Rs",
        120: "C L R Ls Rs",
        121: "L R C LFE Ls Rs",
        122: "L R Ls Rs C LFE",
        123: "L C R Ls Rs LFE",
        124: "C L R Ls Rs LFE",
        125: "L R C LFE Ls Rs Cs",
        126: "L R C LFE Ls Rs Lc Rc",
        127: "C Lc Rc L R Ls Rs LFE",
        128: "L R C LFE Ls Rs Ls Rs",
        129: "L R Ls Rs C LFE Lc Rc",
        131: "L R Cs",
        132: "L R Ls Rs",
        133: "L R LFE",
        134: "L R LFE Cs",
        135: "L R LFE Ls Rs",
        136: "L R C LFE",
        137: "L R C LFE Cs",
        138: "L R Ls Rs LFE",
        139: "L R Ls Rs C Cs",
        140: "L R Ls Rs C Ls Rs",
        141: "C L R Ls Rs Cs",
        142: "C L R Ls Rs Cs LFE",
        143: "C L R Ls Rs Ls Rs",
        144: "C L R Ls Rs Ls Rs Cs",
    }.items()
}
_APPLE_USE_DESCRIPTIONS = 0
_APPLE_USE_MASK = 1
# Discrete channels in the order of their numbers, and channels of which nothing is known.
_APPLE_NO_SPEAKERS = (147, 0xFFFF)


def default_layout(num_channels: int, *, is_ogg: bool = False) -> Layout:
    """Return the layout of a file that names no speakers; empty if there is no convention."""
    if num_channels == 1:
        return ("C",)
    return (_VORBIS_ORDERS if is_ogg else _WAVE_ORDERS).get(num_channels, ())


def mask_layout(mask: int, num_channels: int) -> Layout | None:
    """Read a mask of WAVE or FLAC: a bit for each speaker, channels in the order of the bits.

    Returns:
        None where the mask is 0, which names no speakers; else a layout, shorter than the channels
        where the mask has fewer bits. Bits beyond the channels mean nothing, says Microsoft.
    """
    if mask == 0:
        return None
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return tuple(
        _MASK_SPEAKERS[bit] if bit < len(_MASK_SPEAKERS) else f"bit {bit}"
        for bit in bits[:num_channels]
    )


def apple_layout(chunk: bytes, num_channels: int) -> Layout | None:
    """Read the chunk `chan` of CAF, or `CHAN` of AIFF.

    Returns:
        None where it names no speakers.
    """
    tag, mask, num_described = (int.from_bytes(chunk[at : at + 4], "big") for at in (0, 4, 8))
    name = tag >> 16
    if tag == _APPLE_USE_DESCRIPTIONS:
        labels = [
            int.from_bytes(chunk[12 + 20 * index : 16 + 20 * index], "big")
            for index in range(min(num_described, num_channels))
        ]
        return tuple(_APPLE_SPEAKERS.get(label, f"label {label}") for label in labels) or None
    if name == _APPLE_USE_MASK:
        return mask_layout(mask, num_channels)
    if name in _APPLE_NO_SPEAKERS:
        return None
    return _APPLE_LAYOUTS.get(name) or tuple(f"{name}.{n}" for n in range(num_channels))


def stream_layout(file: BinaryIO, num_channels: int) -> Layout | None:
    """Read the speakers that a FLAC or Opus file names.

    Returns:
        None where it names none, or is neither.

    Raises:
        OSError: the file cannot be read.
    """
    file.seek(0)
    head = file.read(_OGG_HEAD_BYTES)
    if head[:3] == b"ID3":
        file.seek(10 + sum((byte & 0x7F) << 7 * (3 - at) for at, byte in enumerate(head[6:10])))
        head = file.read(4)
    if head[:4] == b"fLaC":
        file.seek(file.tell() - len(head) + 4)
        return _flac_layout(file, num_channels)
    at = head.find(b"OpusHead")
    # Mapping families 0 and 1 have Vorbis's order; others are Ambisonics, or no speakers at all.
    if at < 0 or len(head) < at + 19 or head[at + 18] in (0, 1):
        return None
    return tuple(f"Opus family {head[at + 18]}" for _ in range(num_channels))


def unknown_speakers(layout: Layout) -> list[str]:
    """List the speakers of a layout that the mix down has no place for, each once."""
    return [speaker for speaker in dict.fromkeys(layout) if speaker not in _GAINS]


def downmix_gains(layout: Layout) -> NDArray[np.float32]:
    """Return the gains that bring the channels of a layout to stereo.

    One channel goes to both sides as it is. Full-scale surround can exceed +-1 after it: as
    float32 nothing is lost.

    Returns:
        gains_CN.

    Source: ITU-R BS.775, equations for mixing down to 2/0 (a rear centre at half).
    """
    if len(layout) == 1:
        return np.ones((2, 1), np.float32)
    return np.array([_GAINS[speaker] for speaker in layout], np.float32).T


def _flac_layout(file: BinaryIO, num_channels: int) -> Layout | None:
    """Look for a mask among the comments of a FLAC file, whose metadata begins here."""
    is_last = False
    while not is_last and len(header := file.read(4)) == 4:
        is_last, kind = bool(header[0] & 0x80), header[0] & 0x7F
        size = int.from_bytes(header[1:], "big")
        if kind != _FLAC_COMMENTS:
            file.seek(size, os.SEEK_CUR)
            continue
        found = _FLAC_MASK.search(file.read(size))
        return mask_layout(int(found[1], 16), num_channels) if found else None
    return None
