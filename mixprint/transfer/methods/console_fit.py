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
# A plateau: the objective fell by less than this fraction within so many steps.
PLATEAU_IMPROVEMENT, PATIENCE = 0.01, 3


@dataclass(frozen=True)
class _Knob:
    """A setting that is looked for, and how far it moves from one mix to another."""

    strip: str
    field: Field
    spread: float


class _Desk:
    """Console with the segments of a song, whose settings are looked for as whitened numbers."""

    def __init__(self, problem: Problem) -> None:
        self._distances, self._rate_hz = problem.distances, problem.sample_rate_hz
        self._segments_SCT = problem.segments_SCT
        self._base = _start(problem.segments_SCT, self._rate_hz, problem.distances.left_alone)
        self._knobs = _knobs(problem.distances.left_alone)
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

        The master does nothing there, so a stem's own settings change that stem alone.
        """
        parts_SCT = [_telling_part(s, self._rate_hz) for s in self._segments_SCT]
        heard = _Heard(self, parts_SCT)
        here_R = heard.residuals(position_P)
        exchanged = self._distances.exchanging(heard.made_SCT)
        width = self._weight * DIFFERENCE
        columns = []
        for place, knob in enumerate(self._knobs):
            moved_P = position_P.clone()
            moved_P[place] += width
            if knob.strip == MASTER:
                moved_R = heard.residuals(moved_P)
            else:
                row = STEMS.index(knob.strip)
                moved_R = exchanged(row, heard.alone(row, moved_P)).double().cpu()
            columns.append((moved_R - here_R) / width)
        return torch.stack(columns, dim=1)

    def residuals_of(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Return the residuals of what was made of segments, residual_R on the CPU."""
        with torch.no_grad():
            return self._distances.residuals(segments_SCT).double().cpu()

    def values(
        self, position_P: Tensor, device: torch.device, names: Sequence[str] = STEMS
    ) -> Values:
        """Return the values of some stems and of the master at a position."""
        settings = self.settings(position_P)
        some = replace(settings, tracks={name: settings.tracks[name] for name in names})
        return Values.of(some, self._rate_hz).to(device)


class _Heard:
    """Segments on the console."""

    def __init__(self, desk: _Desk, segments_SCT: Sequence[Tensor]) -> None:
        self._desk, self._device = desk, segments_SCT[0].device
        self._segments_SCT = segments_SCT
        self._consoles = [Console(stems_SCT) for stems_SCT in segments_SCT]
        self.made_SCT: list[Tensor] = list(segments_SCT)

    @torch.no_grad()
    def residuals(self, position_P: Tensor) -> Tensor:
        """Mix at a position, and measure; what was made stays in `made_SCT`."""
        values = self._desk.values(position_P, self._device)
        self.made_SCT = [console(values) for console in self._consoles]
        return self._desk.residuals_of(self.made_SCT)

    @torch.no_grad()
    def alone(self, row: int, position_P: Tensor) -> list[Tensor]:
        """Return what the console makes of one stem of each segment, where it is alone."""
        values = self._desk.values(position_P, self._device, STEMS[row : row + 1])
        return [Console(stems_SCT[row : row + 1])(values) for stems_SCT in self._segments_SCT]


def fit_console(problem: Problem) -> TransferResult:
    """Fit a console.

    Raises:
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    distances, most = problem.distances, problem.settings.num_steps
    started_s = time.perf_counter()
    with torch.no_grad():
        initial = distances.measure(0, problem.segments_SCT)
    found, iterations, trouble = Settings.neutral(STEMS), [initial], None
    step = best_step = 0
    converged = distances.of(initial) <= NEAR_ENOUGH
    if most > 0 and not converged and len(distances.left_alone) < len(STEMS):
        desk = _Desk(problem)
        search, heard = desk.search(SPREADS_PER_LR * problem.settings.lr)
        _check_finite(search)
        # The prior's mean is the input, but for rounding.
        objectives = [search.objective]
        with Progress(log, "fitted", total=None, unit="steps") as progress:
            while step < most and not converged:
                step += 1
                try:
                    improved = search.step(heard.residuals)
                except FloatingPointError as error:
                    trouble = (
                        f"step {step}: {error}; a lower lr than {problem.settings.lr} may help"
                    )
                    break
                objectives.append(search.objective)
                if improved:
                    best_step = step
                    iterations.append(distances.measure(step, heard.made_SCT))
                converged = best_step > 0 and _is_on_plateau(objectives)
                progress.advance()
        if trouble is not None:
            if best_step == 0:
                raise TrainingError(trouble)
            trouble += f"; step {best_step}, the best before, is kept"
            log.warning("%s", trouble)
        if best_step > 0:
            found = desk.settings(search.position_P)
    effect = ConsoleEffect(found, problem.sample_rate_hz)
    ones_S = torch.ones(len(STEMS))
    rendered = [effect(stems_SCT, ones_S) for stems_SCT in problem.segments_SCT]
    final = distances.measure(best_step, rendered)
    return TransferResult(
        effect=effect,
        segments_SCT=tuple(stems_SCT.cpu() for stems_SCT in rendered),
        initial=initial,
        final=final,
        iterations=_complete(iterations, final),
        best_step=best_step,
        num_steps=step,
        converged=converged,
        stems_left_alone=distances.left_alone,
        tcn_residual_db=None,
        receptive_field_samples=None,
        step_s=(time.perf_counter() - started_s) / (step + 1),
        notes=[] if trouble is None else [trouble],
    )


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


def _knobs(left_alone: Sequence[str]) -> list[_Knob]:
    """List what is looked for.

    The master acts on all stems: where one is left alone, it stays as it is.
    """
    knobs = [
        _Knob(stem, each, TRACK_SPREADS[each.name])
        for stem in STEMS
        if stem not in left_alone
        for each in TRACK_FIELDS
        if each.name in TRACK_SPREADS
    ]
    if not left_alone:
        knobs += [
            _Knob(MASTER, each, MASTER_SPREADS[each.name])
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
    return _within(Settings.neutral(STEMS), changes)


def _within(settings: Settings, changes: dict[str, float]) -> Settings:
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
