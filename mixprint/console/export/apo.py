"""Equalisers as text for Equalizer APO, which many other equalisers read, too.

A file per track: level and equaliser, nothing else. Its filters are those of the audio EQ cookbook,
as the console's; the forms that it is written in are those of its configuration reference.

    Preamp: -2.50 dB
    Filter 1: ON HPQ Fc 80.00 Hz Q 0.7071
    Filter 2: ON LSC Fc 120.00 Hz Gain 3.00 dB Q 0.7071
    Filter 3: ON PK Fc 250.00 Hz Gain -2.00 dB Q 1.0000
"""

from collections.abc import Iterator

from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings, Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.text import printable

HEADING = "# mixprint: "


def to_apo(settings: Settings) -> dict[str, str]:
    """Return the text of each track, and of the master."""
    return {name: _text(strip, name) for name, strip in settings.strips().items()}


def apo_heading(name: str) -> str:
    """Return the comment that names a track, for its name may be no file's."""
    return f"{HEADING}{printable(name)}\n"


def _text(strip: Strip, name: str) -> str:
    level_db = strip["output_db"] if name == MASTER else strip["trim_db"] + strip["fader_db"]
    lines = [f"Preamp: {level_db:.2f} dB"]
    lines += [f"Filter {n}: ON {each}" for n, each in enumerate(_filters(strip, name), start=1)]
    return "\n".join(lines) + "\n"


def _filters(strip: Strip, name: str) -> Iterator[str]:
    if name != MASTER:
        for kind, field in (("HPQ", "eq.highpass_hz"), ("LPQ", "eq.lowpass_hz")):
            if not strip.is_neutral(field):
                yield f"{kind} Fc {strip[field]:.2f} Hz Q {BUTTERWORTH_Q:.4f}"
    bands = dict.fromkeys(f.name.split(".")[1] for f in strip.fields if f.name.endswith("gain_db"))
    for band in bands:
        if strip.is_neutral(f"eq.{band}.gain_db"):
            continue
        kind = {"low": "LSC", "high": "HSC"}.get(band, "PK")
        q = strip[f"eq.{band}.q"] if kind == "PK" else BUTTERWORTH_Q
        freq_hz, gain_db = strip[f"eq.{band}.freq_hz"], strip[f"eq.{band}.gain_db"]
        yield f"{kind} Fc {freq_hz:.2f} Hz Gain {gain_db:.2f} dB Q {q:.4f}"
