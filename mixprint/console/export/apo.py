"""Equalisers as text for Equalizer APO, which many other equalisers read, too.

A file per track: level and equaliser, nothing else. Its filters are those of the audio EQ cookbook,
as the console's; the forms that it is written in are those of its configuration reference.

    Preamp: -2.50 dB
    Filter 1: ON HPQ Fc 80.00 Hz Q 0.7071
    Filter 2: ON LSC Fc 120.00 Hz Gain 3.00 dB Q 0.7071
    Filter 3: ON PK Fc 250.00 Hz Gain -2.00 dB Q 1.0000
"""

from collections.abc import Iterator

from mixprint.console.bands import Kind, active_bands
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.text import printable

HEADING = "# mixprint: "
_KINDS: dict[Kind, str] = {
    "highpass": "HPQ",
    "lowpass": "LPQ",
    "low": "LSC",
    "high": "HSC",
    "bell": "PK",
}


def to_apo(settings: Settings) -> dict[str, str]:
    """Return the text of each track, and of the master."""
    return {name: _text(strip, name) for name, strip in settings.strips().items()}


def apo_heading(name: str) -> str:
    """Return the comment that names a track, for its name may be no file's."""
    return f"{HEADING}{printable(name)}\n"


def _text(strip: Strip, name: str) -> str:
    level_db = strip["output_db"] if name == MASTER else strip["trim_db"] + strip["fader_db"]
    lines = [f"Preamp: {level_db:.2f} dB"]
    lines += [f"Filter {n}: ON {each}" for n, each in enumerate(_filters(strip), start=1)]
    return "\n".join(lines) + "\n"


def _filters(strip: Strip) -> Iterator[str]:
    for band in active_bands(strip):
        gain = f" Gain {band.gain_db:.2f} dB" if band.kind in ("low", "high", "bell") else ""
        yield f"{_KINDS[band.kind]} Fc {band.freq_hz:.2f} Hz{gain} Q {band.q:.4f}"
