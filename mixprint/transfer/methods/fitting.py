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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from mixprint.errors import AudioError, CheckpointError, ConfigError, TrainingError
from mixprint.features import Standardisation
from mixprint.progress import Progress
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, STEMS
from mixprint.transfer.console import Console
from mixprint.transfer.effect import Effect, FittedChain, LeavesAlone
from mixprint.transfer.methods.tcn import TCN
from mixprint.transfer.style import (
    SILENT_BELOW_MIX_DB,
    SILENT_STEM_DBFS,
    STEM_OF_FEATURE_D,
    Style,
    segment_embedding,
    segment_features,
    sounding,
)

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder
    from mixprint.zero_shot.checkpoint import ZeroShotModel

log = logging.getLogger("mixprint.transfer")

OptimizeTarget = Literal["features", "embeddings"]
# `optimise` fits a console and a TCN together, `console` and `tcn` one of them; `zero-shot` is one
# pass of a network that was trained before.
Method = Literal["optimise", "console", "tcn", "zero-shot"]

# The loudness range and the encoder's attention pooling need at least one short-term window.
MIN_DURATION_S = 3.0
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
# The truth is nearer where estimated features are met by small settings. They do not reach an
# embedding; but where settings cost nothing, odd ones do. Literal features are met at any cost.
DEPARTURE_WEIGHT_OF_ESTIMATE = 0.1
DEPARTURE_WEIGHT_OF_EMBEDDING = 0.03
# A plateau: the best objective fell by less than this fraction within this share of all steps
# (at least MIN_PATIENCE steps).
PLATEAU_IMPROVEMENT = 0.01
PATIENCE_FRACTION = 0.2
MIN_PATIENCE = 20
# A start nearer than this is the target itself, up to rounding.
NEAR_ENOUGH = 1e-5
RECORD_EVERY = 10
# A run that brought less than this of the way is worth a warning.
POOR_REDUCTION = 0.3
# Songs further apart than this, in standard deviations per feature, have little in common: songs of
# different kinds lie 2 to 3 apart, a mono recording and a full mix 4.
VERY_DIFFERENT = 3.5
# Where a GPU's memory does not hold the whole segments, this much of each is tried.
SHORTENED = 0.5


@dataclass(frozen=True)
class Iteration:
    """The distances at one step.

    Attributes:
        embedding_distance: to the target's embedding; None without an encoder.
        feature_distance: to the target's features.
        aim_distance: to the features that are aimed at; None where embeddings are optimised.
    """

    step: int
    embedding_distance: float | None
    feature_distance: float
    aim_distance: float | None


@dataclass(frozen=True, eq=False)
class TransferResult:
    """What was found, and what it makes of the segments that it was found on.

    Attributes:
        effect: what was found, on the device that was asked for.
        segments_SCT: the transferred stems of each segment at amount 1, on the CPU.
        initial, final: both distances before, and of the best step, which is the one kept.
        iterations: both distances at every `RECORD_EVERY`-th step and at the last.
        best_step: the number of updates behind the result; 0 is the input itself.
        num_steps: updates made until the end or the plateau; a zero-shot pass counts as one.
        converged: the run ended on a plateau (see `PLATEAU_IMPROVEMENT`) nearer to the target
            than it began, or began at the target. Zero-shot: it ended nearer than it began.
        stems_left_alone: stems that are silent in the input or in the style, or are kept; they are
            passed through to the bit and their features take no part in the feature distance.
        tcn_residual_db: power that the TCN added, relative to its input; None if none.
        receptive_field_samples: of the TCN; None without one.
        notes: sentences for the person who reads the result.
        step_s: mean wall-clock time of a step.
    """

    effect: Effect
    segments_SCT: tuple[Tensor, ...]
    initial: Iteration
    final: Iteration
    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    stems_left_alone: tuple[str, ...]
    tcn_residual_db: float | None
    receptive_field_samples: int | None
    step_s: float
    notes: list[str] = field(default_factory=list)

    @property
    def stems_SCT(self) -> Tensor:  # noqa: N802 (the suffix is the tensor's shape)
        """The transferred stems of the first segment."""
        return self.segments_SCT[0]


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
    method: Method = "optimise",
    device: torch.device | str = "cpu",
) -> TransferResult:
    """Bring one segment to the style of another; see `fit_style`, which this calls.

    Args:
        input_stems_SCT: stems of a segment of the input song.
        target_stems_SCT: stems of a segment of the target song, of any length from 3 s on.
        sample_rate_hz: of both.
        optimize_target: see `fit_style`, as all that follows.
        standardisation: see there.
        encoder: see there.
        num_steps: see there.
        lr: see there.
        receptive_field_s: see there.
        seed: see there.
        method: see there; not `zero-shot`.
        device: see there.

    Raises:
        AudioError, ConfigError, TrainingError: see `fit_style`.
    """
    _check_stems("target", target_stems_SCT, sample_rate_hz)
    target_SCT = target_stems_SCT.to(device, torch.float32)
    return fit_style(
        [input_stems_SCT],
        Style.of("target", [target_SCT], sample_rate_hz, encoder=encoder),
        sample_rate_hz,
        optimize_target=optimize_target,
        standardisation=standardisation,
        encoder=encoder,
        num_steps=num_steps,
        lr=lr,
        receptive_field_s=receptive_field_s,
        seed=seed,
        method=method,
        device=device,
    )


def fit_style(
    segments_SCT: Sequence[Tensor],
    style: Style,
    sample_rate_hz: int,
    *,
    optimize_target: OptimizeTarget,
    standardisation: Standardisation,
    encoder: "Encoder | None" = None,
    num_steps: int,
    lr: float,
    receptive_field_s: float,
    seed: int,
    method: Method = "optimise",
    zero_shot: "ZeroShotModel | None" = None,
    share_D: Tensor | None = None,
    keep: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> TransferResult:
    """Find the effect that gives a song a style.

    Where a GPU's memory does not suffice, half of each segment is tried, then the CPU, with a
    warning and a note.

    Args:
        segments_SCT: stems of segments of the input song, each 3 s or longer.
        style: what is aimed at.
        sample_rate_hz: of the audio.
        optimize_target: `features` minimises the root mean square of the standardised
            differences, `embeddings` the cosine distance (0 to 2).
        standardisation: of the features.
        share_D: how far each feature goes from the input's to the style's; None: all the way.
        encoder: on `device`; needed for `embeddings` and `zero-shot`; else it only adds the
            embedding distance to what is recorded.
        num_steps: most updates that are made.
        lr: learning rate at the start; it falls to a tenth of it over `num_steps` (cosine).
        receptive_field_s: what the TCN sees at least.
        seed: of the TCN's small random taps.
        method: see `Method`.
        zero_shot: the network of that method, on `device`.
        keep: stems that shall stay as they are.
        device: where it runs.

    Raises:
        AudioError: a segment has the wrong shape or is too short.
        ConfigError: a parameter is out of range, or an encoder, an embedding or a model is missing.
        CheckpointError: the style's embedding is of another encoder, and is needed.
        TrainingError: a distance or gradient is not finite before any step was better than the
            input; names the step. Later the best step is the result, with a note.
    """
    _check_parameters(optimize_target, encoder, num_steps, lr, receptive_field_s)
    if method not in get_args(Method):
        raise ConfigError(f"method: expected one of {list(get_args(Method))}, got {method!r}")
    for stems_SCT in segments_SCT:
        _check_stems("input", stems_SCT, sample_rate_hz)
    needs_embedding = optimize_target == "embeddings" or method == "zero-shot"
    notes = _check_embedding(style, encoder, needed=needs_embedding)
    device = torch.device(device)

    def find(share: float, where: torch.device) -> TransferResult:
        heard_SCT = [
            stems_SCT[..., : _shortened(stems_SCT.shape[-1], share, sample_rate_hz)].to(
                where, torch.float32
            )
            for stems_SCT in segments_SCT
        ]
        left_alone, left_alone_notes = _left_alone(heard_SCT, style, keep)
        distances = _Distances(
            heard_SCT,
            style,
            sample_rate_hz,
            standardisation,
            encoder,
            left_alone,
            optimize_target,
            share_D,
        )
        if method == "zero-shot":
            assert encoder is not None
            if zero_shot is None:
                raise ConfigError("method zero-shot: expected a trained model, got none")
            result = _pass(heard_SCT, style, sample_rate_hz, zero_shot, encoder, distances)
        else:
            result = _optimise(
                heard_SCT,
                sample_rate_hz,
                distances,
                method=method,
                num_steps=num_steps,
                lr=lr,
                receptive_field_s=receptive_field_s,
                seed=seed,
            )
        result.notes[:0] = [*notes, *left_alone_notes]
        return result

    result = _where_memory_suffices(find, device, encoder, zero_shot, notes)
    result.notes.extend(_judgement(result, optimize_target))
    return result


def measure_style(
    segments_SCT: Sequence[Tensor],
    input_SCT: Sequence[Tensor],
    style: Style,
    sample_rate_hz: int,
    *,
    optimize_target: OptimizeTarget,
    standardisation: Standardisation,
    encoder: "Encoder | None",
    left_alone: tuple[str, ...],
    share_D: Tensor | None = None,
) -> Iteration:
    """Measure the distances of segments to a style, as the fit does.

    Args:
        segments_SCT: what was made of the input.
        input_SCT: the segments that were heard.
        style: what was aimed at.
        sample_rate_hz: of the audio.
        optimize_target: see `fit_style`.
        standardisation: of the features.
        encoder: see `fit_style`.
        left_alone: stems whose features take no part.
        share_D: see `fit_style`.

    Returns:
        the distances, as of step 0.
    """
    distances = _Distances(
        input_SCT,
        style,
        sample_rate_hz,
        standardisation,
        encoder,
        left_alone,
        optimize_target,
        share_D,
    )
    return distances.measure(0, segments_SCT)


def _where_memory_suffices(
    find: Callable[[float, torch.device], TransferResult],
    device: torch.device,
    encoder: "Encoder | None",
    zero_shot: "ZeroShotModel | None",
    notes: list[str],
) -> TransferResult:
    """Try the whole segments, then half of each, then the CPU."""
    attempts = [(1.0, device), (SHORTENED, device), (1.0, torch.device("cpu"))]
    if device.type == "cpu":
        attempts = attempts[:1]
    for number, (share, where) in enumerate(attempts, start=1):
        if where != device:
            for model in (encoder, zero_shot):
                if model is not None:
                    model.to(where)
        try:
            return find(share, where)
        except torch.OutOfMemoryError:
            if number == len(attempts):
                raise
        finally:
            if where != device:
                for model in (encoder, zero_shot):
                    if model is not None:
                        model.to(device)
        # Only here, behind the handler, does no traceback hold the failed run's tensors.
        torch.cuda.empty_cache()
        share, where = attempts[number]
        way = "on the CPU" if where != device else f"with {share:.0%} of each segment"
        notes.append(f"memory of {device} was short: fitted {way}")
        log.warning("%s", notes[-1])
    raise AssertionError("the last attempt returns or raises")


def _shortened(num_samples: int, share: float, sample_rate_hz: int) -> int:
    """Take a share of a length, but not less than can be measured."""
    return max(round(share * num_samples), math.ceil(MIN_DURATION_S * sample_rate_hz))


def _optimise(
    segments_SCT: Sequence[Tensor],
    sample_rate_hz: int,
    distances: "_Distances",
    *,
    method: Method,
    num_steps: int,
    lr: float,
    receptive_field_s: float,
    seed: int,
) -> TransferResult:
    """Fit console and TCN, or one of them."""
    device = segments_SCT[0].device
    console = tcn = None
    if method in ("optimise", "console"):
        console = Console(sample_rate_hz, segments_SCT).to(device)
    if method in ("optimise", "tcn"):
        tcn = TCN.for_receptive_field(receptive_field_s, sample_rate_hz, seed=seed).to(device)
    chain = FittedChain(console, tcn, distances.left_alone).to(device)
    prepared = [chain.prepare(stems_SCT) for stems_SCT in segments_SCT]
    active_S = chain.active_S11.flatten()
    has_active_stems = len(distances.left_alone) < NUM_STEMS

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

    run = _minimise(
        render,
        console,
        tcn,
        distance=distances.optimised,
        measure=distances.measure,
        has_active_stems=has_active_stems,
        departure_weight=distances.departure_weight,
        num_steps=num_steps,
        lr=lr,
    )
    with torch.no_grad():
        rendered, residual = render()
        final = distances.measure(run.best_step, rendered)
    residual_power = float(residual) if has_active_stems and tcn is not None else 0.0
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


def _pass(
    segments_SCT: Sequence[Tensor],
    style: Style,
    sample_rate_hz: int,
    zero_shot: "ZeroShotModel",
    encoder: "Encoder",
    distances: "_Distances",
) -> TransferResult:
    """Transfer by one pass of a network that was trained before."""
    assert style.embedding_E is not None
    zero_shot.check_encoder(encoder.fingerprint)
    started_s = time.perf_counter()
    device = segments_SCT[0].device
    with torch.no_grad():
        initial = distances.measure(0, segments_SCT)
        input_E = segment_embedding(encoder, segments_SCT, sample_rate_hz)
        _check_length(style.embedding_E, input_E)
        effect = LeavesAlone(
            zero_shot.effect(input_E, style.embedding_E.to(device)), distances.left_alone
        )
        rendered = [effect(s, torch.ones(NUM_STEMS, device=device)) for s in segments_SCT]
        final = distances.measure(1, rendered)
    return TransferResult(
        effect=effect,
        segments_SCT=tuple(stems_SCT.cpu() for stems_SCT in rendered),
        initial=initial,
        final=final,
        iterations=[initial, final],
        best_step=1,
        num_steps=1,
        converged=distances.of(final) < distances.of(initial),
        stems_left_alone=distances.left_alone,
        tcn_residual_db=None,
        receptive_field_samples=2 * effect.context_samples + 1,
        step_s=time.perf_counter() - started_s,
    )


def _judgement(result: TransferResult, optimize_target: OptimizeTarget) -> list[str]:
    """Say where a person should not expect much, and by which measure."""
    notes = []
    if result.initial.feature_distance > VERY_DIFFERENT:
        notes.append(
            f"very different songs: their features lie {result.initial.feature_distance:.1f} "
            f"standard deviations apart (more than {VERY_DIFFERENT})"
        )
    name = "aim" if optimize_target == "features" else "embedding"
    before = getattr(result.initial, f"{name}_distance")
    after = getattr(result.final, f"{name}_distance")
    if (
        result.num_steps > 0
        and before > NEAR_ENOUGH
        and after > (1 - POOR_REDUCTION) * before
        and len(result.stems_left_alone) < NUM_STEMS
    ):
        notes.append(
            f"poor convergence: {name}_distance went from {before:.3f} to {after:.3f} in "
            f"{result.num_steps} steps, which is less than {POOR_REDUCTION:.0%} nearer"
        )
    for note in notes:
        log.warning("%s", note)
    return notes


class _Distances:
    """The distances of rendered segments to one style."""

    def __init__(
        self,
        segments_SCT: Sequence[Tensor],
        style: Style,
        sample_rate_hz: int,
        standardisation: Standardisation,
        encoder: "Encoder | None",
        left_alone: tuple[str, ...],
        optimize_target: OptimizeTarget,
        share_D: Tensor | None,
    ) -> None:
        device = segments_SCT[0].device
        self.left_alone = left_alone
        self._optimize_target = optimize_target
        self._sample_rate_hz = sample_rate_hz
        self._standardisation = standardisation
        self._encoder = encoder
        taking_part_S = torch.tensor([stem not in left_alone for stem in STEMS])
        self._taking_part_D = taking_part_S[STEM_OF_FEATURE_D].to(device)
        # Of the input: what is turned down must not drop out of the mean.
        self._sounding_KS = torch.stack([sounding(stems_SCT) for stems_SCT in segments_SCT])
        target_D = self._standardisation.apply(style.features_D.to(device))
        self._target_features_D = target_D[self._taking_part_D]
        self._aim_D = self._target_features_D
        self.departure_weight = 0.0
        if optimize_target == "embeddings":
            self.departure_weight = DEPARTURE_WEIGHT_OF_EMBEDDING
        elif share_D is not None:
            self.departure_weight = DEPARTURE_WEIGHT_OF_ESTIMATE
        if share_D is not None:
            with torch.no_grad():
                own_D = self._features(segments_SCT)
            taken_D = share_D.to(device)[self._taking_part_D]
            self._aim_D = own_D + taken_D * (self._target_features_D - own_D)
        self._target_embedding_E = None
        if encoder is not None and style.encoder == encoder.fingerprint:
            assert style.embedding_E is not None
            self._target_embedding_E = style.embedding_E.to(device)

    def _features(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        features_D = segment_features(segments_SCT, self._sample_rate_hz, self._sounding_KS)
        return self._standardisation.apply(features_D)[self._taking_part_D]

    def embedding(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Cosine distance of the embeddings, which have length one."""
        assert self._encoder is not None
        assert self._target_embedding_E is not None
        embedding_E = segment_embedding(self._encoder, segments_SCT, self._sample_rate_hz)
        _check_length(self._target_embedding_E, embedding_E)
        return 1 - torch.dot(embedding_E, self._target_embedding_E)

    def optimised(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Return the distance that is minimised."""
        if self._optimize_target == "features":
            return _rms(self._features(segments_SCT) - self._aim_D)
        return self.embedding(segments_SCT)

    def of(self, iteration: Iteration) -> float:
        """Read the distance that is minimised from what was measured."""
        by_features = self._optimize_target == "features"
        value = iteration.aim_distance if by_features else iteration.embedding_distance
        assert value is not None
        return value

    @torch.no_grad()
    def measure(self, step: int, segments_SCT: Sequence[Tensor]) -> Iteration:
        """Measure all of them."""
        features_D = self._features(segments_SCT)
        has_embedding = self._target_embedding_E is not None
        by_features = self._optimize_target == "features"
        return Iteration(
            step,
            embedding_distance=float(self.embedding(segments_SCT)) if has_embedding else None,
            feature_distance=float(_rms(features_D - self._target_features_D)),
            aim_distance=float(_rms(features_D - self._aim_D)) if by_features else None,
        )


def _rms(difference_D: Tensor) -> Tensor:
    """Take the root of the mean square, with a gradient of zero at zero."""
    return torch.linalg.vector_norm(difference_D) / math.sqrt(max(difference_D.numel(), 1))


@dataclass(frozen=True)
class _Run:
    iterations: list[Iteration]
    best_step: int
    num_steps: int
    converged: bool
    step_s: float
    trouble: str | None


def _minimise(
    render: Callable[[], tuple[list[Tensor], Tensor]],
    console: Console | None,
    tcn: TCN | None,
    *,
    distance: Callable[[Sequence[Tensor]], Tensor],
    measure: Callable[[int, Sequence[Tensor]], Iteration],
    has_active_stems: bool,
    departure_weight: float,
    num_steps: int,
    lr: float,
) -> _Run:
    """Run the loop, and leave console and TCN at the best step."""
    groups: list[dict[str, Any]] = []
    if console is not None:
        decibels = [p for p in console.parameters() if p is not console.dynamics_SW]
        groups.append({"params": decibels, "lr": lr * DECIBELS_PER_LR})
        groups.append({"params": [console.dynamics_SW], "lr": lr * SLOPE_PER_LR})
    if tcn is not None:
        groups.append({"params": list(tcn.parameters()), "lr": lr})
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _cosine(step / max(num_steps, 1))
    )
    patience = max(MIN_PATIENCE, math.ceil(PATIENCE_FRACTION * num_steps))
    network = nn.ModuleList([part for part in (console, tcn) if part is not None])
    iterations: list[Iteration] = []
    # One entry per step: the least objective up to it, for the plateau.
    best_so_far: list[float] = []
    best_objective, best_step, best_state = math.inf, 0, copy.deepcopy(network.state_dict())
    initial_distance, converged, trouble = 1.0, False, None
    started_s = time.perf_counter()
    step = 0
    with Progress(log, "optimised", total=num_steps, unit="steps") as progress:
        for step in range(num_steps + 1):
            segments_SCT, residual = render()
            now = distance(segments_SCT)
            if step == 0:
                initial_distance = float(now.detach())
            objective = now / max(initial_distance, NEAR_ENOUGH)
            if console is not None:
                objective = objective + ROUGHNESS_WEIGHT * console.roughness()
                objective = objective + departure_weight * console.departure()
            if tcn is not None and has_active_stems:
                objective = objective + TCN_WEIGHT * residual
            value = float(objective.detach())
            if not math.isfinite(value):
                trouble = (
                    f"step {step}: expected a finite objective, found {value} "
                    f"(distance {float(now.detach())}); a lower lr than {lr} may help"
                )
                break
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
                detached = [stems_SCT.detach() for stems_SCT in segments_SCT]
                iterations.append(measure(step, detached))
            if last:
                converged = at_target or (plateau and best_step > 0)
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
        if best_step == 0:
            raise TrainingError(trouble)
        trouble += f"; step {best_step}, the best before, is kept"
        log.warning("%s", trouble)
    network.load_state_dict(best_state)
    step_s = (time.perf_counter() - started_s) / (step + 1)
    return _Run(iterations, best_step, step, converged, step_s, trouble)


def _cosine(fraction: float) -> float:
    """Fall from 1 to `FINAL_LR_FRACTION`."""
    swing = (1 - FINAL_LR_FRACTION) / 2
    return FINAL_LR_FRACTION + swing * (1 + math.cos(math.pi * min(fraction, 1.0)))


def _left_alone(
    segments_SCT: Sequence[Tensor], style: Style, keep: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Find the stems that have nothing to transfer, nothing to transfer from, or are kept."""
    sounds_S = torch.stack([sounding(stems_SCT) for stems_SCT in segments_SCT]).any(0).tolist()
    left_alone, notes = [], []
    for name, sounds in zip(STEMS, sounds_S, strict=True):
        where = [
            song
            for song, is_silent in (("input", not sounds), ("target", name in style.silent))
            if is_silent
        ]
        if where:
            notes.append(
                f"{name} left alone: silent (below {SILENT_STEM_DBFS:.0f} dBFS, or "
                f"{SILENT_BELOW_MIX_DB:.0f} dB below the mix) in the "
                f"{' and the '.join(where)}"
            )
        elif name in keep:
            notes.append(f"{name} left alone, as asked")
        else:
            continue
        left_alone.append(name)
    for note in notes:
        log.info(note)
    return tuple(left_alone), notes


def _check_length(aim_E: Tensor, embedding_E: Tensor) -> None:
    """Refuse to aim at an embedding that is not as long as those of its encoder."""
    if aim_E.shape != embedding_E.shape:
        raise CheckpointError(
            f"style: expected an embedding of {len(embedding_E)} numbers, as its encoder gives, "
            f"found {len(aim_E)}"
        )


def _check_embedding(style: Style, encoder: "Encoder | None", *, needed: bool) -> list[str]:
    """See that style and encoder belong together, where it matters; else leave a note."""
    if encoder is None:
        if needed:
            raise ConfigError("method zero-shot: expected an encoder checkpoint, got none")
        return []
    if style.encoder == encoder.fingerprint:
        return []
    if style.encoder is None:
        problem = f"style {style.title}: expected an embedding, found none"
    else:
        problem = (
            f"style {style.title}: expected an embedding of the encoder {encoder.fingerprint}, "
            f"found one of {style.encoder}"
        )
    if needed:
        raise CheckpointError(problem)
    return [f"{problem}; embedding distances are not measured"]


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
