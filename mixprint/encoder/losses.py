"""The contrastive objective: InfoNCE over the batch of all ranks.

A batch holds three views of each of its tracks: the *anchor* (a segment), the *positive* (another
segment of the same track: same mix, other content) and the *augmented* anchor (same content,
other mix).

Shape suffixes: L rows of this rank, G rows of all ranks, E embedding.

Sources: InfoNCE, van den Oord et al. 2018 (arXiv 1807.03748); both directions in one loss,
Radford et al. 2021 (arXiv 2103.00020); one effect chain on two songs as a positive pair, Koo et
al. 2023 (arXiv 2211.02247).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

_MAX_SCALE = 100.0  # 1 / temperature: a learned one must not run away


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward sums what every rank's loss asks of a row, at its owner."""

    @staticmethod
    def forward(ctx: Any, rows_LE: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.rank = tuple(sizes), distributed.get_rank()
        padded = rows_LE.new_zeros(max(sizes), *rows_LE.shape[1:])
        padded[: len(rows_LE)] = rows_LE
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad_GE: Tensor) -> tuple[Tensor, None]:
        grad_GE = grad_GE.contiguous()
        distributed.all_reduce(grad_GE)
        start = sum(ctx.sizes[: ctx.rank])
        return grad_GE[start : start + ctx.sizes[ctx.rank]], None


def gather_rows(rows_LE: Tensor, sizes: Sequence[int]) -> Tensor:
    """Join the rows of all ranks in rank order, so that gradients flow back to every rank.

    Args:
        rows_LE: this rank's rows.
        sizes: number of rows of each rank; with one entry the rows come back as they are.
    """
    return rows_LE if len(sizes) == 1 else _GatherRows.apply(rows_LE, sizes)


@dataclass(frozen=True, kw_only=True)
class Views:
    """Embeddings of a batch, one row per track.

    Attributes:
        anchor_GE: the anchors.
        positive_GE: the positives.
        augmented_GE: the augmented anchors, or None when they are not used.
        partner_G: row whose augmentation has the same parameters (its shared-chain positive),
            or -1; None when chains are not shared.
    """

    anchor_GE: Tensor
    positive_GE: Tensor
    augmented_GE: Tensor | None = None
    partner_G: Tensor | None = None


class Temperature(nn.Module):
    """The temperature of InfoNCE: fixed, or learned through its logarithm."""

    log_scale: Tensor

    def __init__(self, temperature: float, *, learned: bool) -> None:
        super().__init__()
        log_scale = torch.tensor(-math.log(temperature))
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self) -> Tensor:
        """Give the scale of the similarities, 1 / temperature."""
        return self.log_scale.exp().clamp_max(_MAX_SCALE)


def info_nce(
    query_LE: Tensor, keys_GE: Tensor, target_L: Tensor, scale: Tensor, hard_LE: Tensor | None
) -> Tensor:
    """Cross-entropy of finding each query's key among all keys and its hard negative.

    Args:
        query_LE: embeddings on the unit sphere.
        keys_GE: candidates, shared by all queries.
        target_L: index of each query's positive in keys_GE.
        scale: 1 / temperature.
        hard_LE: one more negative for each query alone, or None.

    Returns:
        loss_L in nats; log(number of candidates) when all similarities are equal.
    """
    logits = scale * (query_LE @ keys_GE.T)
    if hard_LE is not None:
        hard_L1 = scale * (query_LE * hard_LE).sum(dim=-1, keepdim=True)
        logits = torch.cat([logits, hard_L1], dim=-1)
    return functional.cross_entropy(logits, target_L, reduction="none")


def contrastive_loss(
    views: Views, rows: slice, scale: Tensor, *, shared_chain_weight: float = 0.0
) -> Tensor:
    """Contrast the views of a batch.

    Anchors look for their positives and positives for their anchors, each with the augmented
    anchor as one more negative. The shared-chain term asks that two songs which went through the
    same chain are nearer to each other than to every song of another chain, and than to their own
    untreated content: what is common to the pair can only be the mix.

    Args:
        views: embeddings of the whole batch, of all ranks.
        rows: which rows are this rank's own; gradients of the others come from their ranks.
        scale: 1 / temperature.
        shared_chain_weight: weight of the shared-chain term; 0 leaves it out.

    Returns:
        loss_L: one loss per own row, in nats. The mean over the rows of all ranks is the loss of
        the batch.
    """
    anchor_GE, positive_GE, augmented_GE = views.anchor_GE, views.positive_GE, views.augmented_GE
    target_G = torch.arange(len(anchor_GE), device=anchor_GE.device)
    target_L = target_G[rows]
    hard_LE = None if augmented_GE is None else augmented_GE[rows]
    to_positive_L = info_nce(anchor_GE[rows], positive_GE, target_L, scale, hard_LE)
    to_anchor_L = info_nce(positive_GE[rows], anchor_GE, target_L, scale, hard_LE)
    loss_L = (to_positive_L + to_anchor_L) / 2
    if shared_chain_weight > 0 and augmented_GE is not None and views.partner_G is not None:
        partner_L = views.partner_G[rows]
        own_LG = target_L[:, None] == target_G
        logits_LG = (scale * (augmented_GE[rows] @ augmented_GE.T)).masked_fill(own_LG, -torch.inf)
        untreated_L1 = scale * (augmented_GE[rows] * anchor_GE[rows]).sum(dim=-1, keepdim=True)
        # A row without partner takes any valid target, so that its loss is finite; then it is 0.
        paired_L = partner_L >= 0
        shared_L = functional.cross_entropy(
            torch.cat([logits_LG, untreated_L1], dim=-1),
            torch.where(paired_L, partner_L, len(target_G)),
            reduction="none",
        )
        loss_L = loss_L + shared_chain_weight * torch.where(paired_L, shared_L, 0.0)
    return loss_L
