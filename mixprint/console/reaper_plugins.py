"""State of REAPER's own plug-ins, as its projects hold it: ReaEQ, ReaComp and ReaVerbate.

The layouts come from public readers of projects, and were not tried in REAPER. A state is text in
base64: a container (the plug-in's number, what it is connected to, the length of the state), the
state itself, and the name of its preset.
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixprint.console.bands import Kind
from mixprint.console.rpp import Line
from mixprint.dsp.decibels import amplitude
from mixprint.errors import DataError

_LINE_LENGTH = 128
_OPAQUE, _REGULAR = 0xFEED5EEE, 0xFEED5EEF
_PROGRAM = b"\0\0\x10\0\0\0"
_MAGIC = struct.pack("<II", 0xDEADBEEF, 0xDEADF00D)
_MAX_PINS = 64

_KINDS: dict[int, Kind] = {
    0: "low",
    1: "high",
    8: "bell",
    2: "bell",
    9: "bell",
    3: "lowpass",
    4: "highpass",
}
_KIND_NUMBERS: dict[Kind, int] = {
    "low": 0,
    "high": 1,
    "bell": 8,
    "lowpass": 3,
    "highpass": 4,
}
_BAND = struct.Struct("<iidddb")


@dataclass(frozen=True)
class Plugin:
    """One of REAPER's plug-ins.

    Attributes:
        name: as REAPER shows it.
        file: of the plug-in.
        number: that identifies it.
        tag: the same for VST3-like hosts, as projects write it behind the number.
        magic: kind of the state.
        num_inputs: channels that it is connected to.
    """

    name: str
    file: str
    number: int
    tag: str
    magic: int
    num_inputs: int

    def block(self, state: bytes) -> Line:
        """Return the block of a project that holds a state."""
        masks = [1 << pin for pin in range(self.num_inputs)]
        header = struct.pack("<III", self.number, self.magic, self.num_inputs)
        header += struct.pack(f"<{self.num_inputs}Q", *masks)
        header += struct.pack("<I2Q", 2, 1, 2)
        header += struct.pack("<III", len(state), int(self.magic == _OPAQUE), 0x00100000)
        text = base64.b64encode(state).decode()
        cut = [text[start : start + _LINE_LENGTH] for start in range(0, len(text), _LINE_LENGTH)]
        lines = [_encoded(header), *cut, _encoded(_PROGRAM)]
        words = [f"VST: {self.name} (Cockos)", self.file, "0", "", f"{self.number}<{self.tag}>", ""]
        return Line("VST", words, [Line(each) for each in lines])

    def is_in(self, block: Line) -> bool:
        """Tell whether a block holds this plug-in's state."""
        return block.name == "VST" and block.word(4).partition("<")[0] == str(self.number)


REAEQ = Plugin("ReaEQ", "reaeq.dll", 1919247729, "56535472656571726561657100000000", _OPAQUE, 2)
REACOMP = Plugin(
    "ReaComp", "reacomp.dll", 1919247213, "5653547265636D726561636F6D700000", _REGULAR, 4
)
REAVERBATE = Plugin(
    "ReaVerbate", "reaverbate.dll", 1920361016, "56535472766238726561766572626174", _REGULAR, 2
)


@dataclass(frozen=True)
class ReaEqBand:
    """A band of ReaEQ.

    Attributes:
        kind: of filter.
        freq_hz: its frequency.
        gain_db: of shelves and bells.
        octaves: its bandwidth.
        is_on: whether it does anything.
    """

    kind: Kind
    freq_hz: float
    gain_db: float
    octaves: float
    is_on: bool = True


@dataclass(frozen=True)
class Compression:
    """Settings of ReaComp.

    Attributes:
        threshold_db: in dBFS.
        ratio: 1 or more.
        attack_ms: time of the attack.
        release_ms: time of the release.
        knee_db: width of the knee.
        rms_ms: length over which the level is averaged.
        wet_db: level of the compressed sound.
        dry: amplitude at which the sound itself is added.
        has_auto: whether make-up or release are automatic.
    """

    threshold_db: float
    ratio: float
    attack_ms: float
    release_ms: float
    knee_db: float
    rms_ms: float = 0.0
    wet_db: float = 0.0
    dry: float = 0.0
    has_auto: bool = False


def octaves(q: float) -> float:
    """Return the bandwidth of a Q."""
    return 2 / math.log(2) * math.asinh(1 / (2 * q))


def q_of(bandwidth_octaves: float) -> float:
    """Return the Q of a bandwidth."""
    return 1 / (2 * math.sinh(bandwidth_octaves * math.log(2) / 2))


def eq_block(bands: Sequence[ReaEqBand], level_db: float = 0.0) -> Line:
    """Return the block of a ReaEQ.

    Args:
        bands: of it.
        level_db: of its output.
    """
    state = struct.pack("<ii", 33, len(bands))
    for band in bands:
        gain = amplitude(band.gain_db)
        number = _KIND_NUMBERS[band.kind]
        state += _BAND.pack(number, band.is_on, band.freq_hz, gain, band.octaves, 1)
    # The size of its window stands at the end.
    state += struct.pack("<iidiii", 1, 1, amplitude(level_db), 0, 576, 363) + bytes((2, 0, 0, 0))
    return REAEQ.block(state)


def eq_bands(block: Line, where: str) -> tuple[list[ReaEqBand], float, list[str]]:
    """Read a ReaEQ.

    Returns:
        its bands, the level of its output in dB, and the kinds of band that are not known.

    Raises:
        DataError: its state is no such state.
    """
    state = _state(block, where)
    size, count = _unpacked("<ii", state, 0, where)
    if size != 33 or not 0 <= count <= 1_000 or len(state) < 8 + 33 * count:
        raise DataError(
            f"{where}: expected bands of 33 bytes in a state of their length, found {count} of "
            f"{size} in {len(state)} bytes"
        )
    bands, unknown = [], []
    for place in range(count):
        number, is_on, freq_hz, gain, width, _ = _BAND.unpack_from(state, 8 + 33 * place)
        if not all(map(math.isfinite, (freq_hz, gain, width))) or min(freq_hz, gain, width) <= 0:
            raise DataError(
                f"{where}, band {place + 1}: expected a frequency, a gain and a width above 0, "
                f"found {freq_hz:g}, {gain:g} and {width:g}"
            )
        if number in _KINDS:
            gain_db = 20 * math.log10(gain)
            bands.append(ReaEqBand(_KINDS[number], freq_hz, gain_db, width, bool(is_on)))
        elif is_on:
            unknown.append(f"band of kind {number} at {freq_hz:.0f} Hz")
    level = 1.0
    if len(state) >= 8 + 33 * count + 16:
        (level,) = _unpacked("<d", state, 8 + 33 * count + 8, where)
    level_db = 20 * math.log10(level) if math.isfinite(level) and level > 0 else 0.0
    return bands, level_db, unknown


def comp_block(comp: Compression) -> Line:
    """Return the block of a ReaComp."""
    values = [0.0] * 21
    values[0] = amplitude(comp.threshold_db)
    values[1] = (comp.ratio - 1) / 99
    values[2], values[3] = comp.attack_ms / 500, comp.release_ms / 5_000
    values[6], values[10], values[11] = 1.0, comp.dry, amplitude(comp.wet_db)
    values[13], values[14] = comp.rms_ms / 100, comp.knee_db / 24
    return REACOMP.block(_MAGIC + struct.pack("<21f", *values))


def comp_settings(block: Line, where: str) -> Compression:
    """Read a ReaComp.

    Raises:
        DataError: its state is no such state.
    """
    # Older versions wrote 19 numbers.
    values = _floats(block, where, 17)
    level, wet = max(values[0], 1e-6), max(values[11], 1e-6)
    return Compression(
        threshold_db=20 * math.log10(level),
        ratio=1 + 99 * values[1],
        attack_ms=500 * values[2],
        release_ms=5_000 * values[3],
        knee_db=24 * values[14],
        rms_ms=100 * values[13],
        wet_db=20 * math.log10(wet),
        dry=values[10],
        has_auto=values[15] > 0 or values[16] > 0,
    )


def room_block(wet: float, room: float, damp: float) -> Line:
    """Return the block of a ReaVerbate that leaves the sound itself as it is.

    Args:
        wet: amplitude of the reverberation.
        room: size, 0 to 1.
        damp: of high frequencies, 0 to 1.
    """
    return REAVERBATE.block(_MAGIC + struct.pack("<8f", wet, 1, room, damp, 1, 0, 1, 0))


def _floats(block: Line, where: str, count: int) -> tuple[float, ...]:
    state = _state(block, where)
    if not state.startswith(_MAGIC) or len(state) < len(_MAGIC) + 4 * count:
        raise DataError(f"{where}: expected a state of {count} numbers, found {len(state)} bytes")
    values = struct.unpack_from(f"<{count}f", state, len(_MAGIC))
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}: expected finite numbers, found {values}")
    return values


def _state(block: Line, where: str) -> bytes:
    """Read the state out of its container."""
    try:
        content = b"".join(base64.b64decode(each.name, validate=True) for each in block.inner or [])
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: expected a state in base64, found: {error}") from error
    place = 8
    for _ in range(2):
        (pins,) = _unpacked("<I", content, place, where)
        if pins > _MAX_PINS:
            raise DataError(f"{where}: expected at most {_MAX_PINS} channels, found {pins}")
        place += 4 + 8 * pins
    (length,) = _unpacked("<I", content, place, where)
    state = content[place + 12 : place + 12 + length]
    if len(state) < length:
        raise DataError(f"{where}: expected a state of {length} bytes, found {len(state)}")
    return state


def _unpacked(layout: str, content: bytes, place: int, where: str) -> tuple[Any, ...]:
    if len(content) < place + struct.calcsize(layout):
        raise DataError(f"{where}: expected a whole state, found {len(content)} bytes")
    return struct.unpack_from(layout, content, place)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
