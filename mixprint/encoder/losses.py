"""The contrastive objective: InfoNCE over the batch of all ranks.

A batch holds three views of each of its tracks: the *anchor* (a segment), the *positive* (another
segment of the same track: same mix, other content) and the *augmented* anchor (same content,
other mix). Which of them attract and which repel says an `Objective`.

Shape suffixes: L rows of this rank, G rows of all ranks, E embedding.

Sources: InfoNCE, van den Oord et al. 2018 (arXiv 1807.03748); both directions in one loss,
Radford et al. 2021 (arXiv 2103.00020); one effect chain on two songs as a positive pair, Koo et
al. 2023 (arXiv 2211.02247); several positives of one query, Khosla et al. 2020 (arXiv 2004.11362).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from mixprint.encoder.settings import Objective

UNKNOWN_STYLE = -1
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
        # Copied, for others may share the gradient that comes in.
        grad_GE = grad_GE.clone(memory_format=torch.contiguous_format)
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
        song_G: number of the row's song; None when each row is a song of its own.
        style_G: number of the row's style, or `UNKNOWN_STYLE`; None when none is known.
        is_changed_G: whether the augmentation did anything: an augmented anchor that is the anchor
            itself cannot repel it. None when all did.
    """

    anchor_GE: Tensor
    positive_GE: Tensor
    augmented_GE: Tensor | None = None
    partner_G: Tensor | None = None
    song_G: Tensor | None = None
    style_G: Tensor | None = None
    is_changed_G: Tensor | None = None


def numbered(names: Sequence[str]) -> Tensor:
    """Number songs or styles as `Views` wants them; those without a name are unknown."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] if name else UNKNOWN_STYLE for name in names])


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
        """Return the scale of the similarities, 1 / temperature."""
        return self.log_scale.exp()

    @torch.no_grad()
    def limit(self) -> None:
        """Keep a learned one from running away; to be called after each step of the optimiser.

        A clamp in `forward` would stop its gradient, and what once went too far would stay there.
        """
        if isinstance(self.log_scale, nn.Parameter):
            self.log_scale.clamp_(max=math.log(_MAX_SCALE))


def info_nce(
    query_LE: Tensor,
    keys_GE: Tensor,
    positive_LG: Tensor,
    candidate_LG: Tensor,
    scale: Tensor,
    hard_LE: Tensor | None,
    is_hard_L: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of finding each query's key among its candidates and its hard negative.

    Args:
        query_LE: embeddings on the unit sphere.
        keys_GE: keys, shared by all queries.
        positive_LG: which keys are right, at least one; the loss is the mean over them.
        candidate_LG: which keys there are to choose from, the right ones among them.
        scale: 1 / temperature.
        hard_LE: one more negative for each query alone, or None.
        is_hard_L: which queries have theirs; None for all.

    Returns:
        loss_L in nats; log(number of candidates) when all similarities are equal.
    """
    logits = (scale * (query_LE @ keys_GE.T)).masked_fill(~candidate_LG, -torch.inf)
    if hard_LE is not None:
        hard_L1 = scale * (query_LE * hard_LE).sum(dim=-1, keepdim=True)
        if is_hard_L is not None:
            hard_L1 = hard_L1.masked_fill(~is_hard_L[:, None], -torch.inf)
        logits = torch.cat([logits, hard_L1], dim=-1)
    log_share_LG = logits.log_softmax(dim=-1)[:, : len(keys_GE)]
    # Where instead of a product: what is no candidate has a share of zero.
    found_L = torch.where(positive_LG, log_share_LG, 0.0).sum(dim=-1)
    return -found_L / positive_LG.sum(dim=-1)


def relations(views: Views, rows: slice, objective: Objective) -> tuple[Tensor, Tensor]:
    """Tell for each own row which rows attract it and which it has to choose from.

    Args:
        views: the whole batch.
        rows: which rows are this rank's own.
        objective: what attracts and what repels.

    Returns:
        positive_LG and candidate_LG, bool.
    """
    number_G = torch.arange(len(views.anchor_GE), device=views.anchor_GE.device)
    own_LG = number_G[rows, None] == number_G
    same_song_LG = own_LG
    if views.song_G is not None:
        same_song_LG = views.song_G[rows, None] == views.song_G
    candidate_LG = own_LG
    if "siblings" in objective.negatives:
        candidate_LG = candidate_LG | same_song_LG
    if "songs" in objective.negatives:
        candidate_LG = candidate_LG | ~same_song_LG
    if views.style_G is None or objective.same_style == "negative":
        return own_LG, candidate_LG
    known_LG = (views.style_G[rows, None] == views.style_G) & (views.style_G != UNKNOWN_STYLE)
    kin_LG = known_LG & ~same_song_LG
    if objective.same_style == "ignored":
        return own_LG, candidate_LG & ~kin_LG
    return own_LG | kin_LG, candidate_LG | kin_LG


def contrastive_loss(views: Views, rows: slice, scale: Tensor, objective: Objective) -> Tensor:
    """Contrast the views of a batch.

    Anchors look for their positives and positives for their anchors, each with the augmented
    anchor as one more negative. The shared-chain term asks that two songs which went through the
    same chain are nearer to each other than to every song of another chain, and than to their own
    untreated content: what is common to the pair can only be the mix.

    Args:
        views: embeddings of the whole batch, of all ranks.
        rows: which rows are this rank's own; gradients of the others come from their ranks.
        scale: 1 / temperature.
        objective: what attracts and what repels. What it needs and the views lack is left out.

    Returns:
        loss_L: one loss per own row, in nats. The mean over the rows of all ranks is the loss of
        the batch.
    """
    anchor_GE, positive_GE, augmented_GE = views.anchor_GE, views.positive_GE, views.augmented_GE
    loss_L = anchor_GE.new_zeros(len(anchor_GE[rows]))
    if objective.segment_weight > 0:
        positive_LG, candidate_LG = relations(views, rows, objective)
        hard_LE, is_hard_L = None, None
        if augmented_GE is not None and "augmented" in objective.negatives:
            hard_LE = augmented_GE[rows]
            is_hard_L = None if views.is_changed_G is None else views.is_changed_G[rows]
        masks = (positive_LG, candidate_LG, scale, hard_LE, is_hard_L)
        to_positive_L = info_nce(anchor_GE[rows], positive_GE, *masks)
        to_anchor_L = info_nce(positive_GE[rows], anchor_GE, *masks)
        loss_L = loss_L + objective.segment_weight * (to_positive_L + to_anchor_L) / 2
    if objective.shared_chain_weight > 0 and views.partner_G is not None:
        shared_L = _shared_chain_loss(views, rows, scale)
        loss_L = loss_L + objective.shared_chain_weight * shared_L
    return loss_L


def _shared_chain_loss(views: Views, rows: slice, scale: Tensor) -> Tensor:
    """Find the partner among all augmented anchors and the own untreated content: loss_L."""
    anchor_GE, augmented_GE, partner_G = views.anchor_GE, views.augmented_GE, views.partner_G
    assert augmented_GE is not None
    assert partner_G is not None
    number_G = torch.arange(len(anchor_GE), device=anchor_GE.device)
    own_LG = number_G[rows, None] == number_G
    logits_LG = (scale * (augmented_GE[rows] @ augmented_GE.T)).masked_fill(own_LG, -torch.inf)
    untreated_L1 = scale * (augmented_GE[rows] * anchor_GE[rows]).sum(dim=-1, keepdim=True)
    # A row without partner takes any valid target, so that its loss is finite; then it is 0.
    partner_L = partner_G[rows]
    paired_L = partner_L >= 0
    if views.is_changed_G is not None:
        # Partners that nothing was done to are different mixes, and each is its own negative.
        paired_L = paired_L & views.is_changed_G[rows]
    shared_L = functional.cross_entropy(
        torch.cat([logits_LG, untreated_L1], dim=-1),
        torch.where(paired_L, partner_L, len(anchor_GE)),
        reduction="none",
    )
    return torch.where(paired_L, shared_L, 0.0)
