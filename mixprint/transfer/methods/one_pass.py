"""Result of a method that finds its effect in one pass of a trained network.

Shape suffixes: S stem, C channel, T sample.
"""

import time

import torch

from mixprint.stems import NUM_STEMS
from mixprint.transfer.effect import Effect
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import TransferResult


def one_pass_result(
    problem: Problem,
    effect: Effect,
    started_s: float,
    receptive_field_samples: int | None = None,
) -> TransferResult:
    """Render the segments with an effect, and measure both ends.

    Args:
        problem: what was asked for.
        effect: what the network found.
        started_s: `time.perf_counter()` before the pass.
        receptive_field_samples: see `TransferResult`.
    """
    distances, segments_SCT = problem.distances, problem.segments_SCT
    with torch.no_grad():
        initial = distances.measure(0, segments_SCT)
        amounts_S = torch.ones(NUM_STEMS, device=segments_SCT[0].device)
        rendered = [effect(stems_SCT, amounts_S) for stems_SCT in segments_SCT]
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
        receptive_field_samples=receptive_field_samples,
        step_s=time.perf_counter() - started_s,
    )
