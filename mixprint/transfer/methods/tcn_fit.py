"""Fit of a TCN to a style, step by step.

The network starts as exactly the identity. What is minimised is the distance of the result's
features, or of its embedding, to those that are aimed at (`mixprint.transfer.methods.distances`),
relative to the distance at the start, plus a little for what the network adds. The result of
several segments is measured as one: by the mean of their features or embeddings, as a style is, for
a verse and a chorus differ within one mix.

Shape suffixes: K segment, S stem, C channel, T sample.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixprint.errors import TrainingError
from mixprint.progress import Progress
from mixprint.stems import STEMS
from mixprint.transfer.effect import InWindows, check_amount
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import NEAR_ENOUGH, Iteration, TransferResult
from mixprint.transfer.methods.tcn import TCN
from mixprint.transfer.style import SILENT_STEM_DBFS

log = logging.getLogger("mixprint.transfer")

FINAL_LR_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0
# Share of the starting distance that is paid for a residual as strong as its input.
TCN_WEIGHT = 0.1
# A plateau: the best objective fell by less than this fraction within this share of all steps
# (at least MIN_PATIENCE steps).
PLATEAU_IMPROVEMENT = 0.01
PATIENCE_FRACTION = 0.2
MIN_PATIENCE = 20
RECORD_EVERY = 10


class FittedTCN(nn.Module):
    """A TCN as an effect: what it adds to its input is multiplied by the amount."""

    hop_samples = 1

    def __init__(self, tcn: TCN) -> None:
        """Take the network."""
        super().__init__()
        self.tcn = tcn

    @property
    def context_samples(self) -> int:
        """See `mixprint.transfer.effect.LocalEffect`."""
        return self.tcn.context_samples

    def render(self, stems_SCT: Tensor) -> Tensor:
        """Process the stems, with gradients."""
        made_BCT: Tensor = self.tcn(stems_SCT.flatten(0, 1).unsqueeze(0))
        return made_BCT.view_as(stems_SCT)

    def forward(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `mixprint.transfer.effect.LocalEffect`."""
        amount_S11 = check_amount(amount_S).to(stems_SCT).view(-1, 1, 1)
        with torch.no_grad():
            made_SCT = stems_SCT + amount_S11 * (self.render(stems_SCT) - stems_SCT)
        # `where` and not a product: silence that turns to NaN times zero would still be NaN.
        return torch.where(amount_S11 > 0, made_SCT, stems_SCT)


def fit_tcn(problem: Problem) -> TransferResult:
    """Fit a TCN.

    Raises:
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    segments_SCT, distances, settings = problem.segments_SCT, problem.distances, problem.settings
    device = segments_SCT[0].device
    tcn = TCN.for_receptive_field(
        settings.receptive_field, problem.sample_rate_hz, seed=settings.seed
    )
    network = FittedTCN(tcn).to(device)
    active_S = torch.tensor([stem not in distances.left_alone for stem in STEMS]).to(device)

    def render() -> tuple[list[Tensor], Tensor]:
        """Run the network: the stems, and its residual relative to its input (power)."""
        rendered, residuals = [], []
        for before_SCT in segments_SCT:
            after_SCT = network.render(before_SCT)
            power_S = (after_SCT - before_SCT).square().mean((1, 2))
            reference_S = before_SCT.square().mean((1, 2)).clamp_min(10 ** (SILENT_STEM_DBFS / 10))
            rendered.append(torch.where(active_S.view(-1, 1, 1), after_SCT, before_SCT))
            residuals.append((power_S / reference_S)[active_S].mean())
        return rendered, torch.stack(residuals).mean()

    is_active = bool(active_S.any())
    run = _minimise(
        render,
        network,
        distances,
        is_active=is_active,
        num_steps=settings.num_steps,
        lr=settings.lr,
    )
    with torch.no_grad():
        rendered, residual = render()
        final = distances.measure(run.best_step, rendered)
    residual_power = float(residual) if is_active else 0.0
    return TransferResult(
        effect=InWindows(network.requires_grad_(False), distances.left_alone),
        segments_SCT=tuple(stems_SCT.cpu() for stems_SCT in rendered),
        initial=run.iterations[0],
        final=final,
        iterations=run.iterations,
        best_step=run.best_step,
        num_steps=run.num_steps,
        converged=run.converged,
        stems_left_alone=distances.left_alone,
        tcn_residual_db=10 * math.log10(residual_power) if residual_power > 0 else None,
        receptive_field_samples=tcn.receptive_field_samples,
        step_s=run.step_s,
        notes=[] if run.trouble is None else [run.trouble],
    )


@dataclass(frozen=True)
class _Run:
    """Course of a fit; it leaves the network at the best step."""

    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    step_s: float
    trouble: str | None


class _Best:
    """The best step so far, and the network as it was there."""

    def __init__(self, network: nn.Module, num_steps: int) -> None:
        self.step, self._objective = 0, math.inf
        self._network, self._state = network, copy.deepcopy(network.state_dict())
        self._patience = max(MIN_PATIENCE, math.ceil(PATIENCE_FRACTION * num_steps))
        # One entry per step: the least objective up to it.
        self._so_far: list[float] = []

    def add(self, step: int, objective: float) -> None:
        """Take the objective of the next step."""
        if objective < self._objective:
            self._objective, self.step = objective, step
            self._state = copy.deepcopy(self._network.state_dict())
        self._so_far.append(self._objective)

    def is_on_plateau(self) -> bool:
        """Tell whether the last steps brought hardly anything."""
        if len(self._so_far) <= self._patience:
            return False
        before = self._so_far[-1 - self._patience]
        return before - self._objective < PLATEAU_IMPROVEMENT * before

    def restore(self) -> None:
        """Bring the network back to the best step."""
        self._network.load_state_dict(self._state)


def _minimise(
    render: Callable[[], tuple[list[Tensor], Tensor]],
    network: nn.Module,
    distances: Distances,
    *,
    is_active: bool,
    num_steps: int,
    lr: float,
) -> _Run:
    """Run the loop, and leave the network at the best step."""
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _cosine(step / max(num_steps, 1))
    )
    best = _Best(network, num_steps)
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
            objective = now / max(initial_distance, NEAR_ENOUGH)
            if is_active:
                objective = objective + TCN_WEIGHT * residual
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
            last = step == num_steps or at_target or plateau or not is_active
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


def _cosine(fraction: float) -> float:
    """Fall from 1 to `FINAL_LR_FRACTION`."""
    swing = (1 - FINAL_LR_FRACTION) / 2
    return FINAL_LR_FRACTION + swing * (1 + math.cos(math.pi * min(fraction, 1.0)))
