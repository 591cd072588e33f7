"""Transfer by one pass of a network that was trained before, see `mixprint.zero_shot`.

Shape suffixes: S stem, C channel, T sample, E embedding.
"""

import time
from typing import TYPE_CHECKING, cast

import torch

from mixprint.stems import NUM_STEMS
from mixprint.transfer.effect import InWindows
from mixprint.transfer.methods.distances import check_length
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import TransferResult
from mixprint.transfer.style import segment_embedding

if TYPE_CHECKING:
    from mixprint.zero_shot.checkpoint import ZeroShotModel


def transfer_in_one_pass(problem: Problem) -> TransferResult:
    """Read the embeddings of song and style, and have the network do the rest.

    Raises:
        CheckpointError: the network was trained with another encoder.
    """
    segments_SCT, style, distances = problem.segments_SCT, problem.style, problem.distances
    encoder, zero_shot = problem.encoder, cast("ZeroShotModel", problem.model)
    assert encoder is not None
    assert style.embedding_E is not None
    zero_shot.check_encoder(encoder.fingerprint)
    started_s = time.perf_counter()
    device = segments_SCT[0].device
    with torch.no_grad():
        initial = distances.measure(0, segments_SCT)
        input_E = segment_embedding(encoder, segments_SCT, problem.sample_rate_hz)
        check_length(style.embedding_E, input_E)
        effect = InWindows(
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
        receptive_field_samples=2 * effect.local.context_samples + 1,
        step_s=time.perf_counter() - started_s,
    )
