"""Bring the stems of one song to the mixing style of another by optimisation.

The network is a console of plain controls per stem followed by a TCN, both exactly the identity
at the start. What is minimised is the distance of the result's features, or of its embedding, to
those of the target, relative to the distance at the start, plus a little for every departure from
the identity.

Shape suffixes: S stem, C channel, T sample, B batch (here 1), D features, E embedding.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from mixprint.errors import AudioError, ConfigError, TrainingError
from mixprint.features import FEATURE_NAMES, Standardisation, extract
from mixprint.progress import Progress
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, STEMS
from mixprint.transfer.console import Console
from mixprint.transfer.tcn import TCN

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.transfer")

OptimizeTarget = Literal["features", "embeddings"]

# Below this a stem is silence or what a separator leaves of an absent stem: there is no style to
# read from it, and none that it could be given.
SILENT_STEM_DBFS = -60.0
# The loudness range and the encoder's attention pooling need at least one short-term window.
MIN_DURATION_S = 3.0
# The console's parameters are decibels, the TCN's are kernel taps: with lr = 1e-3 one step of the
# optimiser moves a gain by at most about 1 dB and a dynamics slope by 0.05.
DECIBELS_PER_LR = 1000.0
SLOPE_PER_LR = 50.0
FINAL_LR_FRACTION = 0.1
MAX_GRADIENT_NORM = 1.0
# Shares of the starting distance that are paid for a TCN residual as strong as its input, and for
# an equaliser whose neighbouring bands zigzag by 6 dB.
TCN_WEIGHT = 0.1
ROUGHNESS_WEIGHT = 0.02
# A plateau: the best objective fell by less than this fraction within this share of all steps
# (at least MIN_PATIENCE steps).
PLATEAU_IMPROVEMENT = 0.01
PATIENCE_FRACTION = 0.2
MIN_PATIENCE = 20
# A start nearer than this is the target itself, up to rounding.
NEAR_ENOUGH = 1e-5
RECORD_EVERY = 10


@dataclass(frozen=True)
class Iteration:
    """Both distances at one step; `embedding_distance` is None without an encoder."""

    step: int
    embedding_distance: float | None
    feature_distance: float


@dataclass(frozen=True)
class TransferResult:
    """The transferred stems and how they came about.

    Attributes:
        stems_SCT: the transferred stems, as long as the input, on the CPU.
        initial, final: both distances before, and of the best step, which is the one kept.
        iterations: both distances at every `RECORD_EVERY`-th step and at the last.
        best_step: the number of updates behind the result; 0 is the input itself.
        num_steps: updates made until the end or the plateau.
        converged: the run ended on a plateau (see `PLATEAU_IMPROVEMENT`) nearer to the target
            than it began, or began at the target.
        stems_left_alone: stems that are silent in the input or in the target; they are passed
            through to the bit and their features take no part in the feature distance.
        settings: the fitted controls per stem (`Console.settings`), without `stems_left_alone`.
        tcn_residual_db: power that the TCN added, relative to its input; None if none.
        notes: sentences for the person who reads the result.
        step_s: mean wall-clock time of a step.
    """

    stems_SCT: Tensor
    initial: Iteration
    final: Iteration
    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    stems_left_alone: tuple[str, ...]
    settings: dict[str, dict[str, float]]
    tcn_residual_db: float | None
    receptive_field_samples: int
    step_s: float
    notes: list[str] = field(default_factory=list)


def transfer_style(
    input_stems_SCT: Tensor,
    target_stems_SCT: Tensor,
    sample_rate_hz: int,
    *,
    optimize_target: OptimizeTarget,
    standardisation: Standardisation,
    encoder: "Encoder | None" = None,
    num_steps: int,
    lr: float,
    receptive_field_s: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> TransferResult:
    """Optimise until the input's stems have the target's features or embedding.

    Args:
        input_stems_SCT: stems of a segment of the input song.
        target_stems_SCT: stems of a segment of the target song, of any length from 3 s on.
        sample_rate_hz: of both.
        optimize_target: `features` minimises the root mean square of the standardised
            differences, `embeddings` the cosine distance (0 to 2).
        standardisation: of the features.
        encoder: needed for `embeddings`; with `features` it only adds the embedding distance to
            what is recorded.
        num_steps: most updates that are made.
        lr: learning rate at the start; it falls to a tenth of it over `num_steps` (cosine).
        receptive_field_s: what the TCN sees at least.
        seed: of the TCN's small random taps.
        device: where it runs.

    Raises:
        AudioError: a segment has the wrong shape or is too short.
        ConfigError: a parameter is out of range, or `embeddings` is asked for without encoder.
        TrainingError: a distance or gradient is not finite; names the step.
    """
    _check_parameters(optimize_target, encoder, num_steps, lr, receptive_field_s)
    for name, stems_SCT in (("input", input_stems_SCT), ("target", target_stems_SCT)):
        _check_stems(name, stems_SCT, sample_rate_hz)
    device = torch.device(device)
    input_SCT = input_stems_SCT.to(device, torch.float32)
    target_SCT = target_stems_SCT.to(device, torch.float32)
    silent, notes = _silent_stems(input_SCT, target_SCT)
    distances = _Distances(
        target_SCT, sample_rate_hz, standardisation, encoder, silent, optimize_target
    )

    console = Console(sample_rate_hz).to(device)
    tcn = TCN.for_receptive_field(receptive_field_s, sample_rate_hz, seed=seed).to(device)
    prepared = console.prepare(input_SCT)
    active_S11 = torch.tensor([s not in silent for s in STEMS], device=device).view(-1, 1, 1)

    def render() -> tuple[Tensor, Tensor]:
        """Run the network: the stems, and the TCN's residual relative to its input (power)."""
        before_SCT = console(prepared)
        after_SCT = tcn(before_SCT.flatten(0, 1).unsqueeze(0)).view_as(before_SCT)
        power_S = (after_SCT - before_SCT).square().mean((1, 2))
        reference_S = before_SCT.square().mean((1, 2)).clamp_min(10 ** (SILENT_STEM_DBFS / 10))
        residual = (power_S / reference_S)[active_S11.flatten()].mean()
        # `where` and not a product: silence that turns to NaN times zero would still be NaN.
        return torch.where(active_S11, after_SCT, input_SCT), residual

    run = _minimise(
        render,
        console,
        tcn,
        distance=distances.optimised,
        measure=distances.measure,
        has_active_stems=len(silent) < NUM_STEMS,
        num_steps=num_steps,
        lr=lr,
    )
    with torch.no_grad():
        stems_SCT, residual = render()
        final = distances.measure(run.best_step, stems_SCT)
    residual_power = float(residual) if len(silent) < NUM_STEMS else 0.0
    return TransferResult(
        stems_SCT=stems_SCT.cpu(),
        initial=run.iterations[0],
        final=final,
        iterations=run.iterations,
        best_step=run.best_step,
        num_steps=run.num_steps,
        converged=run.converged,
        stems_left_alone=silent,
        settings={s: v for s, v in console.settings().items() if s not in silent},
        tcn_residual_db=10 * math.log10(residual_power) if residual_power > 0 else None,
        receptive_field_samples=tcn.receptive_field_samples,
        step_s=run.step_s,
        notes=notes,
    )


class _Distances:
    """Both distances of a result to one target."""

    def __init__(
        self,
        target_SCT: Tensor,
        sample_rate_hz: int,
        standardisation: Standardisation,
        encoder: "Encoder | None",
        silent: tuple[str, ...],
        optimize_target: OptimizeTarget,
    ) -> None:
        self._optimize_target = optimize_target
        self._sample_rate_hz = sample_rate_hz
        self._standardisation = standardisation
        self._encoder = encoder
        taking_part = [
            not name.startswith(tuple(f"{s}_" for s in silent)) for name in FEATURE_NAMES
        ]
        self._taking_part_D = torch.tensor(taking_part, device=target_SCT.device)
        with torch.no_grad():
            self._target_features_D = self._features(target_SCT)
            self._target_embedding_E = None if encoder is None else self._embed(encoder, target_SCT)

    def _features(self, stems_SCT: Tensor) -> Tensor:
        features_BD = extract(stems_SCT.unsqueeze(0), self._sample_rate_hz)
        return self._standardisation.apply(features_BD).squeeze(0)[self._taking_part_D]

    def _embed(self, encoder: "Encoder", stems_SCT: Tensor) -> Tensor:
        return encoder.embed(stems_SCT.unsqueeze(0), self._sample_rate_hz).squeeze(0)

    def feature(self, stems_SCT: Tensor) -> Tensor:
        """Root mean square of the standardised differences of the stems that take part."""
        difference_D = self._features(stems_SCT) - self._target_features_D
        # The norm has a gradient of zero at zero, where the square root of a mean has none.
        return torch.linalg.vector_norm(difference_D) / math.sqrt(max(difference_D.numel(), 1))

    def embedding(self, stems_SCT: Tensor) -> Tensor:
        """Cosine distance of the embeddings, which have length one."""
        assert self._encoder is not None
        assert self._target_embedding_E is not None
        return 1 - torch.dot(self._embed(self._encoder, stems_SCT), self._target_embedding_E)

    def optimised(self, stems_SCT: Tensor) -> Tensor:
        """Give the distance that is minimised."""
        by_features = self._optimize_target == "features"
        return self.feature(stems_SCT) if by_features else self.embedding(stems_SCT)

    def measure(self, step: int, stems_SCT: Tensor, optimised: float | None = None) -> Iteration:
        """Measure both, without gradient; the optimised one is taken over if it is known."""
        by_features = self._optimize_target == "features"
        with torch.no_grad():
            embedding = None if by_features else optimised
            if embedding is None and self._encoder is not None:
                embedding = float(self.embedding(stems_SCT))
            feature = optimised if by_features else None
            return Iteration(
                step, embedding, float(self.feature(stems_SCT)) if feature is None else feature
            )


@dataclass(frozen=True)
class _Run:
    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    step_s: float


def _minimise(
    render: Callable[[], tuple[Tensor, Tensor]],
    console: Console,
    tcn: TCN,
    *,
    distance: Callable[[Tensor], Tensor],
    measure: Callable[[int, Tensor, float], Iteration],
    has_active_stems: bool,
    num_steps: int,
    lr: float,
) -> _Run:
    """Run the loop, and leave console and TCN at the best step."""
    dynamics = [console.dynamics_SW]
    decibels = [p for p in console.parameters() if p is not console.dynamics_SW]
    kernels = list(tcn.parameters())
    parameters = [*decibels, *dynamics, *kernels]
    optimiser = torch.optim.Adam(
        [
            {"params": decibels, "lr": lr * DECIBELS_PER_LR},
            {"params": dynamics, "lr": lr * SLOPE_PER_LR},
            {"params": kernels, "lr": lr},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _cosine(step / max(num_steps, 1))
    )
    patience = max(MIN_PATIENCE, math.ceil(PATIENCE_FRACTION * num_steps))
    network = nn.ModuleList([console, tcn])
    iterations: list[Iteration] = []
    # One entry per step: the least objective up to it, for the plateau.
    best_so_far: list[float] = []
    best_objective, best_step, best_state = math.inf, 0, copy.deepcopy(network.state_dict())
    initial_distance, converged = 1.0, False
    started_s = time.perf_counter()
    step = 0
    with Progress(log, "optimised", total=num_steps, unit="steps") as progress:
        for step in range(num_steps + 1):
            stems_SCT, residual = render()
            now = distance(stems_SCT)
            if step == 0:
                initial_distance = float(now.detach())
            objective = now / max(initial_distance, NEAR_ENOUGH)
            objective = objective + ROUGHNESS_WEIGHT * console.roughness()
            if has_active_stems:
                objective = objective + TCN_WEIGHT * residual
            value = float(objective.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"step {step}: expected a finite objective, found {value} "
                    f"(distance {float(now.detach())}); a lower lr than {lr} may help"
                )
            if value < best_objective:
                best_objective, best_step = value, step
                best_state = copy.deepcopy(network.state_dict())
            best_so_far.append(best_objective)
            at_target = step == 0 and initial_distance <= NEAR_ENOUGH
            plateau = step >= patience and (
                best_so_far[step - patience] - best_objective
                < PLATEAU_IMPROVEMENT * best_so_far[step - patience]
            )
            last = step == num_steps or at_target or plateau or not has_active_stems
            if step % RECORD_EVERY == 0 or last:
                iterations.append(measure(step, stems_SCT.detach(), float(now.detach())))
            if last:
                converged = at_target or (plateau and best_step > 0)
                break
            optimiser.zero_grad(set_to_none=True)
            # Only these: the encoder's weights need no gradient.
            objective.backward(inputs=parameters)
            norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            if not math.isfinite(norm):
                raise TrainingError(f"step {step}: expected a finite gradient, found norm {norm}")
            optimiser.step()
            schedule.step()
            progress.advance()
    network.load_state_dict(best_state)
    step_s = (time.perf_counter() - started_s) / (step + 1)
    return _Run(iterations, best_step, step, converged, step_s)


def _cosine(fraction: float) -> float:
    """Fall from 1 to `FINAL_LR_FRACTION`."""
    swing = (1 - FINAL_LR_FRACTION) / 2
    return FINAL_LR_FRACTION + swing * (1 + math.cos(math.pi * min(fraction, 1.0)))


def _silent_stems(input_SCT: Tensor, target_SCT: Tensor) -> tuple[tuple[str, ...], list[str]]:
    """Find the stems that have nothing to transfer, or nothing to transfer from."""
    silent, notes = [], []
    for name, input_CT, target_CT in zip(STEMS, input_SCT, target_SCT, strict=True):
        where = [
            song
            for song, stem_CT in (("input", input_CT), ("target", target_CT))
            if stem_CT.square().mean() <= 10 ** (SILENT_STEM_DBFS / 10)
        ]
        if where:
            silent.append(name)
            notes.append(
                f"{name} left alone: silent (below {SILENT_STEM_DBFS:.0f} dBFS) in the "
                f"{' and the '.join(where)}"
            )
    for note in notes:
        log.info(note)
    return tuple(silent), notes


def _check_parameters(
    optimize_target: str,
    encoder: "Encoder | None",
    num_steps: int,
    lr: float,
    receptive_field_s: float,
) -> None:
    """Refuse what cannot work, before any work is done."""
    if optimize_target not in get_args(OptimizeTarget):
        known = list(get_args(OptimizeTarget))
        raise ConfigError(f"optimize_target: expected one of {known}, got {optimize_target!r}")
    if optimize_target == "embeddings" and encoder is None:
        raise ConfigError("optimize_target embeddings: expected an encoder checkpoint, got none")
    if num_steps < 0:
        raise ConfigError(f"num_steps: expected 0 or more, got {num_steps}")
    for name, value in (("lr", lr), ("receptive_field", receptive_field_s)):
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name}: expected a number above 0, got {value}")


def _check_stems(name: str, stems_SCT: Tensor, sample_rate_hz: int) -> None:
    """Refuse stems of another shape, too short ones, and ones that are not finite."""
    expected = (NUM_STEMS, NUM_CHANNELS)
    if stems_SCT.ndim != 3 or stems_SCT.shape[:2] != expected:
        raise AudioError(
            "shape", f"{name}: expected stems of shape (4, 2, T), found {tuple(stems_SCT.shape)}"
        )
    duration_s = stems_SCT.shape[-1] / sample_rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            "too_short", f"{name}: expected at least {MIN_DURATION_S} s, found {duration_s:.2f} s"
        )
    if not stems_SCT.isfinite().all():
        raise AudioError("not_finite", f"{name}: expected finite samples, found NaN or infinity")
