"""Settings in words, as an engineer would say them."""

from collections.abc import Iterator

from mixprint.console.bands import active_bands
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.text import printable

# What is less than this is not said.
_SAID_DB = 0.05
_SAID = 0.005
_SAID_SLOPE = 0.05
_SAID_SEND_DB = -40.0


def in_words(settings: Settings) -> dict[str, list[str]]:
    """Say what settings do.

    Returns:
        track, and `master` -> phrases, in the order in which the sound passes; none where nothing
        is done.
    """
    return {name: list(_phrases(strip, name)) for name, strip in settings.strips().items()}


def markdown(settings: Settings) -> str:
    """Return settings in words as a Markdown sheet."""
    lines = ["# Mix settings", ""]
    for name, phrases in in_words(settings).items():
        lines += [
            f"## {printable(name)}",
            "",
            *(f"- {phrase}" for phrase in phrases or ["nothing"]),
            "",
        ]
    kind = {
        "inserts": "Each track has a room of its own, before width and fader.",
        "sends": "Rooms are shared, and fed behind the faders.",
    }
    lines.append(kind[settings.rooms])
    return "\n".join(lines) + "\n"


def _phrases(strip: Strip, name: str) -> Iterator[str]:
    if name != MASTER and abs(strip["trim_db"]) >= _SAID_DB:
        yield f"brought to its working level by {_db(strip['trim_db'])}"
    yield from _tone(strip)
    if name != MASTER:
        yield from _drive(strip)
    yield from _dynamics(strip)
    if name == MASTER:
        if abs(strip["output_db"]) >= _SAID_DB:
            yield f"output at {_db(strip['output_db'])}"
        return
    yield from _room(strip)
    yield from _place(strip)


def _tone(strip: Strip) -> Iterator[str]:
    for band in active_bands(strip):
        if band.kind in ("highpass", "lowpass"):
            yield f"cut {'below' if band.kind == 'highpass' else 'above'} {hz_text(band.freq_hz)}"
        elif abs(band.gain_db) < _SAID_DB:
            continue
        elif band.kind == "bell":
            yield f"{_db(band.gain_db)} at {hz_text(band.freq_hz)}, Q {band.q:.1f}"
        else:
            where = "below" if band.kind == "low" else "above"
            yield f"{_db(band.gain_db)} shelf {where} {hz_text(band.freq_hz)}"


def _drive(strip: Strip) -> Iterator[str]:
    if strip["drive.mix"] >= _SAID:
        share = 100 * strip["drive.mix"]
        yield f"saturated with {_db(strip['drive.drive_db'])}, {share:.0f} % of it"


def _dynamics(strip: Strip) -> Iterator[str]:
    slope = strip["comp.slope"]
    if abs(slope) < _SAID_SLOPE:
        return
    what = "compressed" if slope > 0 else "expanded"
    yield (
        f"{what} {ratio(slope)} above {strip['comp.threshold_db']:.1f} dBFS, attack "
        f"{strip['comp.attack_ms']:.3g} ms, release {strip['comp.release_ms']:.3g} ms, knee "
        f"{strip['comp.knee_db']:.1f} dB"
    )


def ratio(slope: float) -> str:
    """Return the ratio of a compressor's slope, as its front has it: 3.0:1, or 1:1.5."""
    return f"{1 / (1 - slope):.1f}:1" if slope >= 0 else f"1:{1 - slope:.1f}"


def _room(strip: Strip) -> Iterator[str]:
    if strip["room.send_db"] < _SAID_SEND_DB:
        return
    phrase = f"in a room of {strip['room.time_s']:.2g} s, sent at {_db(strip['room.send_db'])}"
    for band, where in (("low", "below 300 Hz"), ("high", "above 4 kHz")):
        factor = strip[f"room.{band}_ratio"]
        if abs(factor - 1) >= _SAID:
            phrase += f", {factor * strip['room.time_s']:.2g} s {where}"
    yield phrase


def _place(strip: Strip) -> Iterator[str]:
    width, pan = strip["width"], strip["pan"]
    if width < _SAID:
        yield "mono"
    elif abs(width - 1) >= _SAID:
        yield f"width {100 * width:.0f} %"
    if abs(pan) >= _SAID:
        yield f"{100 * abs(pan):.0f} % to the {'right' if pan > 0 else 'left'}"
    if abs(strip["fader_db"]) >= _SAID_DB:
        yield f"fader at {_db(strip['fader_db'])}"


def _db(value: float) -> str:
    return f"{value:+.1f} dB"


def hz_text(value: float) -> str:
    """Return a frequency as it is said: 80 Hz, 2.5 kHz."""
    return f"{value / 1_000:.3g} kHz" if value >= 1_000 else f"{value:.0f} Hz"
