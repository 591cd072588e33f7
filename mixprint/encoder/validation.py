"""Retrieval on the validation songs: what chooses the best epoch.

Shape suffixes: Q segment, R segments of a part of all, E embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.encoder.data import ROUNDING_S, TrackSegments
from mixprint.encoder.losses import Views, contrastive_loss
from mixprint.encoder.settings import Objective

_QUERIES_AT_ONCE = 1024  # bounds the memory
# The same measure whatever a training is asked to learn.
_PLAIN = Objective(
    negatives=("songs",), same_style="negative", segment_weight=1.0, shared_chain_weight=0.0
)


def retrieval_metrics(
    embedding_QE: Tensor, tracks: Sequence[TrackSegments], stored_s: float, scale: Tensor
) -> dict[str, float]:
    """Find each segment's track by another segment of it, among the segments of all tracks.

    A segment that shares audio with the query is no candidate. Queries that have no other
    segment of their own track left are compared with the overlapping ones after all.

    Args:
        embedding_QE: embeddings of all segments, in the order of the tracks and their references.
        tracks: what they belong to.
        stored_s: length of the segments.
        scale: 1 / temperature, for the loss.

    Returns:
        `valid_recall_at_1`, `valid_mrr` (mean reciprocal rank of the nearest right segment) and
        `valid_loss` (InfoNCE of the first and the last segment of each track).
    """
    sizes = torch.tensor([len(track.references) for track in tracks])
    owner_Q = torch.arange(len(tracks)).repeat_interleave(sizes)
    start_Q = torch.tensor(
        [r.start_s for track in tracks for r in track.references], dtype=torch.float64
    )
    number_Q = torch.arange(len(owner_Q))
    ranks = []
    for number_R in number_Q.split(_QUERIES_AT_ONCE):
        same_RQ = owner_Q[number_R, None] == owner_Q
        gap_RQ = (start_Q[number_R, None] - start_Q).abs()
        shared_RQ = same_RQ & (gap_RQ < stored_s - ROUNDING_S)
        alone_R1 = ~(same_RQ & ~shared_RQ).any(dim=1, keepdim=True)
        barred_RQ = torch.where(alone_R1, number_R[:, None] == number_Q, shared_RQ)
        similarity_RQ = embedding_QE[number_R] @ embedding_QE.T
        allowed_RQ = similarity_RQ.masked_fill(barred_RQ, -torch.inf)
        best_R1 = allowed_RQ.masked_fill(~same_RQ, -torch.inf).amax(dim=1, keepdim=True)
        # A wrong segment that is just as near counts as nearer: equal embeddings find nothing.
        ranks.append(1 + ((allowed_RQ >= best_R1) & ~same_RQ).sum(dim=1))
    rank_Q = torch.cat(ranks)
    ends = sizes.cumsum(dim=0)
    views = Views(anchor_GE=embedding_QE[ends - sizes], positive_GE=embedding_QE[ends - 1])
    loss_G = contrastive_loss(views, slice(None), scale, _PLAIN)
    return {
        "valid_recall_at_1": float((rank_Q == 1).float().mean()),
        "valid_mrr": float((1.0 / rank_Q).mean()),
        "valid_loss": float(loss_G.mean()),
    }
