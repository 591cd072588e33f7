"""Settings of a console as numbers that a network learns: positions, gates, and back.

A position is where a setting lies in its range, 0 to 1 on the setting's scale. A gate tells whether
a group of settings (equaliser, compressor, drive, room) does anything; what stands alone, as width,
pan and fader, is always on. All follows from the table of the settings.

The trim is no target: it brings a track to the working level, and follows from the track.

Shape suffixes: N track, K field, G gate; `...` leading dimensions are free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mixprint.console.mixing import Values
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import Settings, Strip

TRIM = "trim_db"


@dataclass(frozen=True)
class Processor:
    """Processor of a strip: a setting that does something, with those that say where and how.

    Attributes:
        name: of the setting that does something, such as `eq.bell1.gain_db`.
        places: of its settings among the fields of the layout.
    """

    name: str
    places: tuple[int, ...]


class Layout:
    """Order of the predicted settings of a strip, and of its gates.

    Attributes:
        table: all fields of the strip.
        fields: those that are predicted, K of them.
        gates: names of the groups that can be off, G of them.
        processors: in the order in which a strip is passed.
        neutral_K: positions of the strip that changes nothing.
        gate_K: number of the gate of each field; -1 where it has none.
        is_gated_K: which fields do something and can be turned off by a gate.
        weigher_K: place of the field that each is weighed by; its own where it stands alone.
    """

    def __init__(self, table: tuple[Field, ...]) -> None:
        """Derive the order from a table of fields."""
        self.table = table
        self.fields = tuple(each for each in table if each.name != TRIM)
        groups = [each.group for each in self.fields]
        self.gates = tuple(g for g in dict.fromkeys(groups) if groups.count(g) > 1)
        own = [each for each in self.fields if not each.weighed_by]
        self.processors = tuple(
            Processor(
                each.name,
                tuple(
                    place
                    for place, other in enumerate(self.fields)
                    if each.name in (other.name, other.weighed_by)
                ),
            )
            for each in own
        )
        numbers = {name: number for number, name in enumerate(self.gates)}
        self._places = {each.name: place for place, each in enumerate(self.fields)}
        # On the CPU, also where a network is built without memory.
        with torch.device("cpu"):
            self.neutral_K = torch.tensor([f.position(f.neutral) for f in self.fields])
            self.gate_K = torch.tensor([numbers.get(f.group, -1) for f in self.fields])
            is_own_K = torch.tensor([not f.weighed_by for f in self.fields])
            self.weigher_K = torch.tensor(
                [self._places[f.weighed_by or f.name] for f in self.fields]
            )
        self.is_gated_K = is_own_K & (self.gate_K >= 0)

    def place(self, name: str) -> int:
        """Return the place of a setting among the fields."""
        return self._places[name]

    def span(self, name: str) -> float:
        """Return the width of the range of a setting, in its unit."""
        each = self.fields[self._places[name]]
        return each.high - each.low

    def __contains__(self, name: str) -> bool:
        """Tell whether a setting is one of the fields."""
        return name in self._places

    def positions(self, strips: Sequence[Strip]) -> Tensor:
        """Return position_NK of strips."""
        rows = [[each.position(strip[each.name]) for each in self.fields] for strip in strips]
        return torch.tensor(rows)

    def gate_states(self, strips: Sequence[Strip]) -> Tensor:
        """Return gate_NG of strips: 1 where a group does something, else 0."""
        rows = [
            [
                any(
                    each.group == gate and not each.weighed_by and not strip.is_neutral(each.name)
                    for each in self.fields
                )
                for gate in self.gates
            ]
            for strip in strips
        ]
        return torch.tensor(rows, dtype=torch.float32).view(len(strips), len(self.gates))

    def gated(self, position_K: Tensor, gate_G: Tensor) -> Tensor:
        """Take settings back to neutral by their gates: 1 leaves them, 0 is neutral to the bit.

        Args:
            position_K: `...K`.
            gate_G: `...G`, 0 to 1.
        """
        device = position_K.device
        neutral_K = self.neutral_K.to(position_K)
        gate_K = gate_G[..., self.gate_K.clamp_min(0).to(device)]
        opened_K = neutral_K + gate_K * (position_K - neutral_K)
        return torch.where(self.is_gated_K.to(device), opened_K, position_K)

    def values(self, position_NK: Tensor) -> dict[str, Tensor]:
        """Return the values of positions, float64, differentiable: field -> value_N.

        Beyond the ends of a range a position has no effect, but keeps its gradient.
        """
        held_NK = position_NK + (position_NK.clamp(0.0, 1.0) - position_NK).detach()
        is_neutral_NK = position_NK == self.neutral_K.to(position_NK)
        values = {}
        for place, each in enumerate(self.fields):
            low, high = each.on_scale(each.low), each.on_scale(each.high)
            value_N = low + (high - low) * held_NK[:, place].double()
            value_N = value_N.exp() if each.scale == "log" else value_N
            exact_N = torch.where(is_neutral_NK[:, place], each.neutral, value_N.detach())
            values[each.name] = value_N + (exact_N - value_N.detach())
        return values

    def strips(self, position_NK: Tensor) -> list[Strip]:
        """Return strips at positions, held within their ranges; trims are neutral."""
        columns = self.values(position_NK.detach().cpu())
        strips = []
        for row in range(len(position_NK)):
            found = {each.name: each.held(float(columns[each.name][row])) for each in self.fields}
            strips.append(Strip.neutral(self.table).with_values(found, "prediction"))
        return strips

    def spreads(self, position_K: Tensor, sigma_K: Tensor) -> dict[str, float]:
        """Return the spread of each setting in its unit: half of what a deviation spans."""
        spreads = {}
        for place, each in enumerate(self.fields):
            low, high = each.on_scale(each.low), each.on_scale(each.high)
            middle, sigma = float(position_K[place]), float(sigma_K[place])
            ends = [each.off_scale(low + (high - low) * (middle + s * sigma)) for s in (-1, 1)]
            spreads[each.name] = (ends[1] - ends[0]) / 2
        return spreads


TRACK = Layout(TRACK_FIELDS)
MASTER = Layout(MASTER_FIELDS)


@dataclass(frozen=True)
class Targets:
    """Settings of a song as positions and gates.

    Attributes:
        track_NK: positions of the tracks' settings.
        track_gate_NG: gates of the tracks.
        master_K: positions of the master's settings.
        master_gate_G: gates of the master.
    """

    track_NK: Tensor
    track_gate_NG: Tensor
    master_K: Tensor
    master_gate_G: Tensor

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take positions and gates of settings, whose trims bring tracks to the working level."""
        strips = list(settings.tracks.values())
        return cls(
            TRACK.positions(strips),
            TRACK.gate_states(strips),
            MASTER.positions([settings.master])[0],
            MASTER.gate_states([settings.master])[0],
        )

    @classmethod
    def neutral(cls, num_tracks: int) -> Self:
        """Return settings that change nothing."""
        return cls(
            TRACK.neutral_K.repeat(num_tracks, 1),
            torch.zeros(num_tracks, len(TRACK.gates)),
            MASTER.neutral_K.clone(),
            torch.zeros(len(MASTER.gates)),
        )

    def to(self, device: torch.device | str) -> Self:
        """Return them on a device."""
        parts = (self.track_NK, self.track_gate_NG, self.master_K, self.master_gate_G)
        return type(self)(*(part.to(device) for part in parts))

    def gated(self) -> Self:
        """Take what its gates turn off back to neutral."""
        return type(self)(
            TRACK.gated(self.track_NK, self.track_gate_NG),
            self.track_gate_NG,
            MASTER.gated(self.master_K, self.master_gate_G),
            self.master_gate_G,
        )

    def values(self, trim_db_N: Tensor, sample_rate_hz: int) -> Values:
        """Return the values for a console, differentiable in positions and gates."""
        gated = self.gated()
        track_N = TRACK.values(gated.track_NK) | {
            TRIM: trim_db_N.to(gated.track_NK.device).double()
        }
        return Values(track_N, MASTER.values(gated.master_K[None]), "inserts", sample_rate_hz)

    def settings(
        self, names: Sequence[str], trim_db: Sequence[float], sample_rate_hz: int
    ) -> Settings:
        """Return the settings, in units and within their ranges.

        Args:
            names: of the tracks.
            trim_db: that brings each track to the working level.
            sample_rate_hz: of the audio.

        Raises:
            ConfigError: names or their number cannot be used.
        """
        gated = self.gated()
        strips: Mapping[str, Strip] = {
            name: strip.with_values({TRIM: strip.field(TRIM).held(level_db)}, name)
            for name, strip, level_db in zip(
                names, TRACK.strips(gated.track_NK), trim_db, strict=True
            )
        }
        (master,) = MASTER.strips(gated.master_K[None])
        return Settings(strips, master, sample_rate_hz)
