"""The fit of an effect to a style, by any method.

Shape suffixes: S stem, C channel, T sample.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixprint.errors import AudioError, CheckpointError, ConfigError
from mixprint.features import Standardisation
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, STEMS
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.problem import Model, Problem
from mixprint.transfer.methods.registry import METHODS
from mixprint.transfer.methods.result import (
    MIN_DURATION_S,
    NEAR_ENOUGH,
    OptimizeTarget,
    TransferResult,
    check_duration,
)
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.style import SILENT_BELOW_MIX_DB, SILENT_STEM_DBFS, Style, sounding

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

log = logging.getLogger("mixprint.transfer")

# A run that brought less than this of the way is worth a warning.
POOR_REDUCTION = 0.3
# Songs further apart than this, in standard deviations per feature, have little in common: songs of
# different kinds lie 2 to 3 apart, a mono recording and a full mix 4.
VERY_DIFFERENT = 3.5
# Where a GPU's memory does not hold the whole segments, this much of each is tried.
SHORTENED = 0.5


def fit_style(
    segments_SCT: Sequence[Tensor],
    style: Style,
    sample_rate_hz: int,
    settings: Hyperparameters,
    *,
    standardisation: Standardisation,
    encoder: "Encoder | None" = None,
    model: Model | None = None,
    reference_SCT: Tensor | None = None,
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
        settings: by which method, and how.
        standardisation: of the features.
        encoder: on `device`; needed where embeddings are; else it only adds the embedding distance
            to what is recorded.
        model: the network of the method, on `device`.
        reference_SCT: stems of what was heard of the target, where it is one song.
        keep: stems that shall stay as they are.
        device: where it runs.

    Raises:
        AudioError: a segment has the wrong shape or is too short.
        ConfigError: an encoder, an embedding or a model is missing.
        CheckpointError: the style's embedding is of another encoder, and is needed.
        TrainingError: a distance or gradient is not finite before any step was better than the
            input; names the step. Later the best step is the result, with a note.
    """
    method = METHODS[settings.method]
    for stems_SCT in segments_SCT:
        _check_stems("input", stems_SCT, sample_rate_hz)
    notes = _check_embedding(style, encoder, settings)
    if method.model is not None and model is None:
        raise ConfigError(f"method {method.name}: expected a trained model, got none")

    def find(share: float, where: torch.device) -> TransferResult:
        heard_SCT = [
            stems_SCT[..., : _shortened(stems_SCT.shape[-1], share, sample_rate_hz)].to(
                where, torch.float32
            )
            for stems_SCT in segments_SCT
        ]
        left_alone, left_alone_notes = _left_alone(heard_SCT, style, keep)
        distances = Distances(
            heard_SCT,
            style,
            sample_rate_hz,
            settings,
            standardisation=standardisation,
            encoder=encoder,
            left_alone=left_alone,
        )
        result = method.find(
            Problem(
                segments_SCT=heard_SCT,
                sample_rate_hz=sample_rate_hz,
                style=style,
                settings=settings,
                distances=distances,
                encoder=encoder,
                model=model,
                reference_SCT=reference_SCT,
            )
        )
        result.notes[:0] = [*notes, *left_alone_notes]
        return result

    result = _where_memory_suffices(find, torch.device(device), encoder, model, notes)
    result.notes.extend(_judgement(result, settings.optimize_target))
    return result


def _where_memory_suffices(
    find: Callable[[float, torch.device], TransferResult],
    device: torch.device,
    encoder: "Encoder | None",
    model: Model | None,
    notes: list[str],
) -> TransferResult:
    """Try the whole segments, then half of each, then the CPU."""
    networks = [network for network in (encoder, model) if network is not None]
    attempts = [(1.0, device), (SHORTENED, device), (1.0, torch.device("cpu"))]
    if device.type == "cpu":
        attempts = attempts[:1]
    for number, (share, where) in enumerate(attempts, start=1):
        if where != device:
            for network in networks:
                network.to(where)
        try:
            return find(share, where)
        except torch.OutOfMemoryError:
            if number == len(attempts):
                raise
        finally:
            if where != device:
                for network in networks:
                    network.to(device)
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


def _judgement(result: TransferResult, optimize_target: OptimizeTarget) -> list[str]:
    """Say where a person should not expect much, and by which measure."""
    notes = []
    if result.initial.feature_distance > VERY_DIFFERENT:
        notes.append(
            f"very different songs: their features lie {result.initial.feature_distance:.1f} "
            f"standard deviations apart (more than {VERY_DIFFERENT})"
        )
    name, kind = ("features", "aim") if optimize_target == "features" else ("embedding",) * 2
    before = getattr(result.initial, f"{kind}_distance")
    after = getattr(result.final, f"{kind}_distance")
    if (
        result.num_steps > 0
        and before > NEAR_ENOUGH
        and after > (1 - POOR_REDUCTION) * before
        and len(result.stems_left_alone) < NUM_STEMS
    ):
        notes.append(
            f"poor convergence: the distance of the {name} went from {before:.3f} to {after:.3f} "
            f"by step {result.num_steps}, which is less than {POOR_REDUCTION:.0%} nearer"
        )
    for note in notes:
        log.warning("%s", note)
    return notes


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


def _check_embedding(
    style: Style, encoder: "Encoder | None", settings: Hyperparameters
) -> list[str]:
    """See that style and encoder belong together, where it matters; else leave a note."""
    if encoder is None:
        if settings.embeds:
            by_method = METHODS[settings.method].needs_embedding
            asked = f"method {settings.method}" if by_method else "optimize_target embeddings"
            raise ConfigError(f"{asked}: expected an encoder checkpoint, got none")
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
    if settings.embeds:
        raise CheckpointError(problem)
    return [f"{problem}; embedding distances are not measured"]


def _check_stems(name: str, stems_SCT: Tensor, sample_rate_hz: int) -> None:
    """Refuse stems of another shape, too short ones, and ones that are not finite."""
    expected = (NUM_STEMS, NUM_CHANNELS)
    if stems_SCT.ndim != 3 or stems_SCT.shape[:2] != expected:
        raise AudioError(
            "shape", f"{name}: expected stems of shape (4, 2, T), found {tuple(stems_SCT.shape)}"
        )
    check_duration(name, stems_SCT, sample_rate_hz)
    if not stems_SCT.isfinite().all():
        raise AudioError("not_finite", f"{name}: expected finite samples, found NaN or infinity")
