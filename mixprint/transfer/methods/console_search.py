"""Search for settings of a console that bring tracks near to what is aimed at.

Settings are looked for as whitened numbers, around where the search begins, which is the mean of a
Gaussian prior. Their derivatives are measured once, by differences; each step then solves for all
of them at once (`mixprint.transfer.methods.least_squares`). Compared are stems: of several tracks
in a stem the sum.

Shape suffixes: N track, S stem, C channel, T sample, P parameter, R residual.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixprint.console.mixing import Console, Values, louder_channel
from mixprint.console.schema import MASTER, Field
from mixprint.console.settings import Settings
from mixprint.errors import TrainingError
from mixprint.progress import Progress
from mixprint.stems import NUM_STEMS
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.least_squares import LeastSquares
from mixprint.transfer.methods.result import MIN_DURATION_S, FitSettings, Iteration

log = logging.getLogger("mixprint.transfer")

# Standard deviations of the prior, in the settings' units: about how far the console of
# `mixprint.synthesis.mixing` moves from one style to another (docs/transfer.md). It has one bell in
# place of three, and its mixes have one peak: the output's level is nearly free. So are width and
# pan, of which only a few residuals tell.
TRACK_SPREADS = {
    "eq.low.gain_db": 4.0,
    "eq.bell1.gain_db": 3.0,
    "eq.bell2.gain_db": 4.0,
    "eq.bell3.gain_db": 3.0,
    "eq.high.gain_db": 4.0,
    "comp.slope": 0.3,
    "width": 1.0,
    "pan": 0.4,
    "fader_db": 6.0,
}
MASTER_SPREADS = {
    "eq.low.gain_db": 2.0,
    "eq.high.gain_db": 2.0,
    "comp.slope": 0.2,
    "output_db": 8.0,
}
# With the default learning rate a step moves a setting by four standard deviations at most.
SPREADS_PER_LR = 4_000.0
# Derivatives are measured over a fifth of a standard deviation, on so much of each segment.
DIFFERENCE = 0.2
DERIVATIVES_S = 4.0
_MASTER_SLOPE = "comp.slope"
# A controller may be surer than it should be, most of all of the stems of a mix: a spread is at
# least this part of how far settings move from one style to another, and at most that, see
# docs/decisions.md.
_LEAST_SHARE = 0.5
# A plateau: the objective fell by less than this fraction within so many steps.
PLATEAU_IMPROVEMENT, PATIENCE = 0.01, 3


@dataclass(frozen=True)
class Knob:
    """A setting that is looked for, and how far it moves from where the search begins.

    Attributes:
        strip: track or master.
        field: the setting, on a linear scale.
        spread: standard deviation, in its unit.
    """

    strip: str
    field: Field
    spread: float


@dataclass(frozen=True, eq=False)
class Tracks:
    """Tracks of a console.

    Attributes:
        segments_NCT: segments of the song, on the device where all is computed.
        sample_rate_hz: of the audio.
        stem_N: place in `STEMS` of the stem that each track is part of; None: they are the stems.
    """

    segments_NCT: Sequence[Tensor]
    sample_rate_hz: int
    stem_N: Sequence[int] | None = None

    def stems(self, made_NCT: Tensor) -> Tensor:
        """Add up the tracks of each stem: stems_SCT, silent where there is none."""
        if self.stem_N is None:
            return made_NCT
        stems_SCT = made_NCT.new_zeros(NUM_STEMS, *made_NCT.shape[1:])
        return stems_SCT.index_add(0, torch.tensor(self.stem_N, device=made_NCT.device), made_NCT)

    def exchanged(self, row: int, made_NCT: Tensor, track_1CT: Tensor) -> tuple[int, Tensor]:
        """Return the place of a track's stem, and that stem_1CT with another track in its place."""
        if self.stem_N is None:
            return row, track_1CT
        place = self.stem_N[row]
        rest_1CT = self.stems(made_NCT)[place] - made_NCT[row]
        return place, rest_1CT[None] + track_1CT


class Desk:
    """Console with the segments of a song, whose settings are looked for as whitened numbers."""

    def __init__(
        self, distances: Distances, tracks: Tracks, base: Settings, knobs: Sequence[Knob]
    ) -> None:
        """Take what is given.

        Args:
            distances: of stems, to what is aimed at.
            tracks: tracks of the song.
            base: settings of these tracks, in their order: the prior's mean.
            knobs: what is looked for.
        """
        self._distances, self._rate_hz = distances, tracks.sample_rate_hz
        self.tracks, self.names = tracks, list(base.tracks)
        self._base, self._knobs = base, knobs
        # In units in which the prior is a standard normal distribution.
        self._weight = math.sqrt(distances.prior_weight)

    def settings(self, position_P: Tensor) -> Settings:
        """Return the settings at a position; beyond an end of a range it stays at the end."""
        moved = zip(self._knobs, (position_P / self._weight).tolist(), strict=True)
        return self._base.edit(
            {
                path: knob.field.off_scale(self._base[path] + knob.spread * way)
                for knob, way in moved
                for path in [f"{knob.strip}.{knob.field.name}"]
            }
        )

    def search(self, longest: float) -> tuple[LeastSquares, "_Heard"]:
        """Begin at the prior's mean; return the search and what it asks."""
        whole = _Heard(self, self.tracks.segments_NCT)
        position_P = torch.zeros(len(self._knobs), dtype=torch.float64)
        jacobian_RP = self._derivatives(position_P)
        residual_R = whole.residuals(position_P)
        search = LeastSquares(position_P, residual_R, jacobian_RP, self._weight * longest)
        return search, whole

    def _derivatives(self, position_P: Tensor) -> Tensor:
        """Measure the derivatives at the prior's mean by differences, on a part of each segment.

        The master's compressor, which hears all tracks, is left out for those of the tracks, so
        that a track's own settings change its stem alone.
        """
        parts_NCT = [_telling_part(s, self._rate_hz) for s in self.tracks.segments_NCT]
        heard = _Heard(self, parts_NCT)
        here_R = heard.residuals(position_P)
        alone = _Heard(self, parts_NCT, without_compression=True)
        alone_R = here_R
        if not self._base.master.is_neutral(_MASTER_SLOPE):
            alone_R = alone.residuals(position_P)
        else:
            alone.made_NCT = heard.made_NCT
        exchanged = self._distances.exchanging(alone.stems_SCT)
        width = self._weight * DIFFERENCE
        columns = []
        for place, knob in enumerate(self._knobs):
            moved_P = position_P.clone()
            moved_P[place] += width
            if knob.strip == MASTER:
                columns.append((heard.residuals(moved_P) - here_R) / width)
            else:
                place, moved_1CT = alone.stem_of(self.names.index(knob.strip), moved_P)
                moved_R = exchanged(place, moved_1CT).double().cpu()
                columns.append((moved_R - alone_R) / width)
        return torch.stack(columns, dim=1)

    def residuals_of(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Return the residuals of what was made of segments, residual_R on the CPU."""
        with torch.no_grad():
            return self._distances.residuals(segments_SCT).double().cpu()

    def values(
        self,
        position_P: Tensor,
        device: torch.device,
        names: Sequence[str] | None = None,
        *,
        without_compression: bool = False,
    ) -> Values:
        """Return the values of some tracks and of the master at a position.

        Args:
            position_P: the position.
            device: of the values.
            names: of the tracks; None: all.
            without_compression: the master's compressor is neutral.
        """
        settings = self.settings(position_P)
        if without_compression:
            settings = settings.edit({f"{MASTER}.{_MASTER_SLOPE}": 0.0})
        names = self.names if names is None else names
        some = replace(settings, tracks={name: settings.tracks[name] for name in names})
        return Values.of(some, self._rate_hz).to(device)


class _Heard:
    """Segments on the console."""

    def __init__(
        self, desk: Desk, segments_NCT: Sequence[Tensor], *, without_compression: bool = False
    ) -> None:
        self._without_compression = without_compression
        self._desk, self._device = desk, segments_NCT[0].device
        self._segments_NCT = segments_NCT
        self._consoles = [Console(tracks_NCT) for tracks_NCT in segments_NCT]
        self.made_NCT: list[Tensor] = list(segments_NCT)

    @property
    def stems_SCT(self) -> list[Tensor]:  # noqa: N802 (the suffix is the tensor's shape)
        """Stems of what was made."""
        return [self._desk.tracks.stems(made_NCT) for made_NCT in self.made_NCT]

    @torch.no_grad()
    def residuals(self, position_P: Tensor) -> Tensor:
        """Mix at a position, and measure; what was made stays in `made_NCT`."""
        values = self._desk.values(
            position_P, self._device, without_compression=self._without_compression
        )
        self.made_NCT = [console(values) for console in self._consoles]
        return self._desk.residuals_of(self.stems_SCT)

    @torch.no_grad()
    def stem_of(self, row: int, position_P: Tensor) -> tuple[int, list[Tensor]]:
        """Mix one track alone; return the place of its stem, and that stem_1CT of each segment."""
        values = self._desk.values(
            position_P,
            self._device,
            self._desk.names[row : row + 1],
            without_compression=self._without_compression,
        )
        found = [
            self._desk.tracks.exchanged(row, made_NCT, Console(tracks_NCT[row : row + 1])(values))
            for tracks_NCT, made_NCT in zip(self._segments_NCT, self.made_NCT, strict=True)
        ]
        return found[0][0], [stem_1CT for _, stem_1CT in found]


def knobs_around(
    predicted: Settings, spread: Mapping[str, Mapping[str, float]], left_alone: Collection[str]
) -> list[Knob]:
    """List what is looked for around predicted settings.

    Args:
        predicted: the settings.
        spread: strip -> setting -> standard deviation of the prediction.
        left_alone: strips of which nothing is looked for.
    """
    knobs = []
    for name, strip in predicted.strips().items():
        usual = MASTER_SPREADS if name == MASTER else TRACK_SPREADS
        for field in strip.fields:
            if field.name in usual and name not in left_alone:
                most = usual[field.name]
                own = spread.get(name, {}).get(field.name, most)
                knobs.append(Knob(name, field, min(max(own, _LEAST_SHARE * most), most)))
    return knobs


class Run:
    """Steps of a search, and what came of them.

    Attributes:
        iterations: distances of the input, and of steps that came nearer.
        first: number of the step that the search begins at.
        step: number of the last step.
        best_step: number of the best one.
        converged: it ended on a plateau.
        trouble: a sentence, where it ended for a value that is not finite.
        narrowed_P: part of the prior's spread that is left of each parameter; none before a search.
    """

    def __init__(
        self,
        distances: Distances,
        settings: FitSettings,
        iterations: list[Iteration],
        first: int,
    ) -> None:
        """Begin.

        Args:
            distances: of stems, to what is aimed at.
            settings: how far, and how many steps.
            iterations: receives distances, after those that it holds already.
            first: number of the step that the search begins at.
        """
        self._distances, self._settings = distances, settings
        self.iterations, self.first = iterations, first
        self.narrowed_P = torch.ones(0)
        self.step = self.best_step = first
        self.converged = False
        self.trouble: str | None = None

    def search(self, desk: Desk) -> Tensor | None:
        """Search, and return the best position; None where none is better than the first.

        Raises:
            TrainingError: a distance is not finite before any step was better.
        """
        distances, settings = self._distances, self._settings
        search, heard = desk.search(SPREADS_PER_LR * settings.lr)
        _check_finite(search)
        # The prior's mean is the input, but for rounding, or a prediction.
        objectives = [search.objective]
        if self.first:
            self.iterations.append(distances.measure(self.first, heard.stems_SCT))
        with Progress(log, "fitted", total=None, unit="steps") as progress:
            while self.step < settings.num_steps + self.first and not self.converged:
                self.step += 1
                try:
                    improved = search.step(heard.residuals)
                except FloatingPointError as error:
                    self.trouble = (
                        f"step {self.step}: {error}; a lower lr than {settings.lr} may help"
                    )
                    break
                objectives.append(search.objective)
                if improved:
                    self.best_step = self.step
                    self.iterations.append(distances.measure(self.step, heard.stems_SCT))
                self.converged = self.best_step > self.first and _is_on_plateau(objectives)
                progress.advance()
        if self.trouble is not None:
            if self.best_step == 0:
                raise TrainingError(self.trouble)
            self.trouble += f"; step {self.best_step}, the best before, is kept"
            log.warning("%s", self.trouble)
        self.narrowed_P = search.narrowed()
        return search.position_P if self.best_step > self.first else None


def _check_finite(search: LeastSquares) -> None:
    if not (math.isfinite(search.objective) and bool(search.jacobian_RP.isfinite().all())):
        raise TrainingError(f"step 0: expected a finite objective, found {search.objective}")


def _is_on_plateau(objectives: Sequence[float]) -> bool:
    """Tell whether the last steps brought hardly anything."""
    if len(objectives) <= PATIENCE:
        return False
    before = objectives[-1 - PATIENCE]
    return before - objectives[-1] < PLATEAU_IMPROVEMENT * before


def _telling_part(stems_SCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Cut the part in which all stems sound the most."""
    size = round(max(DERIVATIVES_S, MIN_DURATION_S) * sample_rate_hz)
    if stems_SCT.shape[-1] <= size:
        return stems_SCT
    power_ST = louder_channel(stems_SCT).square()
    parts_SPT = power_ST.unfold(-1, size, sample_rate_hz)
    power_SP = parts_SPT.mean(dim=-1)
    relative_SP = power_SP / power_SP.mean(dim=1, keepdim=True).clamp_min(1e-12)
    start = int(torch.log10(relative_SP + 1e-3).sum(dim=0).argmax()) * sample_rate_hz
    return stems_SCT[..., start : start + size]
