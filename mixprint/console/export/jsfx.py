"""The console as plug-ins for REAPER: JSFX, which are text that REAPER compiles.

A strip for each track, a room for each track that tracks are sent to, and a master for the sum.
They compute what `mixprint.console.rendering` does, in float64, so that a project sounds as the
console does. Their sliders are the settings, and their code is in `eel/`.

Strip and master look ahead, which REAPER compensates: by `STRIP_DELAY_SAMPLES` and
`MASTER_DELAY_SAMPLES`.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from mixprint.console.bands import band_kinds
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, VERSION, Field
from mixprint.console.settings import ROOM_SHAPE, Rooms, Strip
from mixprint.schema import read_text

# A change of the settings is another plug-in: projects that were written before keep theirs.
STRIP_NAME = f"mixprint/strip-v{VERSION}.jsfx"
ROOM_NAME = f"mixprint/room-v{VERSION}.jsfx"
MASTER_NAME = f"mixprint/master-v{VERSION}.jsfx"
STRIP_DELAY_SAMPLES = 128
MASTER_DELAY_SAMPLES = 64

_EEL = Path(__file__).parent / "eel"
# Numbers that a section takes in the plug-ins' memory.
_SECTION_SIZE = 16
_HINTS = {"comp.slope": "0.5 is 2:1, 0.75 is 4:1, below 0 expands"}
_WORDS = {"eq": "EQ", "comp": "Compressor"}
ROOM_FIELDS = tuple(each for each in TRACK_FIELDS if each.name in ROOM_SHAPE)
# The whole console feeds its rooms in one way, and each strip has to know which.
_ROOM_SLIDER = "slider{place}:room_is_last=0<0,1,1{{before the fader,behind the fader}}>Room"


def plug_ins() -> dict[str, str]:
    """Return the text of each plug-in, by its name below REAPER's folder `Effects`."""
    place = _ROOM_SLIDER.format(place=len(TRACK_FIELDS) + 1)
    return {
        STRIP_NAME: _filled("strip.jsfx", TRACK_FIELDS, place),
        ROOM_NAME: _filled("room.jsfx", ROOM_FIELDS),
        MASTER_NAME: _filled("master.jsfx", MASTER_FIELDS),
    }


def slider_lines(fields: Sequence[Field]) -> list[str]:
    """Return the declarations of sliders for settings, in their order."""
    return [_slider(place, each) for place, each in enumerate(fields, start=1)]


def slider_values(strip: Strip, rooms: Rooms | None = None) -> list[str]:
    """Return the values of the sliders as a project holds them: exact, without exponents.

    Args:
        strip: of a track, a room, or the master.
        rooms: how the rooms of the console are fed; None for all but tracks.
    """
    values = list(strip.values) if rooms is None else [*strip.values, float(rooms == "sends")]
    return [plain(value) for value in values]


def plain(value: float) -> str:
    """Return a number as exact as its shortest form, and without an exponent."""
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _slider(place: int, field: Field) -> str:
    variable = _variable(field.name)
    step = 10.0 ** (math.floor(math.log10(field.high - field.low)) - 4)
    shape = ":log" if field.scale == "log" else ""
    bounds = f"{plain(field.low)},{plain(field.high)},{plain(step)}{shape}"
    return f"slider{place}:{variable}={plain(field.neutral)}<{bounds}>{_label(field)}"


def _variable(name: str) -> str:
    return name.replace(".", "_")


def _section_lines(fields: tuple[Field, ...]) -> list[str]:
    """Return the calls that design the sections of an equaliser, in the order of the console."""
    known = {each.name: each for each in fields}
    lines = []
    for place, (name, kind) in enumerate(band_kinds(fields).items()):
        start, own = f"sections + {_SECTION_SIZE * place}", _variable(name)
        if kind in ("highpass", "lowpass"):
            side, direction = (">", -1) if kind == "highpass" else ("<", 1)
            is_on = f"{own} {side} {plain(known[name].neutral)}"
            lines.append(f"section_cut({start}, {own}, {is_on}, {direction});")
        elif kind == "bell":
            lines.append(f"section_bell({start}, {own}_freq_hz, {own}_gain_db, {own}_q);")
        else:
            direction = 1 if kind == "low" else -1
            lines.append(f"section_shelf({start}, {own}_freq_hz, {own}_gain_db, {direction});")
    return [f"num_sections = {len(lines)};", *lines]


def _label(field: Field) -> str:
    suffix = f"_{field.unit.lower().removesuffix('fs')}"
    words = dict.fromkeys(field.name.removesuffix(suffix).replace("_", ".").split("."))
    text = " ".join(_WORDS.get(word, word) for word in words)
    unit = "" if field.unit == "1" else f" ({field.unit})"
    hint = f" ({_HINTS[field.name]})" if field.name in _HINTS else ""
    return f"{text[0].upper()}{text[1:]}{unit}{hint}"


def _filled(name: str, fields: tuple[Field, ...], *more_sliders: str) -> str:
    text = read_text(_EEL / name)
    filled = {
        "sliders": [*slider_lines(fields), *more_sliders],
        "sections": _section_lines(fields),
    }
    parts = {part: "\n".join(lines) + "\n" for part, lines in filled.items()}
    parts |= {part: read_text(_EEL / f"{part}.eel") for part in ("common", "room")}
    for part, content in parts.items():
        text = text.replace(f"//{{{part}}}\n", content)
    return text
