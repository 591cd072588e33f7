"""Settings in words, as an engineer would say them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mixprint.console.bands import active_bands
from mixprint.console.schema import MASTER
from mixprint.console.settings import HEARD_SEND_DB, HEARD_TIME_SEND_DB, Settings, Strip
from mixprint.console.spread import Spread
from mixprint.text import printable

# What is less than this is not said.
_SAID_DB = 0.05
_SAID = 0.005
_SAID_SLOPE = 0.05


def in_words(settings: Settings, spread: Spread | None = None) -> dict[str, list[str]]:
    """Say what settings do.

    Args:
        settings: the settings.
        spread: how sure a prediction of them is; where it is known, `+-` and a standard deviation
            follow a value, or what that spans where the scale is logarithmic.

    Returns:
        track, and `master` -> phrases, in the order in which the sound passes; none where nothing
        is done.
    """
    spreads = {} if spread is None else spread.of(settings)
    return {
        name: list(_phrases(_Said(strip, spreads.get(name, {})), name))
        for name, strip in settings.strips().items()
    }


def markdown(
    settings: Settings, spread: Spread | None = None, notes: Mapping[str, Sequence[str]] = {}
) -> str:
    """Return settings in words as a Markdown sheet.

    Args:
        settings: the settings.
        spread: see `in_words`.
        notes: heading -> sentences that follow the settings.
    """
    lines = ["# Mix settings", ""]
    for name, phrases in in_words(settings, spread).items():
        lines += _section(name, phrases or ["nothing"])
    for heading, sentences in notes.items():
        lines += _section(heading, sentences)
    kind = {
        "inserts": "Each track has a room of its own, before width and fader.",
        "sends": "Rooms are shared, and fed behind the faders.",
    }
    lines.append(kind[settings.rooms])
    return "\n".join(lines) + "\n"


def _section(heading: str, items: Sequence[str]) -> list[str]:
    return [f"## {printable(heading)}", "", *(f"- {printable(item)}" for item in items), ""]


@dataclass(frozen=True)
class _Said:
    """A strip, and how sure its values are."""

    strip: Strip
    spread: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.strip[name]

    def within(self, name: str, digits: int = 1, factor: float = 1.0) -> str:
        """Return the spread of a value, as it follows it; empty where it is not known."""
        if name not in self.spread:
            return ""
        return f" +-{factor * self.spread[name]:.{digits}f}"

    def span(self, name: str, text: Callable[[float], str]) -> str:
        """Return what a deviation spans on a logarithmic scale, where the spread is half of it."""
        if name not in self.spread:
            return ""
        field = self.strip.field(name)
        factor = math.exp(math.asinh(self.spread[name] / self[name]))
        low, high = (field.held(self[name] * f) for f in (1 / factor, factor))
        return f" ({text(low)} to {text(high)})"

    def db(self, name: str) -> str:
        """Return a level with its spread."""
        return f"{self[name]:+.1f} dB{self.within(name)}"


def _phrases(said: _Said, name: str) -> Iterator[str]:
    if name != MASTER and abs(said["trim_db"]) >= _SAID_DB:
        yield f"brought to its working level by {said.db('trim_db')}"
    yield from _tone(said)
    if name != MASTER:
        yield from _drive(said)
    yield from _dynamics(said)
    if name == MASTER:
        if abs(said["output_db"]) >= _SAID_DB:
            yield f"output at {said.db('output_db')}"
        return
    yield from _room(said)
    yield from _place(said)


def _tone(said: _Said) -> Iterator[str]:
    for band in active_bands(said.strip):
        gain = f"{band.field}.gain_db"
        if band.kind in ("highpass", "lowpass"):
            where = "below" if band.kind == "highpass" else "above"
            yield f"cut {where} {hz_text(band.freq_hz)}{said.span(band.field, hz_text)}"
        elif abs(band.gain_db) < _SAID_DB:
            continue
        elif band.kind == "bell":
            yield f"{said.db(gain)} at {hz_text(band.freq_hz)}, Q {band.q:.1f}"
        else:
            where = "below" if band.kind == "low" else "above"
            yield f"{said.db(gain)} shelf {where} {hz_text(band.freq_hz)}"


def _drive(said: _Said) -> Iterator[str]:
    if said["drive.mix"] >= _SAID:
        share = f"{100 * said['drive.mix']:.0f} %{said.within('drive.mix', 0, 100)}"
        yield f"saturated with {said.db('drive.drive_db')}, {share} of it"


def _dynamics(said: _Said) -> Iterator[str]:
    slope = said["comp.slope"]
    if abs(slope) < _SAID_SLOPE:
        return
    what = "compressed" if slope > 0 else "expanded"
    threshold = f"{said['comp.threshold_db']:.1f} dBFS{said.within('comp.threshold_db')}"
    yield (
        f"{what} {ratio(slope)}{_ratios(said)} above {threshold}, attack "
        f"{said['comp.attack_ms']:.3g} ms, release {said['comp.release_ms']:.3g} ms, knee "
        f"{said['comp.knee_db']:.1f} dB"
    )


def _ratios(said: _Said) -> str:
    """Return the ratios that one deviation spans: a slope is nothing that a front shows."""
    if (spread := said.spread.get("comp.slope")) is None:
        return ""
    field = said.strip.field("comp.slope")
    low, high = (field.off_scale(said["comp.slope"] + sign * spread) for sign in (-1, 1))
    return f" ({ratio(low)} to {ratio(high)})"


def ratio(slope: float) -> str:
    """Return the ratio of a compressor's slope, as its front has it: 3.0:1, or 1:1.5."""
    return f"{1 / (1 - slope):.1f}:1" if slope >= 0 else f"1:{1 - slope:.1f}"


def _room(said: _Said) -> Iterator[str]:
    if said["room.send_db"] < HEARD_SEND_DB:
        return
    sent = f"sent at {said.db('room.send_db')}"
    if said["room.send_db"] < HEARD_TIME_SEND_DB:
        yield f"faintly in a room, {sent}"
        return
    time = f"{said['room.time_s']:.2g} s{said.span('room.time_s', '{:.2g} s'.format)}"
    phrase = f"in a room of {time}, {sent}"
    for band, where in (("low", "below 300 Hz"), ("high", "above 4 kHz")):
        factor = said[f"room.{band}_ratio"]
        if abs(factor - 1) >= _SAID:
            phrase += f", {factor * said['room.time_s']:.2g} s {where}"
    yield phrase


def _place(said: _Said) -> Iterator[str]:
    width, pan = said["width"], said["pan"]
    if width < _SAID:
        yield "mono"
    elif abs(width - 1) >= _SAID:
        yield f"width {100 * width:.0f} %{said.within('width', 0, 100)}"
    if abs(pan) >= _SAID:
        share = f"{100 * abs(pan):.0f} %{said.within('pan', 0, 100)}"
        yield f"{share} to the {'right' if pan > 0 else 'left'}"
    if abs(said["fader_db"]) >= _SAID_DB:
        yield f"fader at {said.db('fader_db')}"


def hz_text(value: float) -> str:
    """Return a frequency as it is said: 80 Hz, 2.5 kHz."""
    return f"{value / 1_000:.3g} kHz" if value >= 1_000 else f"{value:.0f} Hz"
