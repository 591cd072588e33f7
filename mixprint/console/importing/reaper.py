"""Settings out of a project of REAPER.

Where a track holds the console's own plug-in, its settings are read as they were written, and
REAPER's own fader and pan are added to them. A track without audio that holds a room of the console
is a shared one, and what it receives are sends to it. Of other tracks are read: fader, pan, mute,
ReaEQ and ReaComp. What else there is, is listed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixprint.console.bands import Kind
from mixprint.console.export.jsfx import MASTER_NAME, ROOM_FIELDS, ROOM_NAME, STRIP_NAME
from mixprint.console.export.reaper import PAN_LAW, PAN_MODE
from mixprint.console.importing.imported import Imported, imported
from mixprint.console.importing.names import console_names
from mixprint.console.reaper_plugins import (
    REACOMP,
    REAEQ,
    ReaEqBand,
    comp_settings,
    eq_bands,
    q_of,
)
from mixprint.console.reaper_sends import NAME as RECEIVED
from mixprint.console.reaper_sends import read_send
from mixprint.console.rpp import Line, parse
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_SHARED_ROOMS, MAX_TRACKS, Rooms, Settings, Strip
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.equaliser import BUTTERWORTH_Q
from mixprint.errors import ConfigError, DataError
from mixprint.schema import read_text, shortened
from mixprint.text import printable, shown

_EFFECTS = ("VST", "JS", "AU", "CLAP", "LV2", "DX", "VIDEO_EFFECT", "CONTAINER")
_RATES_HZ = range(8_000, 384_001)
_DEFAULT_RATE_HZ = 44_100
_SHELVES: dict[Kind, str] = {"low": "low shelf", "high": "high shelf"}
# Q of a shelf or cut this near to the console's is taken for it.
_NEAR_Q = 0.05


def read_reaper(path: Path) -> Imported:
    """Read a project.

    Args:
        path: of the file, `.rpp`.

    Raises:
        DataError: it cannot be read, is no project, or holds no track with audio, or too many.
    """
    where = shown(path)
    root = parse(read_text(path), where)
    reader = _Reader(where)
    reader.project(root)
    found = reader.audio_tracks(root)
    names, renamed = console_names(
        _word(track, "NAME", "") or f"track {place + 1}" for place, track in found.items()
    )
    reader.notes += renamed
    sends = reader.sends(root, dict(zip(found, names, strict=True)))
    tracks = {
        name: reader.sent(reader.track(track, name), sends.get(name, []), name)
        for name, track in zip(names, found.values(), strict=True)
    }
    master = reader.master(root)
    if root.first("TEMPOENVEX") is not None and len(root.all("TEMPOENVEX")[0].all("PT")) > 1:
        reader.notes.append("changes of tempo: not read")
    try:
        settings = Settings(tracks, master, _rate_hz(root), reader.rooms())
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error
    return imported(settings, reader.notes)


@dataclass(frozen=True)
class _SentTo:
    """A track's send to a shared room.

    Attributes:
        room: name of the track that receives it.
        level_db: of the send.
        shape: settings of the room.
    """

    room: str
    level_db: float
    shape: Strip


@dataclass
class _Reader:
    """Reader of one project.

    Attributes:
        where: name of the file, for messages.
        notes: what was not understood so far.
        are_last: track with a room -> whether that is behind the fader.
    """

    where: str
    notes: list[str] = field(default_factory=list)
    are_last: dict[str, bool] = field(default_factory=dict)

    def project(self, root: Line) -> None:
        """Note what of the project as a whole is read in another way than REAPER plays it."""
        for name, expected in (
            ("PANLAW", PAN_LAW),
            ("PANMODE", PAN_MODE),
            ("MASTER_PANMODE", PAN_MODE),
        ):
            if not _is_number(word := _word(root, name, expected), float(expected)):
                self.notes.append(f"{name} {shortened(word)}: not read, pans are read as a balance")

    def audio_tracks(self, root: Line) -> dict[int, Line]:
        """Return the tracks with audio by their places; note the others, shared rooms aside.

        Raises:
            DataError: there are none or too many.
        """
        found = {}
        for place, track in enumerate(root.all("TRACK")):
            if track.first("ITEM") is not None:
                found[place] = track
            elif not _is_room(track):
                self._note(
                    _title(track, place),
                    "has no audio and is left out, with all that it does to others",
                )
        if not 1 <= len(found) <= MAX_TRACKS:
            raise DataError(
                f"{self.where}: expected 1 to {MAX_TRACKS} tracks with audio, found {len(found)}"
            )
        return found

    def track(self, track: Line, name: str) -> Strip:
        """Read a track."""
        if track.all(RECEIVED):
            self._note(name, "receives other tracks: not read")
        for line in self._strange(track):
            self._note(name, line)
        chain = self._chain(track.first("FXCHAIN"), _word(track, "FX", "1"), name)
        strip = self._effects(chain, name, TRACK_FIELDS, STRIP_NAME)
        place = track.first("VOLPAN") or Line("VOLPAN")
        strip = self._placed(
            strip, self._number(place, 0, 1.0, name), self._number(place, 1, 0.0, name), name
        )
        if self._number(track.first("MUTESOLO") or Line("MUTESOLO"), 0, 0.0, name):
            lowest = strip.field("fader_db").low
            self._note(name, f"is muted: its fader is at {lowest:g} dB")
            strip = strip.with_values({"fader_db": lowest}, name)
        return strip

    def sends(self, root: Line, names: Mapping[int, str]) -> dict[str, list[_SentTo]]:
        """Read the shared rooms.

        Args:
            root: the project.
            names: place of a track with audio -> what it is called in the settings.

        Returns:
            track -> its sends.
        """
        sends: dict[str, list[_SentTo]] = {}
        rooms = [(place, track) for place, track in enumerate(root.all("TRACK")) if _is_room(track)]
        for place, track in rooms[MAX_SHARED_ROOMS:]:
            self._note(_title(track, place), f"is left out: more than {MAX_SHARED_ROOMS} rooms")
        for place, track in rooms[:MAX_SHARED_ROOMS]:
            room = _title(track, place)
            shape, level_db = self._room(track, room)
            for line in track.all(RECEIVED):
                send = read_send(line)
                heard = names.get(send.place)
                if heard is None:
                    self._note(
                        room, f"a send of track {send.place + 1}, which has no audio: left out"
                    )
                    continue
                for each in send.strange:
                    self._note(room, f"the send of {heard}, {each}")
                sent = _SentTo(room, send.level_db + level_db, shape)
                sends.setdefault(heard, []).append(sent)
        return sends

    def _room(self, track: Line, room: str) -> tuple[Strip, float]:
        """Read a shared room, and the level of its track: minus infinity where it is not heard."""
        for line in self._strange(track):
            self._note(room, line)
        used = self._used(
            self._chain(track.first("FXCHAIN"), _word(track, "FX", "1"), room), room, ROOM_NAME
        )
        for kind in [each for each in used if each != ROOM_NAME]:
            self._note(room, f"{kind}: stands beside the room, left out")
        shape = Strip.neutral(ROOM_FIELDS)
        if ROOM_NAME in used:
            shape = self._own(used[ROOM_NAME], room, ROOM_FIELDS)
        place = track.first("VOLPAN") or Line("VOLPAN")
        if self._number(place, 1, 0.0, room):
            self._note(room, "its pan is not read")
        level = self._number(place, 0, 1.0, room)
        is_muted = self._number(track.first("MUTESOLO") or Line("MUTESOLO"), 0, 0.0, room)
        if is_muted:
            self._note(room, "is muted: its sends are off")
        is_heard = ROOM_NAME in used and not is_muted and level > 0
        return shape, 20 * math.log10(level) if is_heard else -math.inf

    def sent(self, strip: Strip, sends: Sequence[_SentTo], name: str) -> Strip:
        """Send a track to the room that it is sent to, of several ones to the loudest."""
        heard = sorted((each for each in sends if each.level_db > -math.inf), key=_level_db)
        if not heard:
            return strip
        *others, chosen = heard
        for each in others:
            self._note(name, f"its send to {each.room}: it is sent to {chosen.room} too, left out")
        if not strip.is_neutral("room.send_db"):
            self._note(name, f"its own room: it is sent to {chosen.room} too, left out")
        known = strip.field("room.send_db")
        level_db = self._within(known, chosen.level_db, name)
        shape = {each.name: value for each, value in chosen.shape.items()}
        self.are_last[name] = True
        return strip.with_values({**shape, known.name: level_db}, name)

    def master(self, root: Line) -> Strip:
        """Read the master."""
        chain = self._chain(root.first("MASTERFXLIST"), _word(root, "MASTER_FX", "1"), MASTER)
        strip = self._effects(chain, MASTER, MASTER_FIELDS, MASTER_NAME)
        if not _is_number(_word(root, "MASTERMUTESOLO", "0"), 0):
            self._note(MASTER, "is muted or soloed: not read")
        place = root.first("MASTER_VOLUME") or Line("MASTER_VOLUME")
        if self._number(place, 1, 0.0, MASTER):
            self._note(MASTER, "its pan is not read")
        level = self._number(place, 0, 1.0, MASTER)
        return strip if level == 1.0 else self._louder(strip, "output_db", level, MASTER)

    def rooms(self) -> Rooms:
        """Return how rooms are fed, which strips agree on."""
        are_last = self.are_last.values()
        if any(are_last) and not all(are_last):
            self.notes.append(
                "rooms: some are before the fader, some behind it; all read as before"
            )
        return "sends" if are_last and all(are_last) else "inserts"

    def _chain(self, chain: Line | None, is_on: str, name: str) -> list[Line]:
        """Return the lines of a chain of plug-ins; none where all of it is bypassed."""
        lines = chain.inner or [] if chain is not None else []
        if not _is_number(is_on, 0):
            return lines
        if any(line.name in _EFFECTS for line in lines):
            self._note(name, "its plug-ins are all bypassed, left out")
        return []

    def _used(self, chain: list[Line], name: str, own_name: str) -> dict[str, Line]:
        """Return the plug-ins of a chain that are read, by what they are; note the others."""
        is_bypassed = False
        used: dict[str, Line] = {}
        for line in chain:
            if line.name == "BYPASS":
                is_bypassed = line.word(0, "0") != "0" or line.word(1, "0") != "0"
            if line.name not in _EFFECTS:
                continue
            title = printable(line.word(0))
            kind = next((p.name for p in (REAEQ, REACOMP) if p.is_in(line)), "")
            if _is_plug_in(line, own_name):
                kind = own_name
            if not kind:
                self._note(name, f"{title or line.name}: not understood, left out")
            elif is_bypassed:
                self._note(name, f"{title}: is bypassed, left out")
            elif kind in used or own_name in used:
                self._note(name, f"{title}: there is another one before it, left out")
            else:
                used[kind] = line
        return used

    def _effects(
        self, chain: list[Line], name: str, fields: tuple[Field, ...], own_name: str
    ) -> Strip:
        used = self._used(chain, name, own_name)
        if own_name in used:
            for kind in [each for each in used if each != own_name]:
                self._note(name, f"{kind}: stands before the console's own plug-in, left out")
            return self._own(used[own_name], name, fields)
        strip, level_db = Strip.neutral(fields), 0.0
        for kind, line in used.items():
            if kind == REAEQ.name:
                strip, level_db = self._equaliser(line, strip, name)
            else:
                strip = self._compressor(line, strip, name)
        is_before = list(used) == [REAEQ.name, REACOMP.name]
        if list(used) == [REACOMP.name, REAEQ.name]:
            self._note(name, "ReaEQ: stands behind ReaComp, its bands are read as before it")
        return self._levelled(strip, level_db, name, is_before=is_before) if level_db else strip

    def _levelled(self, strip: Strip, level_db: float, name: str, *, is_before: bool) -> Strip:
        """Add a level that stands before or behind the compressor."""
        if is_before and name != MASTER:
            return self._louder(strip, "trim_db", amplitude(level_db), name)
        if is_before and not strip.is_neutral("comp.slope"):
            # The master has no trim: what is louder by so much passes a threshold lower by as much.
            wanted = next(each for each in strip.fields if each.name == "comp.threshold_db")
            threshold_db = self._within(wanted, strip[wanted.name] - level_db, name)
            strip = strip.with_values({wanted.name: threshold_db}, name)
        level = "output_db" if name == MASTER else "fader_db"
        return self._louder(strip, level, amplitude(level_db), name)

    def _own(self, block: Line, name: str, fields: tuple[Field, ...]) -> Strip:
        words = [word for line in block.inner or [] for word in (line.name, *line.words)]
        values = {}
        for wanted, word in zip(fields, words, strict=False):
            if word != "-":
                values[wanted.name] = self._within(wanted, self._float(word, name), name)
        strip = Strip.neutral(fields).with_values(values, name)
        if fields is TRACK_FIELDS and not strip.is_neutral("room.send_db"):
            self.are_last[name] = len(words) > len(fields) and words[len(fields)] not in ("-", "0")
        return strip

    def _equaliser(self, block: Line, strip: Strip, name: str) -> tuple[Strip, float]:
        """Read a ReaEQ; return the level of its output too."""
        bands, level_db, unknown = eq_bands(block, f"{self.where}: {name}, ReaEQ")
        for kind in unknown:
            self._note(name, f"ReaEQ: {kind}: not understood, left out")
        for band in bands:
            if band.is_on and not (band.gain_db == 0 and band.kind not in ("lowpass", "highpass")):
                strip = self._band(band, strip, name)
        return strip, level_db

    def _band(self, band: ReaEqBand, strip: Strip, name: str) -> Strip:
        kind = _SHELVES.get(band.kind, band.kind)
        told = f"ReaEQ: {kind} of {band.gain_db:+.1f} dB at {band.freq_hz:.0f} Hz"
        known = {each.name: each for each in strip.fields}
        places = {
            "lowpass": ["eq.lowpass"],
            "highpass": ["eq.highpass"],
            "low": ["eq.low"],
            "high": ["eq.high"],
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
            strip = self._levelled(strip, comp.wet_db, name, is_before=False)
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
        if factor < 0:
            raise DataError(
                f"{self.where}: {name}: expected a level of 0 or more, found {factor:g}"
            )
        level_db = strip[setting] + (20 * math.log10(factor) if factor > 0 else -math.inf)
        held_db = self._within(strip.field(setting), level_db, name)
        return strip.with_values({setting: held_db}, name)

    def _within(self, wanted: Field, value: float, name: str) -> float:
        held = wanted.held(value)
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
        # The last track of a folder has 2 here.
        if _word(track, "ISBUS", "0") == "1":
            yield "is a folder of tracks: not read as such"
        if not _is_number((track.first("MUTESOLO") or Line("")).word(1, "0"), 0):
            yield "is soloed: not read, the others are not muted"
        law = (track.first("VOLPAN") or Line("")).word(2, "-1")
        if not (_is_number(law, -1) or _is_number(law, float(PAN_LAW))):
            yield f"a pan law of its own ({shortened(law)}): not read"
        if not _is_number(mode := _word(track, "PANMODE", PAN_MODE), float(PAN_MODE)):
            yield f"PANMODE {shortened(mode)}: not read, its pan is read as a balance"
        if _word(track, "IPHASE", "0") != "0":
            yield "has its polarity inverted: not read"
        for each in track.inner or []:
            if each.inner is not None and each.name.rstrip("2").endswith("ENV"):
                yield f"automation ({printable(each.name)}): not read"
        items = track.all("ITEM")
        if any(_is_changed(item) for item in items):
            yield "levels, speed or effects of its items: not read"

    def _note(self, name: str, text: str) -> None:
        self.notes.append(f"track {name}: {text}" if name != MASTER else f"{MASTER}: {text}")


def _level_db(sent: _SentTo) -> float:
    return sent.level_db


def _title(track: Line, place: int) -> str:
    return printable(_word(track, "NAME", "")) or f"track {place + 1}"


def _is_plug_in(line: Line, name: str) -> bool:
    """Tell whether a line of a chain is one of the console's own plug-ins."""
    return line.name == "JS" and line.word(0).replace("\\", "/") == name


def _is_room(track: Line) -> bool:
    """Tell whether a track without audio holds a shared room of the console."""
    chain = track.first("FXCHAIN") or Line("FXCHAIN")
    has_room = any(_is_plug_in(line, ROOM_NAME) for line in chain.inner or [])
    return has_room and track.first("ITEM") is None


def _is_changed(item: Line) -> bool:
    level, speed = item.first("VOLPAN") or Line(""), item.first("PLAYRATE") or Line("")
    factors = (level.word(0, "1"), level.word(2, "1"), speed.word(0, "1"))
    return item.first("TAKEFX") is not None or not all(_is_number(each, 1) for each in factors)


def _is_number(word: str, number: float) -> bool:
    try:
        return float(word) == number
    except ValueError:
        return False


def _word(block: Line, name: str, default: str) -> str:
    """Return the first word of a line of a block."""
    return (block.first(name) or Line(name)).word(0, default)


def _rate_hz(root: Line) -> int:
    word = _word(root, "SAMPLERATE", str(_DEFAULT_RATE_HZ))
    rate_hz = int(word) if word.isdecimal() and len(word) < 8 else 0
    return rate_hz if rate_hz in _RATES_HZ else _DEFAULT_RATE_HZ
