"""Bring the stems of one song to a mixing style by optimisation.

The network is a console of plain controls per stem followed by a TCN, or one of the two, exactly
the identity at the start. What is minimised is the distance of the result's features, or of its
embedding, to those that are aimed at, relative to the distance at the start, plus a little for
every departure from the identity. With a style share (`mixprint.transfer.style_share`) the features
that are aimed at are those that the input is expected to have in the target's mix, else the
target's own, which are also those of its music. The result of several segments is measured as one:
by the mean of their features or embeddings, as a style is, for a verse and a chorus differ within
one mix.

Shape suffixes: K segment, S stem, C channel, T sample, D features, E embedding.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixprint.errors import TrainingError
from mixprint.progress import Progress
from mixprint.transfer.console import Console
from mixprint.transfer.methods.chain import FittedChain
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import NEAR_ENOUGH, Iteration, TransferResult
from mixprint.transfer.methods.tcn import TCN
from mixprint.transfer.style import SILENT_STEM_DBFS

log = logging.getLogger("mixprint.transfer")

# The console's parameters are decibels, the TCN's are kernel taps: with lr = 1e-3 one step of the
# optimiser moves a gain by at most about 1 dB and a dynamics slope by 0.05.
DECIBELS_PER_LR = 1000.0
SLOPE_PER_LR = 50.0
FINAL_LR_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0
# Shares of the starting distance that are paid for a TCN residual as strong as its input, for an
# equaliser whose neighbouring bands zigzag by 6 dB, and for a `Console.departure` of one.
TCN_WEIGHT = 0.1
ROUGHNESS_WEIGHT = 0.02
# A plateau: the best objective fell by less than this fraction within this share of all steps
# (at least MIN_PATIENCE steps).
PLATEAU_IMPROVEMENT = 0.01
PATIENCE_FRACTION = 0.2
MIN_PATIENCE = 20
RECORD_EVERY = 10


def fit_chain(problem: Problem, *, with_console: bool, with_tcn: bool) -> TransferResult:
    """Fit a console, a TCN, or both one after the other.

    Raises:
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    segments_SCT, distances, settings = problem.segments_SCT, problem.distances, problem.settings
    sample_rate_hz, device = problem.sample_rate_hz, segments_SCT[0].device
    console = tcn = None
    if with_console:
        console = Console(sample_rate_hz, segments_SCT).to(device)
    if with_tcn:
        tcn = TCN.for_receptive_field(
            settings.receptive_field, sample_rate_hz, seed=settings.seed
        ).to(device)
    chain = FittedChain(console, tcn, distances.left_alone).to(device)
    prepared = [chain.prepare(stems_SCT) for stems_SCT in segments_SCT]
    active_S = chain.active_S11.flatten()

    def render() -> tuple[list[Tensor], Tensor]:
        """Run the chain: the stems, and the TCN's residual relative to its input (power)."""
        rendered, residuals = [], []
        for each in prepared:
            after_SCT, before_SCT = chain.render(each)
            power_S = (after_SCT - before_SCT).square().mean((1, 2))
            reference_S = before_SCT.square().mean((1, 2)).clamp_min(10 ** (SILENT_STEM_DBFS / 10))
            rendered.append(after_SCT)
            residuals.append((power_S / reference_S)[active_S].mean())
        return rendered, torch.stack(residuals).mean()

    run = _minimise(render, chain, distances, num_steps=settings.num_steps, lr=settings.lr)
    with torch.no_grad():
        rendered, residual = render()
        final = distances.measure(run.best_step, rendered)
    residual_power = float(residual) if chain.is_active and tcn is not None else 0.0
    return TransferResult(
        effect=chain.requires_grad_(False),
        segments_SCT=tuple(stems_SCT.cpu() for stems_SCT in rendered),
        initial=run.iterations[0],
        final=final,
        iterations=run.iterations,
        best_step=run.best_step,
        num_steps=run.num_steps,
        converged=run.converged,
        stems_left_alone=distances.left_alone,
        tcn_residual_db=10 * math.log10(residual_power) if residual_power > 0 else None,
        receptive_field_samples=None if tcn is None else tcn.receptive_field_samples,
        step_s=run.step_s,
        notes=[] if run.trouble is None else [run.trouble],
    )


@dataclass(frozen=True)
class _Run:
    """Course of a fit; it leaves the chain at the best step."""

    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    step_s: float
    trouble: str | None


class _Best:
    """The best step so far, and the chain as it was there."""

    def __init__(self, chain: FittedChain, num_steps: int) -> None:
        self.step, self._objective = 0, math.inf
        self._chain, self._state = chain, copy.deepcopy(chain.state_dict())
        self._patience = max(MIN_PATIENCE, math.ceil(PATIENCE_FRACTION * num_steps))
        # One entry per step: the least objective up to it.
        self._so_far: list[float] = []

    def add(self, step: int, objective: float) -> None:
        """Take the objective of the next step."""
        if objective < self._objective:
            self._objective, self.step = objective, step
            self._state = copy.deepcopy(self._chain.state_dict())
        self._so_far.append(self._objective)

    def is_on_plateau(self) -> bool:
        """Tell whether the last steps brought hardly anything."""
        if len(self._so_far) <= self._patience:
            return False
        before = self._so_far[-1 - self._patience]
        return before - self._objective < PLATEAU_IMPROVEMENT * before

    def restore(self) -> None:
        """Bring the chain back to the best step."""
        self._chain.load_state_dict(self._state)


def _minimise(
    render: Callable[[], tuple[list[Tensor], Tensor]],
    chain: FittedChain,
    distances: Distances,
    *,
    num_steps: int,
    lr: float,
) -> _Run:
    """Run the loop, and leave the chain at the best step."""
    groups = _parameter_groups(chain, lr)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _cosine(step / max(num_steps, 1))
    )
    best = _Best(chain, num_steps)
    iterations: list[Iteration] = []
    initial_distance, converged, trouble = 1.0, False, None
    started_s = time.perf_counter()
    step = 0
    with Progress(log, "optimised", total=num_steps, unit="steps") as progress:
        for step in range(num_steps + 1):
            segments_SCT, residual = render()
            now = distances.optimised(segments_SCT)
            if step == 0:
                initial_distance = float(now.detach())
            objective = _objective(
                now / max(initial_distance, NEAR_ENOUGH),
                residual,
                chain,
                distances.departure_weight,
            )
            value = float(objective.detach())
            if not math.isfinite(value):
                trouble = (
                    f"step {step}: expected a finite objective, found {value} "
                    f"(distance {float(now.detach())}); a lower lr than {lr} may help"
                )
                break
            best.add(step, value)
            at_target = step == 0 and initial_distance <= NEAR_ENOUGH
            plateau = best.is_on_plateau()
            last = step == num_steps or at_target or plateau or not chain.is_active
            if step % RECORD_EVERY == 0 or last:
                detached = [stems_SCT.detach() for stems_SCT in segments_SCT]
                iterations.append(distances.measure(step, detached))
            if last:
                converged = at_target or (plateau and best.step > 0)
                break
            optimiser.zero_grad(set_to_none=True)
            # Only these: the encoder's weights need no gradient.
            objective.backward(inputs=parameters)
            norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            if not math.isfinite(norm):
                trouble = f"step {step}: expected a finite gradient, found norm {norm}"
                break
            optimiser.step()
            schedule.step()
            progress.advance()
    if trouble is not None:
        if best.step == 0:
            raise TrainingError(trouble)
        trouble += f"; step {best.step}, the best before, is kept"
        log.warning("%s", trouble)
    best.restore()
    step_s = (time.perf_counter() - started_s) / (step + 1)
    return _Run(iterations, best.step, step, converged, step_s, trouble)


def _parameter_groups(chain: FittedChain, lr: float) -> list[dict[str, Any]]:
    """Group the parameters by kind, each with its learning rate."""
    groups: list[dict[str, Any]] = []
    if (console := chain.console) is not None:
        decibels = [p for p in console.parameters() if p is not console.dynamics_SW]
        groups.append({"params": decibels, "lr": lr * DECIBELS_PER_LR})
        groups.append({"params": [console.dynamics_SW], "lr": lr * SLOPE_PER_LR})
    if chain.tcn is not None:
        groups.append({"params": list(chain.tcn.parameters()), "lr": lr})
    return groups


def _objective(
    relative: Tensor, residual: Tensor, chain: FittedChain, departure_weight: float
) -> Tensor:
    """Add what departures from the identity cost to the distance, relative to the first one."""
    objective = relative
    if chain.console is not None:
        objective = objective + ROUGHNESS_WEIGHT * chain.console.roughness()
        objective = objective + departure_weight * chain.console.departure()
    if chain.tcn is not None and chain.is_active:
        objective = objective + TCN_WEIGHT * residual
    return objective


def _cosine(fraction: float) -> float:
    """Fall from 1 to `FINAL_LR_FRACTION`."""
    swing = (1 - FINAL_LR_FRACTION) / 2
    return FINAL_LR_FRACTION + swing * (1 + math.cos(math.pi * min(fraction, 1.0)))
