"""Transfer by one pass of a network that was trained before, see `mixprint.zero_shot`.

Shape suffixes: S stem, C channel, T sample, E embedding.
"""

import time
from typing import TYPE_CHECKING, cast

import torch

from mixprint.transfer.effect import InWindows
from mixprint.transfer.methods.distances import check_length
from mixprint.transfer.methods.one_pass import one_pass_result
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
    style, encoder, zero_shot = problem.style, problem.encoder, cast("ZeroShotModel", problem.model)
    assert encoder is not None
    assert style.embedding_E is not None
    zero_shot.check_encoder(encoder.fingerprint)
    started_s = time.perf_counter()
    device = problem.segments_SCT[0].device
    with torch.no_grad():
        input_E = segment_embedding(encoder, problem.segments_SCT, problem.sample_rate_hz)
        check_length(style.embedding_E, input_E)
        local = zero_shot.effect(input_E, style.embedding_E.to(device))
    effect = InWindows(local, problem.distances.left_alone)
    return one_pass_result(problem, effect, started_s, 2 * local.context_samples + 1)
