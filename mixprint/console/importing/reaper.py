"""Settings out of a project of REAPER.

Where a track holds the console's own plug-in, its settings are read as they were written, and
REAPER's own fader and pan are added to them. Of other tracks are read: fader, pan, mute, ReaEQ and
ReaComp. What else there is, is listed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixprint.console.export.jsfx import MASTER_NAME, STRIP_NAME
from mixprint.console.importing.imported import Imported
from mixprint.console.reaper_plugins import (
    REACOMP,
    REAEQ,
    Band,
    comp_settings,
    eq_bands,
    q_of,
)
from mixprint.console.rpp import Line, parse
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_NAME_LENGTH, Rooms, Settings, Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.errors import ConfigError, DataError
from mixprint.schema import read_text, shortened
from mixprint.text import printable, shown

_EFFECTS = ("VST", "JS", "AU", "CLAP", "LV2", "DX", "VIDEO_EFFECT", "CONTAINER")
_RATES_HZ = range(8_000, 384_001)
_DEFAULT_RATE_HZ = 44_100
# Q of a shelf or cut this near to the console's is taken for it.
_NEAR_Q = 0.05


def read_reaper(path: Path) -> Imported:
    """Read a project.

    Args:
        path: of the file, `.rpp`.

    Raises:
        DataError: it cannot be read, is no project, or holds no track with audio.
    """
    where = shown(path)
    root = parse(read_text(path), where)
    reader = _Reader(where)
    tracks: dict[str, Strip] = {}
    for number, track in enumerate(root.all("TRACK"), start=1):
        name = _name(track, number, tracks)
        if (strip := reader.track(track, name)) is not None:
            tracks[name] = strip
    master = reader.master(root)
    if root.first("TEMPOENVEX") is not None and len(root.all("TEMPOENVEX")[0].all("PT")) > 1:
        reader.notes.append("changes of tempo: not read")
    try:
        settings = Settings(tracks, master, _rate_hz(root), reader.rooms())
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error
    return Imported(settings, tuple(reader.notes))


@dataclass
class _Reader:
    """Reader of one project.

    Attributes:
        where: name of the file, for messages.
        notes: what was not understood so far.
        are_last: of each strip with a room, whether that is behind the fader.
    """

    where: str
    notes: list[str] = field(default_factory=list)
    are_last: list[bool] = field(default_factory=list)

    def track(self, track: Line, name: str) -> Strip | None:
        """Read a track; None if there is no audio on it."""
        if track.first("ITEM") is None:
            self._note(name, "has no audio and is left out, with all that it does to others")
            return None
        for line in self._strange(track):
            self._note(name, line)
        strip = self._effects(track.first("FXCHAIN"), name, TRACK_FIELDS, STRIP_NAME)
        place = track.first("VOLPAN") or Line("VOLPAN")
        strip = self._placed(
            strip, self._number(place, 0, 1.0, name), self._number(place, 1, 0.0, name), name
        )
        if self._number(track.first("MUTESOLO") or Line("MUTESOLO"), 0, 0.0, name):
            lowest = next(each.low for each in TRACK_FIELDS if each.name == "fader_db")
            self._note(name, f"is muted: its fader is at {lowest:g} dB")
            strip = strip.with_values({"fader_db": lowest}, name)
        return strip

    def master(self, root: Line) -> Strip:
        """Read the master."""
        strip = self._effects(root.first("MASTERFXLIST"), MASTER, MASTER_FIELDS, MASTER_NAME)
        place = root.first("MASTER_VOLUME") or Line("MASTER_VOLUME")
        if self._number(place, 1, 0.0, MASTER):
            self._note(MASTER, "its pan is not read")
        level = self._number(place, 0, 1.0, MASTER)
        return strip if level == 1.0 else self._louder(strip, "output_db", level, MASTER)

    def rooms(self) -> Rooms:
        """Return how rooms are fed, which strips agree on."""
        if any(self.are_last) and not all(self.are_last):
            self.notes.append(
                "rooms: some are before the fader, some behind it; all read as before"
            )
        return "sends" if self.are_last and all(self.are_last) else "inserts"

    def _effects(
        self, chain: Line | None, name: str, fields: tuple[Field, ...], own_name: str
    ) -> Strip:
        strip = Strip.neutral(fields)
        is_bypassed = False
        kinds_read: set[str] = set()
        for line in chain.inner or [] if chain is not None else []:
            if line.name == "BYPASS":
                is_bypassed = line.word(0, "0") != "0" or line.word(1, "0") != "0"
            if line.name not in _EFFECTS:
                continue
            title = printable(line.word(0))
            kind = next((p.name for p in (REAEQ, REACOMP) if p.is_in(line)), "")
            is_own = line.name == "JS" and line.word(0).replace("\\", "/") == own_name
            if is_own:
                kind = own_name
            if not kind:
                self._note(name, f"{title or line.name}: not understood, left out")
            elif is_bypassed:
                self._note(name, f"{title}: is bypassed, left out")
            elif kind in kinds_read or own_name in kinds_read:
                self._note(name, f"{title}: there is another one before it, left out")
            else:
                kinds_read.add(kind)
                if is_own:
                    strip = self._own(line, name, fields)
                elif kind == REAEQ.name:
                    strip = self._equaliser(line, strip, name)
                else:
                    strip = self._compressor(line, strip, name)
        return strip

    def _own(self, block: Line, name: str, fields: tuple[Field, ...]) -> Strip:
        words = [word for line in block.inner or [] for word in (line.name, *line.words)]
        values = {}
        for wanted, word in zip(fields, words, strict=False):
            if word != "-":
                values[wanted.name] = self._within(wanted, self._float(word, name), name)
        strip = Strip.neutral(fields).with_values(values, name)
        if fields is TRACK_FIELDS and not strip.is_neutral("room.send_db"):
            self.are_last.append(len(words) > len(fields) and words[len(fields)] not in ("-", "0"))
        return strip

    def _equaliser(self, block: Line, strip: Strip, name: str) -> Strip:
        bands, level_db, unknown = eq_bands(block, f"{self.where}: {name}, ReaEQ")
        for kind in unknown:
            self._note(name, f"ReaEQ: {kind}: not understood, left out")
        for band in bands:
            if band.is_on and not (band.gain_db == 0 and band.kind not in ("lowpass", "highpass")):
                strip = self._band(band, strip, name)
        if level_db:
            level = "output_db" if name == MASTER else "fader_db"
            strip = self._louder(strip, level, 10 ** (level_db / 20), name)
        return strip

    def _band(self, band: Band, strip: Strip, name: str) -> Strip:
        told = f"ReaEQ: {band.kind} of {band.gain_db:+.1f} dB at {band.freq_hz:.0f} Hz"
        known = {each.name: each for each in strip.fields}
        places = {
            "lowpass": ["eq.lowpass"],
            "highpass": ["eq.highpass"],
            "lowshelf": ["eq.low"],
            "highshelf": ["eq.high"],
            "bell": [n.removesuffix(".q") for n in known if n.endswith(".q")],
        }[band.kind]
        for place in places:
            freq = known.get(f"{place}_hz") or known.get(f"{place}.freq_hz")
            if freq is None or not freq.low <= band.freq_hz <= freq.high:
                continue
            own = f"{place}.gain_db" if f"{place}.gain_db" in known else freq.name
            if not strip.is_neutral(own):
                continue
            values = {freq.name: band.freq_hz}
            if own != freq.name:
                values[own] = self._within(known[own], band.gain_db, name)
            q = q_of(band.octaves)
            if f"{place}.q" in known:
                values[f"{place}.q"] = self._within(known[f"{place}.q"], q, name)
            elif abs(math.log(q / BUTTERWORTH_Q)) > _NEAR_Q:
                self._note(name, f"{told}: read with the console's slope, not of Q {q:.2f}")
            return strip.with_values(values, name)
        self._note(name, f"{told}: the console has no free band there, left out")
        return strip

    def _compressor(self, block: Line, strip: Strip, name: str) -> Strip:
        comp = comp_settings(block, f"{self.where}: {name}, ReaComp")
        if comp.ratio < 1:
            self._note(name, f"ReaComp: a ratio of {comp.ratio:.2f}: not understood, left out")
            return strip
        known = {each.name: each for each in strip.fields}
        found = {
            "comp.threshold_db": comp.threshold_db,
            "comp.slope": 1 - 1 / comp.ratio,
            "comp.attack_ms": comp.attack_ms,
            "comp.release_ms": comp.release_ms,
            "comp.knee_db": comp.knee_db,
        }
        values = {k: self._within(known[k], value, name) for k, value in found.items()}
        if comp.rms_ms:
            self._note(name, f"ReaComp: averages levels over {comp.rms_ms:.1f} ms, the console not")
        if comp.dry > 1e-3:
            self._note(name, "ReaComp: the sound itself is mixed in: not read")
        if comp.has_auto:
            self._note(name, "ReaComp: automatic make-up or release: not read")
        if abs(comp.wet_db) > 1e-3:
            level = "output_db" if name == MASTER else "fader_db"
            strip = self._louder(strip, level, 10 ** (comp.wet_db / 20), name)
        return strip.with_values(values, name)

    def _placed(self, strip: Strip, fader: float, pan: float, name: str) -> Strip:
        """Add REAPER's own fader and pan, the latter as a balance, to what there is."""
        if not -1 <= pan <= 1:
            raise DataError(f"{self.where}: {name}: expected a pan of -1 to 1, found {pan:g}")
        own = strip["pan"]
        left = min(1 - own, 1) * min(1 - pan, 1)
        right = min(1 + own, 1) * min(1 + pan, 1)
        loud = max(left, right)
        if own == 0:
            both = pan
        elif pan == 0 or loud == 0:
            both = own
        else:
            both = 1 - left / loud if left < right else right / loud - 1
        strip = strip.with_values({"pan": both}, name)
        fader *= 1.0 if pan == 0 else loud
        return strip if fader == 1.0 else self._louder(strip, "fader_db", fader, name)

    def _louder(self, strip: Strip, setting: str, factor: float, name: str) -> Strip:
        wanted = next(each for each in strip.fields if each.name == setting)
        if factor < 0:
            raise DataError(
                f"{self.where}: {name}: expected a level of 0 or more, found {factor:g}"
            )
        level_db = strip[setting] + (20 * math.log10(factor) if factor > 0 else -math.inf)
        return strip.with_values({setting: self._within(wanted, level_db, name)}, name)

    def _within(self, wanted: Field, value: float, name: str) -> float:
        held = min(max(value, wanted.low), wanted.high)
        if held != value:
            self._note(name, f"{wanted.name}: {value:g} is beyond {wanted.range_text}, held there")
        return held

    def _number(self, line: Line, place: int, default: float, name: str) -> float:
        word = line.word(place)
        return self._float(word, name) if word else default

    def _float(self, word: str, name: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{self.where}: {name}: expected a number, found {shortened(word)}")
        return value

    def _strange(self, track: Line) -> Iterator[str]:
        """Say what of a track is not read."""
        if track.all("AUXRECV"):
            yield "receives other tracks: not read"
        if (track.first("ISBUS") or Line("")).word(0, "0") != "0":
            yield "is a folder of tracks: not read as such"
        if (track.first("IPHASE") or Line("")).word(0, "0") != "0":
            yield "has its polarity inverted: not read"
        for each in track.inner or []:
            if each.inner is not None and each.name.rstrip("2").endswith("ENV"):
                yield f"automation ({printable(each.name)}): not read"
        items = track.all("ITEM")
        if any(_is_changed(item) for item in items):
            yield "levels, speed or effects of its items: not read"

    def _note(self, name: str, text: str) -> None:
        self.notes.append(f"track {name}: {text}" if name != MASTER else f"{MASTER}: {text}")


def _is_changed(item: Line) -> bool:
    level, speed = item.first("VOLPAN") or Line(""), item.first("PLAYRATE") or Line("")
    factors = (level.word(0, "1"), level.word(2, "1"), speed.word(0, "1"))
    return item.first("TAKEFX") is not None or not all(map(_is_one, factors))


def _is_one(word: str) -> bool:
    try:
        return float(word) == 1
    except ValueError:
        return False


def _name(track: Line, number: int, others: Mapping[str, Strip]) -> str:
    """Return the name of a track as the console takes it, which no other one has."""
    written = (track.first("NAME") or Line("NAME")).word(0)
    name = (written.replace(".", "_") or f"track {number}")[: MAX_NAME_LENGTH - 8]
    name = f"{name} track" if name == MASTER else name
    unique, count = name, 1
    while unique in others:
        count += 1
        unique = f"{name} {count}"
    return unique


def _rate_hz(root: Line) -> int:
    word = (root.first("SAMPLERATE") or Line("")).word(0, str(_DEFAULT_RATE_HZ))
    rate_hz = int(word) if word.isdecimal() and len(word) < 8 else 0
    return rate_hz if rate_hz in _RATES_HZ else _DEFAULT_RATE_HZ
