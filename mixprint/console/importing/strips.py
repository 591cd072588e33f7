"""Strips of the console that stand for channels of other programs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations

from mixprint.console.bands import Band, bell_names
from mixprint.console.export.channels import Channel
from mixprint.console.schema import TRACK_FIELDS
from mixprint.console.settings import Strip
from mixprint.dsp.equaliser import BUTTERWORTH_Q

# What differs by less was only rounded by another program.
_REL_TOLERANCE, _ABS_TOLERANCE = 1e-4, 1e-3
# Of an equaliser with many bands the strongest bells are looked at.
_MAX_BELLS = 8
_NOUNS = {
    "highpass": "high-pass",
    "lowpass": "low-pass",
    "low": "low shelf",
    "high": "high shelf",
    "bell": "bell",
}


def strip_of(channel: Channel, base: Strip, where: str) -> tuple[Strip, list[str]]:
    """Return the strip that does what a channel does.

    Args:
        channel: of the other program.
        base: what is kept where the channel says the same, and where it says nothing. Of what was
            exported these are the settings from then, so that what nobody has changed is exact.
        where: name of the track, for notes.

    Returns:
        the strip; and what could not be done, or only in another way, in sentences.
    """
    bands, refused = _assigned(channel.bands, base)
    notes = [f"{where}: {each}" for each in refused]
    found = _flat(replace(channel, bands=tuple(bands)), base)
    expected = _flat(Channel.of(base), base)
    changed = {
        name: value
        for name, value in found.items()
        if name not in expected or not _is_same(value, expected[name])
    }
    values, more = _as_settings(changed, base)
    notes += [f"{where}: {each}" for each in more]
    return base.with_values(values, where), notes


def changes_between(before: Strip, after: Strip) -> list[str]:
    """List the settings that differ, as `eq.low.gain_db 3 -> 4`."""
    return [
        f"{field.name} {old:.6g} -> {new:.6g}"
        for (field, old), new in zip(before.items(), after.values, strict=True)
        if old != new
    ]


def _is_same(value: float, other: float) -> bool:
    return math.isclose(value, other, rel_tol=_REL_TOLERANCE, abs_tol=_ABS_TOLERANCE)


def _flat(channel: Channel, base: Strip) -> dict[str, float]:
    """Name the numbers of a channel as settings; `level_db` and thresholds without the trim."""
    found = {
        f.name: f.neutral
        for f in base.fields
        if f.group == "eq" and not f.weighed_by  # gains and cuts
    }
    for band in channel.bands:
        if band.kind in ("highpass", "lowpass"):
            found[f"eq.{band.kind}_hz"] = band.freq_hz
            continue
        found[f"{band.field}.gain_db"] = band.gain_db
        found[f"{band.field}.freq_hz"] = band.freq_hz
        if band.kind == "bell":
            found[f"{band.field}.q"] = band.q
    found["comp.slope"] = 0.0
    if channel.dynamics is not None:
        found |= {
            "comp.slope": channel.dynamics.slope,
            "comp.threshold_db": channel.dynamics.threshold_db,
            "comp.attack_ms": channel.dynamics.attack_ms,
            "comp.release_ms": channel.dynamics.release_ms,
        }
    found["level_db"] = channel.level_db
    if base.fields is TRACK_FIELDS:
        found["pan"] = channel.pan
    return found


def _as_settings(changed: dict[str, float], base: Strip) -> tuple[dict[str, float], list[str]]:
    """Bring numbers of a channel to settings of a strip, within their ranges."""
    is_track = base.fields is TRACK_FIELDS
    values, notes = dict(changed), []
    trim_db = base["trim_db"] if is_track else 0.0
    level_db = values.pop("level_db", None)
    if (threshold_db := values.get("comp.threshold_db")) is not None:
        wanted = base.field("comp.threshold_db")
        if is_track and not wanted.low <= threshold_db + trim_db <= wanted.high:
            # A compressor hears the track behind the trim.
            if level_db is None:
                level_db = trim_db + base["fader_db"]
            trim_db = wanted.held(threshold_db) - threshold_db
            values["trim_db"] = trim_db
        values["comp.threshold_db"] = threshold_db + trim_db
    if level_db is not None:
        values["fader_db" if is_track else "output_db"] = level_db - trim_db
    for name, value in values.items():
        wanted = base.field(name)
        values[name] = wanted.held(value)
        if not _is_same(value, values[name]):
            notes.append(
                f"{name} {value:.6g} is out of range ({wanted.range_text}): {values[name]:g}"
            )
    return values, notes


def _assigned(bands: Sequence[Band], base: Strip) -> tuple[list[Band], list[str]]:
    """Give each band its place among the settings; say which find none."""
    found: list[Band] = []
    notes: list[str] = []
    known = {f.name for f in base.fields}
    for kind in ("highpass", "lowpass", "low", "high"):
        field = f"eq.{kind}_hz" if kind.endswith("pass") else f"eq.{kind}"
        own = [band for band in bands if band.kind == kind]
        is_known = field in known or f"{field}.gain_db" in known
        if own and is_known:
            found.append(replace(own[0], field=field))
            if not math.isclose(own[0].q, BUTTERWORTH_Q, rel_tol=0.02):
                notes.append(
                    f"{_named(own[0])} has Q {own[0].q:.3g}; the console's has {BUTTERWORTH_Q:.3g}"
                )
        notes += [f"{_named(band)} finds no place" for band in own[is_known:]]
    bells = sorted(
        (band for band in bands if band.kind == "bell"), key=lambda b: abs(b.gain_db), reverse=True
    )
    placed = _placed_bells(bells[:_MAX_BELLS], base)
    found += [replace(bell, field=field) for field, bell in placed.items()]
    # By identity: a file may have the same bell twice.
    has_place = {id(bell) for bell in placed.values()}
    notes += [f"{_named(bell)} finds no place" for bell in bells if id(bell) not in has_place]
    return found, notes


def _placed_bells(bells: Sequence[Band], base: Strip) -> dict[str, Band]:
    """Give bells to the console's, each in its range: as many, as strong and as near as can be."""
    fields = bell_names(base.fields)

    def is_in_range(bell: Band, field: str) -> bool:
        wanted = base.field(f"{field}.freq_hz")
        # What lies on the border in the file may have been rounded.
        return (
            wanted.low * (1 - _REL_TOLERANCE) <= bell.freq_hz <= wanted.high * (1 + _REL_TOLERANCE)
        )

    def cost(chosen: Iterable[Band | None]) -> tuple[float, float, float]:
        pairs = [(bell, f) for bell, f in zip(chosen, fields, strict=True) if bell is not None]
        distance = sum(abs(math.log(b.freq_hz / base[f"{f}.freq_hz"])) for b, f in pairs)
        return -len(pairs), -sum(abs(bell.gain_db) for bell, _ in pairs), distance

    possible = [
        chosen
        for chosen in permutations([*bells, *[None] * len(fields)], len(fields))
        if all(b is None or is_in_range(b, f) for b, f in zip(chosen, fields, strict=True))
    ]
    best = min(possible, key=cost)
    return {f: bell for bell, f in zip(best, fields, strict=True) if bell is not None}


def _named(band: Band) -> str:
    gain = f" of {band.gain_db:+.1f} dB" if not band.kind.endswith("pass") else ""
    return f"a {_NOUNS[band.kind]}{gain} at {band.freq_hz:.6g} Hz"
