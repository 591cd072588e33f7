"""Equalisers of tracks out of text for Equalizer APO, of mixprint's own and of other programs.

A file is a track, called by the heading that mixprint writes or else as its file; `master` is the
master. A folder of such files is a song.
"""

import re
from pathlib import Path

from mixprint.console.bands import Band, Kind
from mixprint.console.export.apo import HEADING
from mixprint.console.export.channels import Channel
from mixprint.console.importing.imported import Imported, imported
from mixprint.console.importing.names import console_names
from mixprint.console.importing.strips import strip_of
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS
from mixprint.console.settings import MAX_TRACKS, Settings, Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.errors import DataError
from mixprint.schema import read_text, shortened
from mixprint.text import shown

# Equalisers of headphones have some kB.
MAX_BYTES = 1 << 18
_MAX_BANDS = 64
_NUMBER = r"([-+]?\d{1,9}(?:\.\d{1,12})?)"
_PREAMP = re.compile(rf"Preamp:\s*{_NUMBER}\s*dB", re.IGNORECASE)
_OFF = re.compile(r"Filter(?:\s+\d+)?:\s*OFF\b", re.IGNORECASE)
_FILTER = re.compile(
    rf"Filter(?:\s+\d+)?:\s*ON\s+(HPQ?|LPQ?|LSC?|HSC?|PK)\s+Fc\s+{_NUMBER}\s*Hz"
    rf"(?:\s+Gain\s+{_NUMBER}\s*dB)?(?:\s+Q\s+{_NUMBER})?\s*$",
    re.IGNORECASE,
)
_KINDS: dict[str, Kind] = {
    "HP": "highpass",
    "LP": "lowpass",
    "LS": "low",
    "HS": "high",
    "PK": "bell",
}


def read_apo(path: Path) -> Imported:
    """Read a track's text, or a folder of such texts.

    Returns:
        settings of the tracks, neutral but for level and equaliser; and what was not understood.

    Raises:
        DataError: a file cannot be read, or there are too many or none.
    """
    paths = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not 1 <= len(paths) <= MAX_TRACKS + 1:
        raise DataError(
            f"{shown(path)}: expected 1 to {MAX_TRACKS} files *.txt, found {len(paths)}"
        )
    texts: list[tuple[str, str]] = []
    master = None
    for each in paths:
        text = read_text(each, max_bytes=MAX_BYTES)
        heading = text.partition("\n")[0]
        is_named = heading.startswith(HEADING)
        name = heading.removeprefix(HEADING).strip() if is_named else shown(each.stem)
        if name == MASTER:
            master = text
        else:
            texts.append((name, text))
    names, notes = console_names(name for name, _ in texts)
    if not names:
        raise DataError(f"{shown(path)}: expected a track beside the master, found none")
    strips = {}
    for name, (_, text) in zip(names, texts, strict=True):
        strips[name], said = strip_of_text(text, Strip.neutral(TRACK_FIELDS), name)
        notes += said
    master_strip = Strip.neutral(MASTER_FIELDS)
    if master is not None:
        master_strip, said = strip_of_text(master, master_strip, MASTER)
        notes += said
    return imported(Settings(strips, master_strip), notes)


def strip_of_text(text: str, base: Strip, where: str) -> tuple[Strip, list[str]]:
    """Read the text of a track.

    Args:
        text: of a file.
        base: what it is laid over.
        where: name of the track, for notes.

    Returns:
        the strip, and what was not understood.
    """
    bands: list[Band] = []
    notes = []
    level_db = 0.0
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#") or _OFF.match(line):
            continue
        if match := _PREAMP.match(line):
            level_db += float(match[1])
        elif (match := _FILTER.match(line)) and float(match[2]) > 0 and len(bands) < _MAX_BANDS:
            kind = _KINDS[match[1].upper()[:2]]
            q = float(match[4]) if match[4] else 0.0
            plain_q = 1.0 if kind == "bell" else BUTTERWORTH_Q
            gain_db = float(match[3]) if match[3] else 0.0
            bands.append(Band(kind, float(match[2]), gain_db, q if q > 0 else plain_q))
        else:
            notes.append(f"{where}: {shortened(line)} is not understood")
    strip, said = strip_of(Channel(tuple(bands), None, level_db, 0.0), base, where)
    return strip, notes + said
