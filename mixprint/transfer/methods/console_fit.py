"""Fit of a console to a style.

Faders, pans, widths, gains of equalisers and slopes of compressors are looked for, per stem, and a
master. Minimised is the distance of the result's features, or of its embedding, to those that are
aimed at (`mixprint.transfer.methods.distances`), plus what the settings cost by a Gaussian prior:
how far they move from one mix to another. With a style share the features that are aimed at are
those that the input is expected to have in the target's mix, else the target's own, which are also
those of its music. The result of several segments is measured as one: by the mean of their features
or embeddings, as a style is, for a verse and a chorus differ within one mix.

Few settings are looked for, and there are few residuals, so each step solves for all settings at
once (`mixprint.transfer.methods.least_squares`), and some ten steps suffice. What features do not
tell (frequencies, times) stays at its neutral value, and thresholds where levels exceed them.

Shape suffixes: K segment, S stem, C channel, T sample, P parameter, R residual.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixprint.console.levels import working_trim_db
from mixprint.console.mixing import Console, Values, louder_channel
from mixprint.console.recovery import loud_db
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import Settings
from mixprint.errors import TrainingError
from mixprint.progress import Progress
from mixprint.stems import STEMS
from mixprint.transfer.methods.console_effect import ConsoleEffect
from mixprint.transfer.methods.least_squares import LeastSquares
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import MIN_DURATION_S, NEAR_ENOUGH, Iteration, TransferResult

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


class _Desk:
    """Console with the segments of a song, whose settings are looked for as whitened numbers."""

    def __init__(self, problem: Problem, base: Settings, knobs: Sequence[Knob]) -> None:
        self._distances, self._rate_hz = problem.distances, problem.sample_rate_hz
        self._segments_SCT = problem.segments_SCT
        self._base, self._knobs = base, knobs
        # In units in which the prior is a standard normal distribution.
        self._weight = math.sqrt(problem.distances.prior_weight)

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
        whole = _Heard(self, self._segments_SCT)
        position_P = torch.zeros(len(self._knobs), dtype=torch.float64)
        jacobian_RP = self._derivatives(position_P)
        residual_R = whole.residuals(position_P)
        search = LeastSquares(position_P, residual_R, jacobian_RP, self._weight * longest)
        return search, whole

    def _derivatives(self, position_P: Tensor) -> Tensor:
        """Measure the derivatives at the prior's mean by differences, on a part of each segment.

        The master's compressor, which hears all stems, is left out for those of the stems, so that
        a stem's own settings change that stem alone.
        """
        parts_SCT = [_telling_part(s, self._rate_hz) for s in self._segments_SCT]
        heard = _Heard(self, parts_SCT)
        here_R = heard.residuals(position_P)
        alone = _Heard(self, parts_SCT, without_compression=True)
        alone_R = here_R
        if not self._base.master.is_neutral(_MASTER_SLOPE):
            alone_R = alone.residuals(position_P)
        else:
            alone.made_SCT = heard.made_SCT
        exchanged = self._distances.exchanging(alone.made_SCT)
        width = self._weight * DIFFERENCE
        columns = []
        for place, knob in enumerate(self._knobs):
            moved_P = position_P.clone()
            moved_P[place] += width
            if knob.strip == MASTER:
                columns.append((heard.residuals(moved_P) - here_R) / width)
            else:
                row = STEMS.index(knob.strip)
                moved_R = exchanged(row, alone.alone(row, moved_P)).double().cpu()
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
        names: Sequence[str] = STEMS,
        *,
        without_compression: bool = False,
    ) -> Values:
        """Return the values of some stems and of the master at a position.

        Args:
            position_P: the position.
            device: of the values.
            names: of the stems.
            without_compression: the master's compressor is neutral.
        """
        settings = self.settings(position_P)
        if without_compression:
            settings = settings.edit({f"{MASTER}.{_MASTER_SLOPE}": 0.0})
        some = replace(settings, tracks={name: settings.tracks[name] for name in names})
        return Values.of(some, self._rate_hz).to(device)


class _Heard:
    """Segments on the console."""

    def __init__(
        self, desk: _Desk, segments_SCT: Sequence[Tensor], *, without_compression: bool = False
    ) -> None:
        self._without_compression = without_compression
        self._desk, self._device = desk, segments_SCT[0].device
        self._segments_SCT = segments_SCT
        self._consoles = [Console(stems_SCT) for stems_SCT in segments_SCT]
        self.made_SCT: list[Tensor] = list(segments_SCT)

    @torch.no_grad()
    def residuals(self, position_P: Tensor) -> Tensor:
        """Mix at a position, and measure; what was made stays in `made_SCT`."""
        values = self._desk.values(
            position_P, self._device, without_compression=self._without_compression
        )
        self.made_SCT = [console(values) for console in self._consoles]
        return self._desk.residuals_of(self.made_SCT)

    @torch.no_grad()
    def alone(self, row: int, position_P: Tensor) -> list[Tensor]:
        """Return what the console makes of one stem of each segment, where it is alone."""
        values = self._desk.values(
            position_P,
            self._device,
            STEMS[row : row + 1],
            without_compression=self._without_compression,
        )
        return [Console(stems_SCT[row : row + 1])(values) for stems_SCT in self._segments_SCT]


def fit_console(problem: Problem) -> TransferResult:
    """Fit a console.

    Raises:
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    left_alone = problem.distances.left_alone
    base = _start(problem.segments_SCT, problem.sample_rate_hz, left_alone)
    return fit_from(problem, base, _knobs(left_alone))


def fit_from(
    problem: Problem, base: Settings, knobs: Sequence[Knob], *, is_predicted: bool = False
) -> TransferResult:
    """Fit a console from settings on, which are the prior's mean.

    Args:
        problem: the problem.
        base: where the search begins.
        knobs: what is looked for, with its spread around there.
        is_predicted: `base` is a result by itself, and making it counts as a step; else it gives
            the input, but for rounding.

    Raises:
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    distances = problem.distances
    started_s = time.perf_counter()
    with torch.no_grad():
        initial = distances.measure(0, problem.segments_SCT)
    found = base if is_predicted else Settings.neutral(STEMS)
    run = _Run(problem, [initial], first=int(is_predicted))
    is_near = distances.of(initial) <= NEAR_ENOUGH and not is_predicted
    if problem.settings.num_steps > 0 and not is_near and knobs:
        position_P = run.search(_Desk(problem, base, knobs))
        if position_P is not None:
            found = _Desk(problem, base, knobs).settings(position_P)
    effect = ConsoleEffect(found, problem.sample_rate_hz)
    ones_S = torch.ones(len(STEMS))
    rendered = [effect(stems_SCT, ones_S) for stems_SCT in problem.segments_SCT]
    final = distances.measure(run.best_step, rendered)
    converged = is_near or run.converged
    if run.step == run.first:
        converged = converged or (is_predicted and distances.of(final) < distances.of(initial))
    return TransferResult(
        effect=effect,
        segments_SCT=tuple(stems_SCT.cpu() for stems_SCT in rendered),
        initial=initial,
        final=final,
        iterations=_complete(run.iterations, final),
        best_step=run.best_step,
        num_steps=run.step,
        converged=converged,
        stems_left_alone=distances.left_alone,
        tcn_residual_db=None,
        receptive_field_samples=None,
        step_s=(time.perf_counter() - started_s) / (run.step + 1),
        notes=[] if run.trouble is None else [run.trouble],
    )


class _Run:
    """Steps of a search, and what came of them.

    Attributes:
        iterations: distances of the input, and of steps that came nearer.
        first: number of the step that the search begins at.
        step: number of the last step.
        best_step: number of the best one.
        converged: it ended on a plateau.
        trouble: a sentence, where it ended for a value that is not finite.
    """

    def __init__(self, problem: Problem, iterations: list[Iteration], first: int) -> None:
        self._problem, self.iterations, self.first = problem, iterations, first
        self.step = self.best_step = first
        self.converged = False
        self.trouble: str | None = None

    def search(self, desk: _Desk) -> Tensor | None:
        """Search, and return the best position; None where none is better than the first.

        Raises:
            TrainingError: a distance is not finite before any step was better.
        """
        distances, settings = self._problem.distances, self._problem.settings
        search, heard = desk.search(SPREADS_PER_LR * settings.lr)
        _check_finite(search)
        # The prior's mean is the input, but for rounding, or a prediction.
        objectives = [search.objective]
        if self.first:
            self.iterations.append(distances.measure(self.first, heard.made_SCT))
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
                    self.iterations.append(distances.measure(self.step, heard.made_SCT))
                self.converged = self.best_step > self.first and _is_on_plateau(objectives)
                progress.advance()
        if self.trouble is not None:
            if self.best_step == 0:
                raise TrainingError(self.trouble)
            self.trouble += f"; step {self.best_step}, the best before, is kept"
            log.warning("%s", self.trouble)
        return search.position_P if self.best_step > self.first else None


def _complete(iterations: list[Iteration], final: Iteration) -> list[Iteration]:
    """Return the iterations with the last one as it is rendered."""
    return [each for each in iterations if each.step < final.step] + [final]


def _check_finite(search: LeastSquares) -> None:
    if not (math.isfinite(search.objective) and bool(search.jacobian_RP.isfinite().all())):
        raise TrainingError(f"step 0: expected a finite objective, found {search.objective}")


def _is_on_plateau(objectives: Sequence[float]) -> bool:
    """Tell whether the last steps brought hardly anything."""
    if len(objectives) <= PATIENCE:
        return False
    before = objectives[-1 - PATIENCE]
    return before - objectives[-1] < PLATEAU_IMPROVEMENT * before


def _knobs(left_alone: Sequence[str]) -> list[Knob]:
    """List what is looked for.

    The master acts on all stems: where one is left alone, it stays as it is.
    """
    knobs = [
        Knob(stem, each, TRACK_SPREADS[each.name])
        for stem in STEMS
        if stem not in left_alone
        for each in TRACK_FIELDS
        if each.name in TRACK_SPREADS
    ]
    if not left_alone:
        knobs += [
            Knob(MASTER, each, MASTER_SPREADS[each.name])
            for each in MASTER_FIELDS
            if each.name in MASTER_SPREADS
        ]
    return knobs


def _start(
    segments_SCT: Sequence[Tensor], sample_rate_hz: int, left_alone: Sequence[str]
) -> Settings:
    """Bring the stems to their working level and back, with thresholds that are exceeded."""
    heard_SCT = torch.cat(list(segments_SCT), dim=-1)
    trims = working_trim_db(heard_SCT, sample_rate_hz)
    thresholds = loud_db(heard_SCT)
    changes: dict[str, float] = {}
    for stem, trim_db, level_db in zip(STEMS, trims, thresholds.tolist(), strict=True):
        if stem not in left_alone:
            changes |= {
                f"{stem}.trim_db": trim_db,
                f"{stem}.fader_db": -trim_db,
                f"{stem}.comp.threshold_db": level_db + trim_db,
            }
    if not left_alone:
        changes[f"{MASTER}.comp.threshold_db"] = float(loud_db(heard_SCT.sum(0, keepdim=True)))
    return within(Settings.neutral(STEMS), changes)


def within(settings: Settings, changes: dict[str, float]) -> Settings:
    """Edit settings, held within their ranges."""
    fields = {f"{n}.{f.name}": f for n, strip in settings.strips().items() for f in strip.fields}
    return settings.edit({path: fields[path].off_scale(v) for path, v in changes.items()})


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
