"""Settings of a console: read, checked, changed, mixed with others, and written.

    settings.json
    {"format": "mixprint console", "version": 1, "sample_rate_hz": 44100, "rooms": "inserts",
     "tracks": [{"name": "vocals", "trim_db": 0.0, "eq": {"low": {"gain_db": 1.5, ...}}, ...}],
     "master": {"eq": {...}, "comp": {...}, "output_db": 0.0}}

A file may leave settings out, which are neutral then; what it names must be in the table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self, get_args

from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, VERSION, Field
from mixprint.errors import ConfigError, DataError
from mixprint.schema import parse_json, read_text, shortened
from mixprint.storage.atomic import read_json, write_json
from mixprint.text import first_of, shown

FORMAT = "mixprint console"
MAX_TRACKS = 32
MAX_NAME_LENGTH = 200
MAX_SHARED_ROOMS = 3
_TRIM, _FADER = "trim_db", "fader_db"
# What two sends to one room have in common.
ROOM_SHAPE = tuple(each.name for each in TRACK_FIELDS if each.weighed_by == "room.send_db")
# A room that is sent less is hardly heard, and the reverb time of one below the second not at all.
HEARD_SEND_DB, HEARD_TIME_SEND_DB = -40.0, -30.0
# How rooms are fed: each track has its own before width and fader, or all share a few, at most
# `MAX_SHARED_ROOMS`, behind their faders (`mixprint.console.sharing`).
Rooms = Literal["inserts", "sends"]


@dataclass(frozen=True)
class Strip:
    """Settings of one track, or of the master.

    Attributes:
        fields: its table.
        values: of all fields, in their order.
    """

    fields: tuple[Field, ...] = field(repr=False)
    values: tuple[float, ...]

    @classmethod
    def neutral(cls, fields: tuple[Field, ...]) -> Self:
        """Return the strip that changes nothing."""
        return cls(fields, tuple(f.neutral for f in fields))

    def __getitem__(self, name: str) -> float:
        """Return the value of a setting."""
        return self.values[self.place(name)]

    def items(self) -> Iterable[tuple[Field, float]]:
        """Pair settings with values."""
        return zip(self.fields, self.values, strict=True)

    def with_values(self, values: Mapping[str, float], where: str) -> Self:
        """Replace settings.

        Args:
            values: by name.
            where: whose they are, for messages.

        Raises:
            ConfigError: there is no such setting, or a value is out of its range.
        """
        changed = list(self.values)
        for name, value in values.items():
            place = self.place(name, where)
            wanted = self.fields[place]
            if not wanted.low <= value <= wanted.high:
                raise ConfigError(f"{where}.{name}: expected {wanted.range_text}, found {value:g}")
            changed[place] = float(value)
        return replace(self, values=tuple(changed))

    def scaled(self, amount: float) -> Self:
        """Return the strip at an amount: 0 changes nothing, 1 is all of it.

        Trim and fader are one level: the trim stays, for thresholds refer to it, and the fader
        goes so far that their sum is at the amount.
        """
        if amount in (0.0, 1.0):
            return self if amount == 1.0 else self.neutral(self.fields)
        scaled = replace(self, values=tuple(f.scaled(value, amount) for f, value in self.items()))
        if not any(f.name == _TRIM for f in self.fields):
            return scaled
        place = self.place(_FADER)
        level_db = self[_FADER] + self[_TRIM]
        values = list(scaled.values)
        values[place] = self.fields[place].off_scale(amount * level_db - self[_TRIM])
        return replace(scaled, values=tuple(values))

    def is_neutral(self, name: str) -> bool:
        """Tell whether a setting, and all that it is weighed by, does nothing."""
        place = self.place(name)
        wanted = self.fields[place]
        if wanted.weighed_by:
            return self.is_neutral(wanted.weighed_by)
        return self.values[place] == wanted.neutral

    def field(self, name: str) -> Field:
        """Return the field of a setting."""
        return self.fields[self.place(name)]

    def place(self, name: str, where: str = "settings") -> int:
        """Return the place of a setting in the table.

        Args:
            name: of the setting.
            where: whose it is, for messages.

        Raises:
            ConfigError: there is none of that name.
        """
        for place, each in enumerate(self.fields):
            if each.name == name:
                return place
        known = ", ".join(each.name for each in self.fields)
        raise ConfigError(f"{where}: expected one of {known}, found {name!r}")


@dataclass(frozen=True)
class Settings:
    """Settings of all tracks and of the master.

    Attributes:
        tracks: by name, in the order of the mix; it means nothing to the sound.
        master: of the sum.
        sample_rate_hz: of the audio that they were last used on; they mean the same at any.
        rooms: how rooms are fed.
    """

    tracks: Mapping[str, Strip]
    master: Strip = field(default_factory=lambda: Strip.neutral(MASTER_FIELDS))
    sample_rate_hz: int = 44_100
    rooms: Rooms = "inserts"

    def __post_init__(self) -> None:
        """Check what the types do not.

        Raises:
            ConfigError: there is no track, or too many, or a name cannot be used, or too many rooms
                are shared.
        """
        if not 1 <= len(self.tracks) <= MAX_TRACKS:
            raise ConfigError(f"tracks: expected 1 to {MAX_TRACKS}, found {len(self.tracks)}")
        for name in self.tracks:
            if not 1 <= len(name) <= MAX_NAME_LENGTH or name == MASTER or "." in name:
                raise ConfigError(
                    f"tracks: expected a name of 1 to {MAX_NAME_LENGTH} characters without dots, "
                    f"and not {MASTER!r}, found {shortened(name)}"
                )
        if self.rooms == "sends":
            shapes = {
                tuple(strip[name] for name in ROOM_SHAPE)
                for strip in self.tracks.values()
                if not strip.is_neutral("room.send_db")
            }
            if len(shapes) > MAX_SHARED_ROOMS:
                raise ConfigError(
                    f"room: expected at most {MAX_SHARED_ROOMS} different rooms where they are "
                    f"shared, found {len(shapes)}"
                )

    @classmethod
    def neutral(cls, names: Sequence[str]) -> Self:
        """Return settings that change nothing.

        Args:
            names: of the tracks.

        Raises:
            ConfigError: two names are the same, or see `__post_init__`.
        """
        if len(set(names)) < len(names):
            raise ConfigError(f"tracks: expected different names, found {', '.join(names)}")
        return cls({name: Strip.neutral(TRACK_FIELDS) for name in names})

    def in_order(self, names: Sequence[str]) -> Self:
        """Return the settings with their tracks in another order.

        Raises:
            ConfigError: the tracks are others.
        """
        if set(names) != self.tracks.keys() or len(names) != len(self.tracks):
            raise ConfigError(
                f"settings: expected those of the tracks {first_of(list(names), ', ')}, found "
                f"those of {first_of(list(self.tracks), ', ')}"
            )
        return replace(self, tracks={name: self.tracks[name] for name in names})

    def strips(self) -> dict[str, Strip]:
        """Return tracks and master by name."""
        return {**self.tracks, MASTER: self.master}

    def __getitem__(self, path: str) -> float:
        """Return a value by `track.setting` or `master.setting`.

        Raises:
            ConfigError: there is no such setting.
        """
        strip, name = self._named(path)
        return self.strips()[strip][name]

    def edit(self, changes: Mapping[str, float | str]) -> Self:
        """Change settings.

        Args:
            changes: `track.setting` or `master.setting` -> a number; a text that begins with
                `+=` or `-=` is added to what there is.

        Raises:
            ConfigError: there is no such setting, or a value is no number or out of its range.
        """
        strips = self.strips()
        for path, change in changes.items():
            strip, name = self._named(path)
            value = _changed(strips[strip][name], change, path)
            strips[strip] = strips[strip].with_values({name: value}, strip)
        return self._with(strips)

    def scaled(self, amount: float | Mapping[str, float]) -> Self:
        """Return the settings at an amount: 0 changes nothing, 1 is all of it.

        Args:
            amount: 0 to 2, of all; or by track (and `master`), 1 where none is named.

        Raises:
            ConfigError: an amount is out of range, or there is no such track.
        """
        amounts = amount if isinstance(amount, Mapping) else dict.fromkeys(self.strips(), amount)
        for name, value in amounts.items():
            if name not in self.strips():
                raise ConfigError(f"amount: expected one of {self._names()}, found {name!r}")
            if not 0.0 <= value <= 2.0:
                raise ConfigError(f"amount of {name}: expected 0 to 2, found {value:g}")
        return self._with(
            {name: strip.scaled(amounts.get(name, 1.0)) for name, strip in self.strips().items()}
        )

    def added(self, other: Self) -> Self:
        """Apply a difference from neutral on top: levels add up in dB, the rest on its scale.

        Raises:
            ConfigError: the tracks are others, or a sum is out of its range.
        """
        self._check_tracks(other)
        strips = {}
        for name, strip in self.strips().items():
            upon = other.strips()[name]
            strips[name] = strip.with_values(
                {
                    f.name: _sum(f, a, b, keeps=upon.is_neutral(f.name))
                    for (f, a), b in zip(strip.items(), upon.values, strict=True)
                },
                name,
            )
        return self._with(strips)

    def lock(self, kept: Self, patterns: Sequence[str]) -> Self:
        """Take some settings from others, so that what was found does not touch them.

        Args:
            kept: where they are taken from.
            patterns: `drums`, `drums.eq`, `*.fader_db`, `master`: a track, a group, a setting.

        Raises:
            ConfigError: the tracks are others, or a pattern names nothing.
        """
        self._check_tracks(kept)
        strips = self.strips()
        for pattern in patterns:
            found = False
            for name, strip in strips.items():
                names = [f.name for f in strip.fields if is_meant(pattern, f"{name}.{f.name}")]
                found = found or bool(names)
                values = {each: kept.strips()[name][each] for each in names}
                strips[name] = strip.with_values(values, name)
            if not found:
                raise ConfigError(
                    f"lock: expected a track, a group or a setting of {self._names()}, "
                    f"found {pattern!r}"
                )
        return self._with(strips)

    @classmethod
    def mean(cls, settings: Sequence[Self], weights: Sequence[float] | None = None) -> Self:
        """Average settings on their scales.

        A frequency counts as much as its gain is heard, a threshold as its slope, a reverb time as
        its send; where nothing is heard, all count alike.

        Args:
            settings: of the same tracks.
            weights: 0 or more each, 1 when None.

        Raises:
            ConfigError: tracks differ, or there is no weight.
        """
        weights = [1.0] * len(settings) if weights is None else list(weights)
        if len(weights) != len(settings) or not settings:
            raise ConfigError(
                f"mean: expected as many weights as settings, one at least, found {len(weights)} "
                f"and {len(settings)}"
            )
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ConfigError(f"mean: expected weights of 0 or more, not all 0, found {weights}")
        first = settings[0]
        for other in settings[1:]:
            first._check_tracks(other)
        return first._with(
            {
                name: _mean_strip([each.strips()[name] for each in settings], weights)
                for name in first.strips()
            }
        )

    def to_values(self) -> dict[str, Any]:
        """Return what settings.json holds."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "sample_rate_hz": self.sample_rate_hz,
            "rooms": self.rooms,
            "tracks": [{"name": n, **_nested(strip)} for n, strip in self.tracks.items()],
            MASTER: _nested(self.master),
        }

    @classmethod
    def from_values(cls, values: Any, where: str) -> Self:
        """Check what a settings.json holds.

        Args:
            values: its content.
            where: its name, for messages.

        Raises:
            DataError: it is of another kind or version, names an unknown setting, or a value is
                out of its range.
        """
        try:
            return cls._checked(values)
        except ConfigError as error:
            raise DataError(f"{where}: {error}") from error

    @classmethod
    def _checked(cls, values: Any) -> Self:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ConfigError(f"expected the format {FORMAT!r}, found {shortened(values)}")
        if values.get("version") != VERSION:
            raise ConfigError(f"expected version {VERSION}, found {values.get('version')!r}")
        known = {"format", "version", "sample_rate_hz", "rooms", "tracks", MASTER}
        if others := sorted(values.keys() - known):
            raise ConfigError(f"expected the keys {', '.join(sorted(known))}, found {others[0]!r}")
        rate, rooms = values.get("sample_rate_hz", 44_100), values.get("rooms", "inserts")
        if type(rate) is not int or not 8_000 <= rate <= 384_000:
            raise ConfigError(f"sample_rate_hz: expected 8000 to 384000, found {shortened(rate)}")
        if rooms not in get_args(Rooms):
            raise ConfigError(
                f"rooms: expected {' or '.join(get_args(Rooms))}, found {shortened(rooms)}"
            )
        tracks: dict[str, Strip] = {}
        listed = values.get("tracks")
        for each in listed if isinstance(listed, list) else []:
            name = each.get("name") if isinstance(each, dict) else None
            if not isinstance(name, str) or name in tracks:
                raise ConfigError(f"tracks: expected different names, found {shortened(name)}")
            own = {key: value for key, value in each.items() if key != "name"}
            tracks[name] = _strip(TRACK_FIELDS, own, name)
        master = _strip(MASTER_FIELDS, values.get(MASTER, {}), MASTER)
        return cls(tracks, master, rate, rooms)

    def save(self, path: Path | str) -> None:
        """Write settings.json.

        Raises:
            DataError: it cannot be written.
        """
        write_json(path, self.to_values())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read settings.json.

        Raises:
            DataError: it cannot be read, or see `from_values`.
        """
        return cls.from_values(parse_json(read_text(path), shown(path)), shown(path))

    @classmethod
    def is_file(cls, path: Path) -> bool:
        """Tell whether a file holds settings, of this version or another."""
        try:
            values = read_json(path)
        except DataError:
            return False
        return isinstance(values, dict) and values.get("format") == FORMAT

    def _names(self) -> str:
        return ", ".join(self.strips())

    def _named(self, path: str) -> tuple[str, str]:
        strip, _, name = path.partition(".")
        if strip not in self.strips():
            raise ConfigError(f"{path}: expected one of {self._names()}, found {strip!r}")
        self.strips()[strip].place(name, strip)
        return strip, name

    def _with(self, strips: Mapping[str, Strip]) -> Self:
        tracks = {name: strip for name, strip in strips.items() if name != MASTER}
        return replace(self, tracks=tracks, master=strips[MASTER])

    def _check_tracks(self, other: Self) -> None:
        if self.tracks.keys() != other.tracks.keys():
            raise ConfigError(
                f"tracks: expected {', '.join(self.tracks)} in both settings, found "
                f"{', '.join(other.tracks)}"
            )
        if self.rooms != other.rooms:
            raise ConfigError(
                f"rooms: expected {self.rooms} in both settings, found {other.rooms}, too"
            )


def _changed(value: float, change: float | str, path: str) -> float:
    text = change.strip() if isinstance(change, str) else ""
    sign = {"+=": 1.0, "-=": -1.0}.get(text[:2], 0.0)
    try:
        number = float(text[2:] if sign else change)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{path}: expected a number, found {change!r}")
    return value + sign * number if sign else number


def _sum(wanted: Field, value: float, other: float, *, keeps: bool) -> float:
    """Add what another value is away from neutral; what only says where is taken or kept."""
    if keeps:
        return value
    if wanted.scaling == "kept" or value == wanted.neutral:
        return other
    if wanted.scaling == "gain":
        return 10 * math.log10(10 ** (value / 10) + 10 ** (other / 10))
    if wanted.scale == "log":
        return value * other / wanted.neutral
    return value + other - wanted.neutral


def is_meant(pattern: str, path: str) -> bool:
    """Tell whether a pattern names a setting, its group or its track; see `Settings.lock`."""
    parts = path.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    # A track may be called "guitar [left]", which as a pattern means something else.
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def _mean_strip(strips: Sequence[Strip], weights: Sequence[float]) -> Strip:
    values = []
    for place, wanted in enumerate(strips[0].fields):
        heard = [w * _heard(strip, wanted) for strip, w in zip(strips, weights, strict=True)]
        used = heard if sum(heard) > 0 else weights
        parts = [(strip.values[place], w) for strip, w in zip(strips, used, strict=True) if w > 0]
        if len({value for value, _ in parts}) == 1:
            values.append(parts[0][0])  # to the bit
            continue
        total = sum(w * wanted.on_scale(value) for value, w in parts)
        values.append(wanted.off_scale(total / sum(w for _, w in parts)))
    return replace(strips[0], values=tuple(values))


def _heard(strip: Strip, wanted: Field) -> float:
    """Return how far what a setting is weighed by is from neutral; 1 where it stands alone."""
    if not wanted.weighed_by:
        return 1.0
    by = strip.field(wanted.weighed_by)
    return abs(by.position(strip[by.name]) - by.position(by.neutral))


def _nested(strip: Strip) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for wanted, value in strip.items():
        *groups, last = wanted.name.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return values


def _strip(fields: tuple[Field, ...], values: Any, where: str) -> Strip:
    found: dict[str, float] = {}

    def read(inner: Any, path: str) -> None:
        if isinstance(inner, dict):
            for key, value in inner.items():
                read(value, f"{path}.{key}" if path else str(key))
        elif isinstance(inner, bool) or not isinstance(inner, int | float):
            name = f"{where}.{path}" if path else where
            kind = "a number" if path else "an object"
            raise ConfigError(f"{name}: expected {kind}, found {shortened(inner)}")
        else:
            found[path] = float(inner)

    read(values, "")
    return Strip.neutral(fields).with_values(found, where)
