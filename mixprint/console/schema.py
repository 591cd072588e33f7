"""Table of the console's settings: names, units, ranges and what is neutral.

One frozen table for a track and one for the master; everything else that knows settings (vectors
for fitting, JSON, words, pages, exports) is generated from them. A change of a table is another
`VERSION`, and files of other versions are refused.

A track passes, in this order: trim, equaliser, drive, compressor, room, width, fader and pan. The
master passes: equaliser, compressor (its gain curve follows the sum and is applied to every track,
so that tracks still add up), output.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log"]
# What `amount` does to a setting. `span`: it multiplies its distance from neutral, on its scale.
# `gain`: it multiplies the amplitude of a level in dB. `kept`: nothing, for the setting only says
# where or how something is done.
Scaling = Literal["span", "gain", "kept"]

VERSION = 1
MASTER = "master"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A setting.

    Attributes:
        name: with dots, as files and commands write it.
        unit: of the value; `1` for plain numbers.
        low: lowest value.
        high: highest value.
        neutral: value in the identity.
        scale: on which values are averaged and fitted.
        scaling: what `amount` does to it.
        weighed_by: setting that says how much this one is heard: where it is neutral, this one does
            nothing. Empty for those that are heard by themselves.
        is_fitted: whether a fit moves it unless asked not to.
    """

    name: str
    unit: str
    low: float
    high: float
    neutral: float
    scale: Scale = "linear"
    scaling: Scaling = "span"
    weighed_by: str = ""
    is_fitted: bool = True

    @property
    def group(self) -> str:
        """First part of the name: what is locked together."""
        return self.name.partition(".")[0].removesuffix("_db")

    @property
    def range_text(self) -> str:
        """Its range with its unit, for messages."""
        return f"{self.low:g} to {self.high:g} {self.unit}".removesuffix(" 1")

    def on_scale(self, value: float) -> float:
        """Return a value as it is averaged and fitted."""
        return math.log(value) if self.scale == "log" else value

    def off_scale(self, number: float) -> float:
        """Return the value of a number on the scale, held within the range."""
        return self.held(math.exp(number) if self.scale == "log" else number)

    def held(self, value: float) -> float:
        """Return a value held within the range."""
        return min(max(value, self.low), self.high)

    def position(self, value: float) -> float:
        """Return where a value lies in the range, 0 to 1 on the setting's scale."""
        low, high = self.on_scale(self.low), self.on_scale(self.high)
        return (self.on_scale(value) - low) / (high - low)

    def scaled(self, value: float, amount: float) -> float:
        """Return the value at an amount, held within the range: 0 is neutral, 1 the value."""
        if amount == 1.0 or self.scaling == "kept" or value == self.neutral:
            return value
        if amount == 0.0:
            return self.neutral
        if self.scaling == "gain":
            return self.off_scale(value + 20.0 * math.log10(amount))
        neutral = self.on_scale(self.neutral)
        return self.off_scale(neutral + amount * (self.on_scale(value) - neutral))


def _shelf(name: str, low_hz: float, neutral_hz: float, high_hz: float) -> tuple[Field, ...]:
    gain = f"{name}.gain_db"
    return (
        Field(name=gain, unit="dB", low=-15.0, high=15.0, neutral=0.0),
        Field(
            name=f"{name}.freq_hz",
            unit="Hz",
            low=low_hz,
            high=high_hz,
            neutral=neutral_hz,
            scale="log",
            scaling="kept",
            weighed_by=gain,
        ),
    )


def _bell(name: str, low_hz: float, neutral_hz: float, high_hz: float) -> tuple[Field, ...]:
    return (
        *_shelf(name, low_hz, neutral_hz, high_hz),
        Field(
            name=f"{name}.q",
            unit="1",
            low=0.3,
            high=8.0,
            neutral=1.0,
            scale="log",
            scaling="kept",
            weighed_by=f"{name}.gain_db",
        ),
    )


def _compressor() -> tuple[Field, ...]:
    """Return the fields of a compressor; below a slope of 0 it expands, to undo compression."""
    slope = "comp.slope"

    def shape(name: str, unit: str, low: float, neutral: float, high: float, scale: Scale) -> Field:
        return Field(
            name=f"comp.{name}",
            unit=unit,
            low=low,
            high=high,
            neutral=neutral,
            scale=scale,
            scaling="kept",
            weighed_by=slope,
        )

    return (
        shape("threshold_db", "dBFS", -60.0, -20.0, 0.0, "linear"),
        Field(name=slope, unit="1", low=-1.0, high=0.95, neutral=0.0),
        shape("attack_ms", "ms", 0.5, 10.0, 200.0, "log"),
        shape("release_ms", "ms", 10.0, 150.0, 2000.0, "log"),
        shape("knee_db", "dB", 0.0, 6.0, 24.0, "linear"),
    )


def _room_shape(
    name: str, unit: str, low: float, neutral: float, high: float, *, is_fitted: bool = True
) -> Field:
    return Field(
        name=f"room.{name}",
        unit=unit,
        low=low,
        high=high,
        neutral=neutral,
        scale="log",
        scaling="kept",
        weighed_by="room.send_db",
        is_fitted=is_fitted,
    )


TRACK_FIELDS = (
    Field(
        name="trim_db",
        unit="dB",
        low=-60.0,
        high=60.0,
        neutral=0.0,
        scaling="kept",
        is_fitted=False,
    ),
    Field(name="eq.highpass_hz", unit="Hz", low=10.0, high=1_000.0, neutral=10.0, scale="log"),
    Field(
        name="eq.lowpass_hz", unit="Hz", low=1_000.0, high=20_000.0, neutral=20_000.0, scale="log"
    ),
    *_shelf("eq.low", 30.0, 120.0, 500.0),
    *_bell("eq.bell1", 60.0, 250.0, 1_000.0),
    *_bell("eq.bell2", 300.0, 1_200.0, 6_000.0),
    *_bell("eq.bell3", 2_000.0, 4_000.0, 16_000.0),
    *_shelf("eq.high", 1_500.0, 6_000.0, 16_000.0),
    *_compressor(),
    Field(
        name="drive.drive_db",
        unit="dB",
        low=0.0,
        high=24.0,
        neutral=0.0,
        scaling="kept",
        weighed_by="drive.mix",
    ),
    Field(name="drive.mix", unit="1", low=0.0, high=1.0, neutral=0.0),
    Field(name="room.send_db", unit="dB", low=-60.0, high=6.0, neutral=-60.0, scaling="gain"),
    _room_shape("time_s", "s", 0.15, 1.0, 6.0),
    _room_shape("low_ratio", "1", 0.25, 1.0, 4.0, is_fitted=False),
    _room_shape("high_ratio", "1", 0.1, 1.0, 2.0, is_fitted=False),
    Field(name="width", unit="1", low=0.0, high=2.5, neutral=1.0),
    Field(name="pan", unit="1", low=-1.0, high=1.0, neutral=0.0),
    Field(name="fader_db", unit="dB", low=-60.0, high=24.0, neutral=0.0),
)
TRACK_FIELDS_BY_NAME: Mapping[str, Field] = {each.name: each for each in TRACK_FIELDS}
MASTER_FIELDS = (
    *_shelf("eq.low", 30.0, 120.0, 500.0),
    *_bell("eq.bell1", 60.0, 400.0, 2_000.0),
    *_bell("eq.bell2", 1_000.0, 3_000.0, 12_000.0),
    *_shelf("eq.high", 1_500.0, 8_000.0, 16_000.0),
    *_compressor(),
    Field(name="output_db", unit="dB", low=-60.0, high=24.0, neutral=0.0),
)
