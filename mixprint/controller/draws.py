"""Styles of mixes, drawn anew from everything that a console can do.

A style has settings for each role that a track can have, and for the master; so it can be applied
to any song. Most styles lie around what is usual for a role: how far away is drawn in part for the
whole mix, in part for the stem, and in part for the role, so that in a roomy mix all is roomy; and
there are few different rooms. The others are drawn evenly over nearly all that the settings allow.
Processors may be off. Both kinds reach further than the draw that benchmarks are made with
(`mixprint.synthesis.mixing.free_style`).

Shape suffixes: R role (in the order of `ROLES`), S stem, F field of a table, G group.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import MAX_SHARED_ROOMS, ROOM_SHAPE, Settings, Strip
from mixprint.controller.roles import ROLES, stem_numbers
from mixprint.schema import Part
from mixprint.stems import STEMS


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Parameters of drawn styles.

    Attributes:
        wide_share: part of the styles that is drawn evenly over nearly all ranges.
        eq_probability: of each role's equaliser, and the master's, to be in use.
        comp_probability: of its compressor.
        drive_probability: of its drive.
        room_probability: of its room.
    """

    wide_share: Part
    eq_probability: Part
    comp_probability: Part
    drive_probability: Part
    room_probability: Part


@dataclass(frozen=True)
class _Draw:
    """Distribution of a setting, in its unit.

    Attributes:
        centre: of usual styles.
        spread: standard deviation there; of settings on a logarithmic scale a factor.
        low: lowest value of a wide draw.
        high: highest value of a wide draw.
        probability: of the setting to be in use while its group is.
    """

    centre: float
    spread: float
    low: float
    high: float
    probability: float = 1.0


def _gain(centre_db: float, spread_db: float) -> _Draw:
    return _Draw(centre_db, spread_db, -12.0, 12.0, 0.7)


_TRACK: Mapping[str, _Draw] = {
    "eq.highpass_hz": _Draw(70.0, 1.6, 15.0, 400.0, 0.5),
    "eq.lowpass_hz": _Draw(12_000.0, 1.4, 2_500.0, 19_000.0, 0.15),
    "eq.low.gain_db": _gain(0.0, 3.5),
    "eq.low.freq_hz": _Draw(130.0, 1.5, 30.0, 500.0),
    "eq.bell1.gain_db": _gain(-1.0, 3.0),
    "eq.bell1.freq_hz": _Draw(300.0, 1.6, 60.0, 1_000.0),
    "eq.bell1.q": _Draw(1.0, 1.6, 0.3, 8.0),
    "eq.bell2.gain_db": _gain(0.0, 3.5),
    "eq.bell2.freq_hz": _Draw(1_200.0, 1.8, 300.0, 6_000.0),
    "eq.bell2.q": _Draw(1.0, 1.6, 0.3, 8.0),
    "eq.bell3.gain_db": _gain(0.5, 3.0),
    "eq.bell3.freq_hz": _Draw(4_500.0, 1.5, 2_000.0, 16_000.0),
    "eq.bell3.q": _Draw(1.0, 1.6, 0.3, 8.0),
    "eq.high.gain_db": _gain(0.5, 3.5),
    "eq.high.freq_hz": _Draw(7_000.0, 1.4, 1_500.0, 16_000.0),
    "comp.threshold_db": _Draw(-20.0, 6.0, -45.0, -3.0),
    "comp.slope": _Draw(0.6, 0.2, -0.4, 0.95),
    "comp.attack_ms": _Draw(12.0, 2.2, 0.5, 150.0),
    "comp.release_ms": _Draw(150.0, 1.9, 15.0, 1_500.0),
    "comp.knee_db": _Draw(5.0, 4.0, 0.0, 24.0),
    "drive.drive_db": _Draw(9.0, 4.0, 0.0, 24.0),
    "drive.mix": _Draw(0.5, 0.25, 0.05, 1.0),
    "room.send_db": _Draw(-18.0, 6.0, -50.0, 3.0),
    "room.time_s": _Draw(1.1, 1.7, 0.15, 5.0),
    "room.low_ratio": _Draw(1.0, 1.3, 0.4, 2.5, 0.15),
    "room.high_ratio": _Draw(0.7, 1.4, 0.2, 1.6, 0.15),
    "width": _Draw(1.0, 0.3, 0.0, 2.2),
    "pan": _Draw(0.0, 0.05, -1.0, 1.0),
    # Beside the balance of the roles.
    "fader_db": _Draw(0.0, 3.0, -9.0, 9.0),
}
_MASTER: Mapping[str, _Draw] = {
    "eq.low.gain_db": _gain(0.5, 2.0),
    "eq.low.freq_hz": _Draw(110.0, 1.4, 30.0, 500.0),
    "eq.bell1.gain_db": _gain(-0.5, 1.5),
    "eq.bell1.freq_hz": _Draw(400.0, 1.5, 60.0, 2_000.0),
    "eq.bell1.q": _Draw(0.9, 1.5, 0.3, 8.0),
    "eq.bell2.gain_db": _gain(0.0, 1.5),
    "eq.bell2.freq_hz": _Draw(3_000.0, 1.5, 1_000.0, 12_000.0),
    "eq.bell2.q": _Draw(0.9, 1.5, 0.3, 8.0),
    "eq.high.gain_db": _gain(0.5, 2.0),
    "eq.high.freq_hz": _Draw(8_000.0, 1.3, 1_500.0, 16_000.0),
    "comp.threshold_db": _Draw(-14.0, 5.0, -30.0, -2.0),
    "comp.slope": _Draw(0.45, 0.2, -0.2, 0.9),
    "comp.attack_ms": _Draw(20.0, 1.8, 0.5, 150.0),
    "comp.release_ms": _Draw(200.0, 1.7, 15.0, 1_500.0),
    "comp.knee_db": _Draw(6.0, 4.0, 0.0, 24.0),
    "output_db": _Draw(1.0, 3.0, -9.0, 9.0),
}
# Fader at which tracks of a role, brought to the working level, are in balance.
_BALANCE_DB: Mapping[str, float] = {
    "vocals": 0.0,
    "backing": -8.0,
    "bass": -3.0,
    "drums": 0.0,
    "kick": -3.0,
    "snare": -4.0,
    "hats": -14.0,
    "cymbals": -13.0,
    "toms": -6.0,
    "percussion": -12.0,
    "room": -12.0,
    "guitar": -8.0,
    "keys": -8.0,
    "pad": -11.0,
    "strings": -10.0,
    "brass": -9.0,
    "synth": -9.0,
    "other": -5.0,
}
# Where a role's centre is another one; of `pan` how far to one side or the other.
_CENTRES: Mapping[str, Mapping[str, float]] = {
    "vocals": {"eq.highpass_hz": 90.0, "room.send_db": -16.0},
    "backing": {"eq.highpass_hz": 120.0, "room.send_db": -13.0, "pan": 0.35},
    "bass": {"eq.highpass_hz": 30.0, "eq.lowpass_hz": 6_000.0, "room.send_db": -34.0},
    "kick": {"eq.highpass_hz": 28.0, "room.send_db": -32.0, "comp.attack_ms": 20.0},
    "snare": {"eq.highpass_hz": 90.0, "room.send_db": -16.0, "comp.attack_ms": 18.0},
    "hats": {"eq.highpass_hz": 300.0, "room.send_db": -26.0, "pan": 0.3},
    "cymbals": {"eq.highpass_hz": 250.0, "room.send_db": -22.0, "pan": 0.3},
    "toms": {"pan": 0.35, "room.send_db": -18.0},
    "percussion": {"eq.highpass_hz": 200.0, "pan": 0.45},
    "guitar": {"eq.highpass_hz": 100.0, "pan": 0.5},
    "keys": {"pan": 0.3},
    "pad": {"room.send_db": -12.0, "pan": 0.15},
    "strings": {"room.send_db": -11.0, "pan": 0.25},
    "brass": {"room.send_db": -14.0, "pan": 0.3},
    "synth": {"room.send_db": -15.0, "pan": 0.35},
}
# How much wider than in the table a pan spreads that has a side.
_SIDE_SPREAD = 4.0
# Parts of the variance that belong to the whole mix, to a stem and to a role.
_SHARED_VARIANCE, _STEM_VARIANCE = 0.3, 0.3
# So many different rooms has a usual mix at most.
_NUM_ROOMS = MAX_SHARED_ROOMS
# What a compressor or a drive takes from a track's level is given back in part.
_LOUD_DBFS, _GIVEN_BACK = -12.0, 0.5
_LOUD_DRIVE_DB = 8.0


@dataclass(frozen=True)
class Style:
    """Settings for each role, and for the master.

    Attributes:
        track_RF: values of `TRACK_FIELDS`, float64; trims are neutral.
        master_F: values of `MASTER_FIELDS`.
        is_wide: whether it was drawn evenly.
    """

    track_RF: Tensor
    master_F: Tensor
    is_wide: bool

    def settings(
        self,
        names: Sequence[str],
        roles: Sequence[str],
        trims_db: Sequence[float],
        sample_rate_hz: int,
    ) -> Settings:
        """Return the settings for a song.

        Args:
            names: of its tracks.
            roles: theirs; unknown ones are treated as `other`.
            trims_db: what brings them to the working level.
            sample_rate_hz: of the audio.
        """
        strips = {}
        for place, (name, role, trim_db) in enumerate(zip(names, roles, trims_db, strict=True)):
            row = self.track_RF[_row(role)].tolist()
            # The second guitar is as far on the other side.
            if list(roles[:place]).count(role) % 2:
                row[_PAN] = -row[_PAN]
            row[_TRIM] = TRACK_FIELDS[_TRIM].off_scale(trim_db)
            strips[name] = Strip(TRACK_FIELDS, tuple(row))
        master = Strip(MASTER_FIELDS, tuple(self.master_F.tolist()))
        return Settings(strips, master, sample_rate_hz)


def neutral_style() -> Style:
    """Return the style that leaves tracks at their working level, and changes nothing else."""
    track_F, master_F = (
        torch.tensor([each.neutral for each in table], dtype=torch.float64)
        for table in (TRACK_FIELDS, MASTER_FIELDS)
    )
    return Style(track_F.repeat(len(ROLES), 1), master_F, is_wide=False)


def draw_style(generator: torch.Generator, config: DrawConfig) -> Style:
    """Draw a style."""
    is_wide = bool(_rand(generator) < config.wide_share)
    track_RF = _drawn(generator, _table(TRACK_FIELDS), config, is_wide=is_wide)
    master_1F = _drawn(generator, _table(MASTER_FIELDS), config, is_wide=is_wide)
    slope_R, threshold_R = track_RF[:, _SLOPE], track_RF[:, _THRESHOLD]
    lost_R = slope_R.clamp_min(0.0) * (_LOUD_DBFS - threshold_R).clamp_min(0.0)
    lost_R = lost_R + track_RF[:, _MIX] * (track_RF[:, _DRIVE] - _LOUD_DRIVE_DB).clamp_min(0.0)
    balance_R = torch.tensor([_BALANCE_DB[role] for role in ROLES], dtype=torch.float64)
    fader = TRACK_FIELDS[_FADER]
    fader_R = track_RF[:, _FADER] + balance_R + _GIVEN_BACK * lost_R
    track_RF[:, _FADER] = fader_R.clamp(fader.low, fader.high)
    return Style(track_RF, master_1F[0], is_wide)


class _Table:
    """Distribution of the settings of a strip, on their scales.

    Attributes:
        fields: of the strip.
        centre_RF: of usual styles, in a row for each role; one row for the master.
        spread_RF: standard deviation there.
        low_F: lowest value of a wide draw.
        high_F: highest value of a wide draw.
    """

    def __init__(self, fields: tuple[Field, ...], draws: Mapping[str, _Draw]) -> None:
        self.fields = fields
        self.is_track = fields is TRACK_FIELDS
        rows = [_CENTRES.get(role, {}) for role in ROLES] if self.is_track else [{}]
        fixed = {f.name: _Draw(f.neutral, 0.0, f.neutral, f.neutral, 0.0) for f in fields}
        chosen = [(f, (fixed | dict(draws))[f.name]) for f in fields]
        self.centre_RF = _float64(
            [[f.on_scale(row.get(f.name, draw.centre)) for f, draw in chosen] for row in rows]
        )
        spread_F = [
            math.log(d.spread) if f.scale == "log" and d.spread else d.spread for f, d in chosen
        ]
        self.spread_RF = _float64(spread_F).repeat(len(rows), 1)
        if self.is_track:
            self.spread_RF[self.centre_RF[:, _PAN] != 0, _PAN] *= _SIDE_SPREAD
        self.low_F = _float64([f.on_scale(draw.low) for f, draw in chosen])
        self.high_F = _float64([f.on_scale(draw.high) for f, draw in chosen])
        self.least_F = _float64([f.low for f in fields])
        self.most_F = _float64([f.high for f in fields])
        self.neutral_F = _float64([f.neutral for f in fields])
        self.probability_F = _float64([draw.probability for _, draw in chosen])
        self.is_log_F = torch.tensor([f.scale == "log" for f in fields])
        self.groups = list(dict.fromkeys(f.group for f in fields))
        self.group_F = torch.tensor([self.groups.index(f.group) for f in fields])
        names = [f.name for f in fields]
        self.weigher_F = torch.tensor([names.index(f.weighed_by or f.name) for f in fields])


@functools.cache
def _table(fields: tuple[Field, ...]) -> _Table:
    return _Table(fields, _TRACK if fields is TRACK_FIELDS else _MASTER)


def _drawn(
    generator: torch.Generator, table: _Table, config: DrawConfig, *, is_wide: bool
) -> Tensor:
    """Draw value_RF: in a row for each role, or in one for the master."""
    num_rows, num_fields = table.centre_RF.shape
    if is_wide:
        part_RF = _rand(generator, num_rows, num_fields)
        number_RF = table.low_F + (table.high_F - table.low_F) * part_RF
    else:
        number_RF = table.centre_RF + table.spread_RF * _deviations(generator, table)
        if table.is_track:
            side_R = torch.where(_rand(generator, num_rows) < 0.5, -1.0, 1.0)
            number_RF[:, _PAN] *= side_R
    value_RF = torch.where(table.is_log_F, number_RF.exp(), number_RF)
    value_RF = torch.minimum(torch.maximum(value_RF, table.least_F), table.most_F)
    # A group is in use or not, and in it each setting that does something.
    chances = [getattr(config, f"{group}_probability", 1.0) for group in table.groups]
    group_RG = _rand(generator, num_rows, len(chances)) < _float64(chances)
    own_RF = _rand(generator, num_rows, num_fields) < table.probability_F
    if table.is_track and not is_wide:
        # Roles are sent to one of a few rooms, as in a studio.
        rooms = torch.randint(num_rows, (_NUM_ROOMS,), generator=generator)
        room_R = rooms[torch.randint(_NUM_ROOMS, (num_rows,), generator=generator)]
        value_RF[:, _ROOM_SHAPE] = value_RF[room_R][:, _ROOM_SHAPE]
        own_RF[:, _ROOM_SHAPE] = own_RF[room_R][:, _ROOM_SHAPE]
    is_on_RF = group_RG[:, table.group_F] & own_RF
    # What only says where or how goes with what it belongs to.
    is_on_RF = is_on_RF & is_on_RF[:, table.weigher_F]
    return torch.where(is_on_RF, value_RF, table.neutral_F)


def _deviations(generator: torch.Generator, table: _Table) -> Tensor:
    """Draw deviations of unit variance, which roles of a stem, and all roles, share in part."""
    num_rows, num_fields = table.centre_RF.shape
    if not table.is_track:
        return _randn(generator, num_rows, num_fields)
    return shared_deviations(generator, num_fields)


def shared_deviations(generator: torch.Generator, num_fields: int) -> Tensor:
    """Draw deviation_RF of unit variance, which roles of a stem, and all roles, share in part."""
    own_RF = _randn(generator, len(ROLES), num_fields)
    mix_1F, stem_SF = _randn(generator, 1, num_fields), _randn(generator, len(STEMS), num_fields)
    own_variance = 1.0 - _SHARED_VARIANCE - _STEM_VARIANCE
    return (
        math.sqrt(_SHARED_VARIANCE) * mix_1F
        + math.sqrt(_STEM_VARIANCE) * stem_SF[stem_numbers(ROLES)]
        + math.sqrt(own_variance) * own_RF
    )


def _row(role: str) -> int:
    return ROLES.index(role if role in ROLES else "other")


def _place(name: str) -> int:
    return next(place for place, each in enumerate(TRACK_FIELDS) if each.name == name)


_TRIM, _PAN, _FADER = _place("trim_db"), _place("pan"), _place("fader_db")
_SLOPE, _THRESHOLD = _place("comp.slope"), _place("comp.threshold_db")
_DRIVE, _MIX = _place("drive.drive_db"), _place("drive.mix")
_ROOM_SHAPE = [_place(name) for name in ROOM_SHAPE]


def _float64(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _rand(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
