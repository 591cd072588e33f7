"""Settings as numbers that an optimiser moves: where each lies in its range, 0 to 1.

Shape suffixes: N track, F field.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mixprint.console.mixing import Values
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import Settings, Strip

# Tells of a track (or the master) and a field whether it is looked for.
IsFitted = Callable[[str, Field], bool]


class Positions(nn.Module):
    """Positions of all settings, of which some are looked for.

    Beyond the ends of a range a position has no effect, but keeps its gradient: it finds back.
    """

    def __init__(self, settings: Settings, is_fitted: IsFitted) -> None:
        """Begin at settings.

        Args:
            settings: where the search begins; what is not looked for stays there to the bit.
            is_fitted: what is looked for.
        """
        super().__init__()
        self._start = settings
        names = list(settings.tracks)
        self._tracks = _Table(TRACK_FIELDS, list(settings.tracks.values()), names, is_fitted)
        self._master = _Table(MASTER_FIELDS, [settings.master], [MASTER], is_fitted)

    def look_for(self, is_fitted: IsFitted) -> None:
        """Change what is looked for; all stays where it is."""
        self._tracks.look_for(is_fitted)
        self._master.look_for(is_fitted)

    def move(self, values: Mapping[str, Tensor]) -> None:
        """Move what is looked for, and still neutral, of the tracks and of the master.

        Args:
            values: field -> value of each track; those of the master begin with `master.`.
        """
        own = f"{MASTER}."
        self._tracks.move({n: v for n, v in values.items() if not n.startswith(own)})
        self._master.move({n.removeprefix(own): v for n, v in values.items() if n.startswith(own)})

    def values(self, sample_rate_hz: int) -> Values:
        """Return the values, differentiable in what is looked for."""
        return Values(
            self._tracks.columns(), self._master.columns(), self._start.rooms, sample_rate_hz
        )

    def departure(self) -> Tensor:
        """Return how far all is from where it began: the sum of the squares of the ways."""
        return self._tracks.departure() + self._master.departure()

    def settings(self) -> Settings:
        """Return the settings at the present positions."""
        tracks = dict(zip(self._start.tracks, self._tracks.strips(), strict=True))
        (master,) = self._master.strips()
        return Settings(tracks, master, self._start.sample_rate_hz, self._start.rooms)


class _Table(nn.Module):
    """Positions of some strips with the same fields."""

    is_fitted_NF: Tensor
    fixed_NF: Tensor
    start_NF: Tensor

    def __init__(
        self,
        fields: Sequence[Field],
        strips: Sequence[Strip],
        names: Sequence[str],
        is_fitted: IsFitted,
    ) -> None:
        super().__init__()
        self._fields, self._strips, self._names = fields, strips, names
        self.look_for(is_fitted)
        values = torch.tensor([strip.values for strip in strips], dtype=torch.float64)
        self.register_buffer("fixed_NF", values)
        positions = [[f.position(v) for f, v in strip.items()] for strip in strips]
        start_NF = torch.tensor(positions, dtype=torch.float64)
        self.position_NF = nn.Parameter(start_NF)
        self.register_buffer("start_NF", start_NF.clone())

    def look_for(self, is_fitted: IsFitted) -> None:
        fitted = [[is_fitted(name, each) for each in self._fields] for name in self._names]
        self.register_buffer("is_fitted_NF", torch.tensor(fitted))

    def move(self, values: Mapping[str, Tensor]) -> None:
        for name, value_N in values.items():
            (place,) = (p for p, each in enumerate(self._fields) if each.name == name)
            each = self._fields[place]
            for row in range(len(self._names)):
                if self.is_fitted_NF[row, place] and self.fixed_NF[row, place] == each.neutral:
                    value = each.off_scale(each.on_scale(float(value_N[row])))
                    with torch.no_grad():
                        self.position_NF[row, place] = each.position(value)
                    self.start_NF[row, place] = each.position(value)

    def departure(self) -> Tensor:
        return (self.position_NF - self.start_NF).square().sum()

    def columns(self) -> dict[str, Tensor]:
        held_NF = self.position_NF.clamp(0.0, 1.0)
        held_NF = self.position_NF + (held_NF - self.position_NF).detach()
        columns = {}
        for place, each in enumerate(self._fields):
            column_N = self.fixed_NF[:, place]
            is_fitted_N = self.is_fitted_NF[:, place]
            if is_fitted_N.any():
                low, high = each.on_scale(each.low), each.on_scale(each.high)
                found_N = low + (high - low) * held_NF[:, place]
                found_N = found_N.exp() if each.scale == "log" else found_N
                column_N = torch.where(is_fitted_N, found_N, column_N)
            columns[each.name] = column_N
        return columns

    def strips(self) -> list[Strip]:
        with torch.no_grad():
            rows = torch.stack(list(self.columns().values()), dim=-1).tolist()
        # Rounding may lead slightly beyond an end.
        return [
            Strip(
                strip.fields,
                tuple(f.held(value) for f, value in zip(strip.fields, row, strict=True)),
            )
            for strip, row in zip(self._strips, rows, strict=True)
        ]
