"""The console as plug-ins for REAPER: JSFX, which are text that REAPER compiles.

A strip for each track and a master for the sum. They compute what `mixprint.console.rendering`
does, in float64, so that a project sounds as the console does. Their sliders are the settings, and
their code is in `eel/`.

Both look ahead, which REAPER compensates: a strip by `STRIP_DELAY_SAMPLES`, the master by
`MASTER_DELAY_SAMPLES`.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, VERSION, Field
from mixprint.console.settings import Rooms, Strip
from mixprint.schema import read_text

# A change of the settings is another plug-in: projects that were written before keep theirs.
STRIP_NAME = f"mixprint/strip-v{VERSION}.jsfx"
MASTER_NAME = f"mixprint/master-v{VERSION}.jsfx"
STRIP_DELAY_SAMPLES = 128
MASTER_DELAY_SAMPLES = 64

_EEL = Path(__file__).parent / "eel"
_HINTS = {"comp.slope": "0.5 is 2:1, 0.75 is 4:1, below 0 expands"}
_WORDS = {"eq": "EQ", "comp": "Compressor"}
# The whole console feeds its rooms in one way, and each strip has to know which.
_ROOM_SLIDER = "slider{place}:room_is_last=0<0,1,1{{before the fader,behind the fader}}>Room"


def plug_ins() -> dict[str, str]:
    """Return the text of each plug-in, by its name below REAPER's folder `Effects`."""
    place = _ROOM_SLIDER.format(place=len(TRACK_FIELDS) + 1)
    return {
        STRIP_NAME: _filled("strip.jsfx", [*slider_lines(TRACK_FIELDS), place]),
        MASTER_NAME: _filled("master.jsfx", slider_lines(MASTER_FIELDS)),
    }


def slider_lines(fields: Sequence[Field]) -> list[str]:
    """Return the declarations of sliders for settings, in their order."""
    return [_slider(place, each) for place, each in enumerate(fields, start=1)]


def slider_values(strip: Strip, rooms: Rooms | None = None) -> list[str]:
    """Return the values of the sliders as a project holds them: exact, without exponents.

    Args:
        strip: of a track, or the master.
        rooms: how the rooms of the console are fed; None for the master.
    """
    values = list(strip.values) if rooms is None else [*strip.values, float(rooms == "sends")]
    return [plain(value) for value in values]


def plain(value: float) -> str:
    """Return a number as exact as its shortest form, and without an exponent."""
    text = format(Decimal(repr(float(value))), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _slider(place: int, field: Field) -> str:
    variable = field.name.replace(".", "_")
    step = 10.0 ** (math.floor(math.log10(field.high - field.low)) - 4)
    shape = ":log" if field.scale == "log" else ""
    bounds = f"{plain(field.low)},{plain(field.high)},{plain(step)}{shape}"
    return f"slider{place}:{variable}={plain(field.neutral)}<{bounds}>{_label(field)}"


def _label(field: Field) -> str:
    suffix = f"_{field.unit.lower().removesuffix('fs')}"
    words = dict.fromkeys(field.name.removesuffix(suffix).replace("_", ".").split("."))
    text = " ".join(_WORDS.get(word, word) for word in words)
    unit = "" if field.unit == "1" else f" ({field.unit})"
    hint = f" ({_HINTS[field.name]})" if field.name in _HINTS else ""
    return f"{text[0].upper()}{text[1:]}{unit}{hint}"


def _filled(name: str, sliders: Sequence[str]) -> str:
    text = read_text(_EEL / name)
    parts = {"sliders": "\n".join(sliders) + "\n"}
    parts |= {part: read_text(_EEL / f"{part}.eel") for part in ("common", "room")}
    for part, content in parts.items():
        text = text.replace(f"//{{{part}}}\n", content)
    return text
