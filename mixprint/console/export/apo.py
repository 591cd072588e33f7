"""Equalisers as text for Equalizer APO, which many other equalisers read, too.

A file per track: level and equaliser, nothing else. Its filters are those of the audio EQ cookbook,
as the console's; the forms that it is written in are those of its configuration reference.

    Preamp: -2.50 dB
    Filter 1: ON HPQ Fc 80.00 Hz Q 0.7071
    Filter 2: ON LSC Fc 120.00 Hz Gain 3.00 dB Q 0.7071
    Filter 3: ON PK Fc 250.00 Hz Gain -2.00 dB Q 1.0000
"""

import re
from collections.abc import Iterator

from mixprint.console.schema import MASTER, TRACK_FIELDS
from mixprint.console.settings import Settings, Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.errors import DataError

_BELLS = ("bell1", "bell2", "bell3")
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_PREAMP = re.compile(rf"Preamp:\s*{_NUMBER}\s*dB", re.IGNORECASE)
_FILTER = re.compile(
    rf"Filter(?:\s+\d+)?:\s*ON\s+(HPQ?|LPQ?|LSC?|HSC?|PK)\s+Fc\s+{_NUMBER}\s*Hz"
    rf"(?:\s+Gain\s+{_NUMBER}\s*dB)?(?:\s+Q\s+{_NUMBER})?",
    re.IGNORECASE,
)
_FIELDS = {each.name: each for each in TRACK_FIELDS}


def to_apo(settings: Settings) -> dict[str, str]:
    """Return the text of each track, and of the master."""
    return {name: _text(strip, name) for name, strip in settings.strips().items()}


def from_apo(text: str, where: str) -> dict[str, float]:
    """Read such a text, as settings of a track by name.

    Args:
        text: of a file; lines that are no filters, or are off, are left out.
        where: its name, for messages.

    Raises:
        DataError: it has more filters of a kind than a track, or one that a track has not.
    """
    found: dict[str, float] = {}
    free_bells = list(_BELLS)
    for line in text.splitlines():
        if match := _PREAMP.match(line.strip()):
            found["fader_db"] = float(match[1])
            continue
        if not (match := _FILTER.match(line.strip())):
            continue
        kind, freq_hz = match[1].upper()[:2], float(match[2])
        gain_db = float(match[3]) if match[3] else 0.0
        if kind in ("HP", "LP"):
            changes = {f"eq.{'high' if kind == 'HP' else 'low'}pass_hz": freq_hz}
        elif kind in ("LS", "HS"):
            band = "low" if kind == "LS" else "high"
            changes = {f"eq.{band}.freq_hz": freq_hz, f"eq.{band}.gain_db": gain_db}
        else:
            bell = _fitting_bell(free_bells, freq_hz)
            if bell is None:
                raise DataError(
                    f"{where}: expected at most {len(_BELLS)} bells, each in the range of a free "
                    f"one, found another at {freq_hz:g} Hz"
                )
            free_bells.remove(bell)
            changes = {f"eq.{bell}.freq_hz": freq_hz, f"eq.{bell}.gain_db": gain_db}
            changes[f"eq.{bell}.q"] = float(match[4]) if match[4] else 1.0
        if twice := sorted(changes.keys() & found.keys()):
            raise DataError(f"{where}: expected one filter for {twice[0]}, found two")
        found |= changes
    return found


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


def _fitting_bell(free: list[str], freq_hz: float) -> str | None:
    for bell in free:
        field = _FIELDS[f"eq.{bell}.freq_hz"]
        if field.low <= freq_hz <= field.high:
            return bell
    return None
