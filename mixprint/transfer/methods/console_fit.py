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

Shape suffixes: K segment, S stem, C channel, T sample.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.console.levels import working_trim_db
from mixprint.console.recovery import loud_db
from mixprint.console.schema import MASTER, MASTER_FIELDS, TRACK_FIELDS
from mixprint.console.settings import Settings
from mixprint.stems import STEMS
from mixprint.transfer.methods.console_effect import ConsoleEffect
from mixprint.transfer.methods.console_search import (
    MASTER_SPREADS,
    TRACK_SPREADS,
    Desk,
    Knob,
    Run,
    Tracks,
)
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import NEAR_ENOUGH, Iteration, TransferResult


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
    run = Run(distances, problem.settings, [initial], first=int(is_predicted))
    is_near = distances.of(initial) <= NEAR_ENOUGH and not is_predicted
    if problem.settings.num_steps > 0 and not is_near and knobs:
        desk = Desk(distances, Tracks(problem.segments_SCT, problem.sample_rate_hz), base, knobs)
        position_P = run.search(desk)
        if position_P is not None:
            found = desk.settings(position_P)
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


def _complete(iterations: list[Iteration], final: Iteration) -> list[Iteration]:
    """Return the iterations with the last one as it is rendered."""
    return [each for each in iterations if each.step < final.step] + [final]


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
