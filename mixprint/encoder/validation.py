"""Retrieval on the validation songs: what chooses the best epoch.

Shape suffixes: Q segment, R segments of a part of all, E embedding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixprint.collection.shards import SegmentRef
from mixprint.collection.tracks import ROUNDING_S, TrackSegments
from mixprint.encoder.losses import UNKNOWN_STYLE, Views, contrastive_loss, numbered
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
        `recall_at_1`, `mrr` (mean reciprocal rank of the nearest right segment) and
        `loss` (InfoNCE of the first and the last segment of each track).
    """
    sizes = torch.tensor([len(track.references) for track in tracks])
    owner_Q = torch.arange(len(tracks)).repeat_interleave(sizes)
    start_Q = torch.tensor(
        [r.start_s for track in tracks for r in track.references], dtype=torch.float64
    )
    number_Q = torch.arange(len(owner_Q))

    def marked(number_R: Tensor) -> tuple[Tensor, Tensor]:
        same_RQ = owner_Q[number_R, None] == owner_Q
        gap_RQ = (start_Q[number_R, None] - start_Q).abs()
        shared_RQ = same_RQ & (gap_RQ < stored_s - ROUNDING_S)
        alone_R1 = ~(same_RQ & ~shared_RQ).any(dim=1, keepdim=True)
        return same_RQ, torch.where(alone_R1, number_R[:, None] == number_Q, shared_RQ)

    rank_Q = _first_ranks(embedding_QE, marked)
    ends = sizes.cumsum(dim=0)
    views = Views(anchor_GE=embedding_QE[ends - sizes], positive_GE=embedding_QE[ends - 1])
    loss_G = contrastive_loss(views, slice(None), scale, _PLAIN)
    return {
        "recall_at_1": float((rank_Q == 1).float().mean()),
        "mrr": float((1.0 / rank_Q).mean()),
        "loss": float(loss_G.mean()),
    }


def style_retrieval_metrics(
    embedding_QE: Tensor, tracks: Sequence[TrackSegments]
) -> dict[str, float]:
    """Find the known style of each segment in another song, among the segments of all other tracks.

    The pool holds the other mixes of the query's own song: what follows the song finds them.

    Args:
        embedding_QE: embeddings of all segments, in the order of the tracks and their references.
        tracks: what they belong to.

    Returns:
        `style_recall_at_1` and `style_mrr`; nothing where no style is met by two songs.
    """
    sizes = torch.tensor([len(track.references) for track in tracks])

    def of_segments(names: Sequence[str]) -> Tensor:
        return numbered(names).repeat_interleave(sizes)

    track_Q = of_segments([track.track_id for track in tracks])
    song_Q = of_segments([track.song for track in tracks])
    style_Q = of_segments([track.style for track in tracks])

    def marked(number_R: Tensor) -> tuple[Tensor, Tensor]:
        alike_RQ = (style_Q[number_R, None] == style_Q) & (style_Q != UNKNOWN_STYLE)
        right_RQ = alike_RQ & (song_Q[number_R, None] != song_Q)
        return right_RQ, track_Q[number_R, None] == track_Q

    rank_Q = _first_ranks(embedding_QE, marked)
    rank_Q = rank_Q[rank_Q > 0]
    if not len(rank_Q):
        return {}
    return {
        "style_recall_at_1": float((rank_Q == 1).float().mean()),
        "style_mrr": float((1.0 / rank_Q).mean()),
    }


def pairs_to_chain(
    tracks: Sequence[TrackSegments], num_pairs: int
) -> list[tuple[SegmentRef, SegmentRef]]:
    """Choose segments of two different songs for each chain, always the same ones.

    Args:
        tracks: of any number of songs.
        num_pairs: of segments.

    Returns:
        the pairs; none where there is one song only.
    """
    pairs = []
    for number in range(num_pairs):
        turn, first = divmod(number, len(tracks))
        others = [track for track in tracks if track.song != tracks[first].song]
        if others:
            two = (tracks[first], others[(first + turn) % len(others)])
            # Other segments once all other tracks had their turn.
            place = turn // len(others)
            one, other = (t.references[place % len(t.references)] for t in two)
            pairs.append((one, other))
    return pairs


def chain_retrieval_metrics(embedding_QE: Tensor) -> dict[str, float]:
    """Find each segment's partner, of another song behind the same chain, among all of them.

    Args:
        embedding_QE: the first segments of all pairs, then the second ones in the same order.

    Returns:
        `chain_recall_at_1` and `chain_mrr`; nothing where there are no pairs.
    """
    if not len(embedding_QE):
        return {}
    number_Q = torch.arange(len(embedding_QE))
    partner_Q = number_Q.roll(len(number_Q) // 2)

    def marked(number_R: Tensor) -> tuple[Tensor, Tensor]:
        return partner_Q[number_R, None] == number_Q, number_R[:, None] == number_Q

    rank_Q = _first_ranks(embedding_QE, marked)
    return {
        "chain_recall_at_1": float((rank_Q == 1).float().mean()),
        "chain_mrr": float((1.0 / rank_Q).mean()),
    }


def _first_ranks(embedding_QE: Tensor, marked: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Rank the nearest right segment of each query.

    Args:
        embedding_QE: queries and pool.
        marked: number_R of queries -> right_RQ and barred_RQ, which are not in the query's pool.

    Returns:
        rank_Q from 1; 0 where no segment is right.
    """
    ranks = []
    for number_R in torch.arange(len(embedding_QE)).split(_QUERIES_AT_ONCE):
        right_RQ, barred_RQ = marked(number_R)
        similarity_RQ = (embedding_QE[number_R] @ embedding_QE.T).masked_fill(barred_RQ, -torch.inf)
        best_R1 = similarity_RQ.masked_fill(~right_RQ, -torch.inf).amax(dim=1, keepdim=True)
        # A wrong segment that is just as near counts as nearer: equal embeddings find nothing.
        rank_R = 1 + ((similarity_RQ >= best_R1) & ~right_RQ & ~barred_RQ).sum(dim=1)
        ranks.append(torch.where((right_RQ & ~barred_RQ).any(dim=1), rank_R, 0))
    return torch.cat(ranks)
