"""Bands of a strip's equaliser, as filters with a frequency, a gain and a Q."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mixprint.console.schema import Field
from mixprint.console.settings import Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q

Kind = Literal["highpass", "lowpass", "low", "high", "bell"]
CUTS: Mapping[str, Kind] = {"eq.highpass_hz": "highpass", "eq.lowpass_hz": "lowpass"}
_SHELVES: Mapping[str, Kind] = {"eq.low": "low", "eq.high": "high"}


@dataclass(frozen=True)
class Band:
    """A filter of an equaliser.

    Attributes:
        kind: its form: a cut of second order, a shelf or a bell.
        freq_hz: corner, or centre of a bell.
        gain_db: of shelves and bells; 0 for cuts.
        q: that of the audio EQ cookbook.
        field: beginning of the names of its settings, such as `eq.bell1`.
    """

    kind: Kind
    freq_hz: float
    gain_db: float
    q: float
    field: str = ""


def active_bands(strip: Strip) -> list[Band]:
    """Return the bands that do something, in the order of the console: cuts, then the tone."""
    bells = bell_names(strip.fields)
    bands = []
    for name, kind in band_kinds(strip.fields).items():
        if name in CUTS:
            if not strip.is_neutral(name):
                bands.append(Band(kind, strip[name], 0.0, BUTTERWORTH_Q, name))
        elif not strip.is_neutral(f"{name}.gain_db"):
            q = strip[f"{name}.q"] if name in bells else BUTTERWORTH_Q
            freq_hz, gain_db = strip[f"{name}.freq_hz"], strip[f"{name}.gain_db"]
            bands.append(Band(kind, freq_hz, gain_db, q, name))
    return bands


def band_kinds(fields: tuple[Field, ...]) -> dict[str, Kind]:
    """Return the bands of a table, in the order of the console: cuts, then the tone.

    Returns:
        beginning of the names of its settings -> its form; of a cut it is the whole name.
    """
    cuts = {each.name: CUTS[each.name] for each in fields if each.name in CUTS}
    return {**cuts, **{name: _SHELVES.get(name, "bell") for name in tone_names(fields)}}


def tone_names(fields: tuple[Field, ...]) -> list[str]:
    """List the shelves and bells of a table, such as `eq.low`, from low to high."""
    return [f.name.removesuffix(".gain_db") for f in fields if f.name.endswith(".gain_db")]


def bell_names(fields: tuple[Field, ...]) -> list[str]:
    """List the bells of a table, such as `eq.bell1`."""
    return [f.name.removesuffix(".q") for f in fields if f.name.endswith(".q")]
