"""Retrieval measures on a matrix of distances, with chance levels and confidence intervals.

Every query looks for relevant items in a pool. All measures come from the ranks of the relevant
items among the eligible ones. Equal distances count against the system (irrelevant items come
first), so that an embedding that collapsed to one point gains nothing.

Shape suffixes: Q query, P pool, E embedding, D features, N any item.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

RECALL_AT = (1, 5, 10)
MAP_AT = 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval (percentile bootstrap over songs, 95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Task:
    """What is looked for where.

    Attributes:
        relevant_QP: item p is a right answer to query q.
        eligible_QP: item p is in the pool of query q; a relevant item that is not eligible does
            not count.
        song_Q: number of the song that each query belongs to, the unit of the bootstrap.
    """

    relevant_QP: BoolArray
    eligible_QP: BoolArray
    song_Q: IntArray

    @property
    def answerable(self) -> BoolArray:
        """Queries with at least one right and one wrong answer; the others measure nothing."""
        right_QP = self.relevant_QP & self.eligible_QP
        wrong_QP = ~self.relevant_QP & self.eligible_QP
        answerable: BoolArray = np.logical_and(right_QP.any(axis=1), wrong_QP.any(axis=1))
        return answerable


def cosine_distance(a_NE: FloatArray, b_NE: FloatArray) -> FloatArray:
    """Measure 1 - cosine between all rows of two sets.

    Returns:
        distance, one row per row of `a_NE`, one column per row of `b_NE`. A row of zeros has
        distance 1 to everything.
    """
    return 1 - _unit_rows(a_NE) @ _unit_rows(b_NE).T


def rms_distance(a_ND: FloatArray, b_ND: FloatArray) -> FloatArray:
    """Measure the root mean square difference between all rows of two sets."""
    difference = a_ND[:, np.newaxis, :] - b_ND[np.newaxis, :, :]
    return np.sqrt(np.mean(difference**2, axis=-1))


def _unit_rows(a_NE: FloatArray) -> FloatArray:
    norm_N1 = np.linalg.norm(a_NE, axis=1, keepdims=True)
    return a_NE / np.maximum(norm_N1, np.finfo(np.float64).tiny)


def ranked_relevance(distance_QP: FloatArray, task: Task) -> list[BoolArray]:
    """Sort each answerable query's pool by distance.

    Returns:
        per answerable query whether the first, second, ... item is relevant.
    """
    ranked = []
    for query in np.flatnonzero(task.answerable):
        in_pool = task.eligible_QP[query]
        distance_P = distance_QP[query, in_pool]
        relevant_P = task.relevant_QP[query, in_pool]
        # The last key sorts first: by distance, ties with the irrelevant ones in front.
        ranked.append(relevant_P[np.lexsort((relevant_P, distance_P))])
    return ranked


def first_ranks(ranked: Sequence[BoolArray]) -> FloatArray:
    """Give the rank (from 1) of the first relevant item of each query."""
    return np.array([int(np.argmax(relevant_P)) + 1 for relevant_P in ranked], dtype=np.float64)


def average_precisions(ranked: Sequence[BoolArray], depth: int = MAP_AT) -> FloatArray:
    """Give the average precision at a depth of each query.

    It is the mean, over the relevant items that could be among the first `depth`, of the
    precision at their rank (0 for those that are not).
    """
    values = []
    for relevant_P in ranked:
        top = relevant_P[:depth].astype(np.float64)
        precision = np.cumsum(top) / np.arange(1, len(top) + 1)
        values.append(float((precision * top).sum()) / min(int(relevant_P.sum()), depth))
    return np.array(values)


def measure(
    distance_QP: FloatArray, task: Task, *, num_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    """Measure recall at 1, 5 and 10, mean and median rank, and mAP at 10.

    Recall at k is the share of queries with a relevant item among the first k.

    Args:
        distance_QP: smaller is nearer.
        task: what is looked for; at least one query must be answerable.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Raises:
        ValueError: no query is answerable, or shapes differ.
    """
    if distance_QP.shape != task.relevant_QP.shape:
        raise ValueError(f"expected {task.relevant_QP.shape}, got {distance_QP.shape}")
    ranked = ranked_relevance(distance_QP, task)
    if not ranked:
        raise ValueError("expected at least one query with a right and a wrong answer")
    song_Q = task.song_Q[task.answerable]
    rank_Q = first_ranks(ranked)
    columns: dict[str, tuple[FloatArray, Callable[[FloatArray], float]]] = {
        f"recall_at_{k}": ((rank_Q <= k).astype(np.float64), _mean) for k in RECALL_AT
    }
    columns["mean_rank"] = (rank_Q, _mean)
    columns["median_rank"] = (rank_Q, _median)
    columns[f"map_at_{MAP_AT}"] = (average_precisions(ranked), _mean)
    return {
        name: bootstrap(values_Q[:, np.newaxis], song_Q, statistic, num_bootstrap, seed)
        for name, (values_Q, statistic) in columns.items()
    }


def chance(task: Task) -> dict[str, float]:
    """Give what a random order of each pool scores on average; exact, from the pool sizes.

    With r relevant among n items the first of them is later than k with probability
    C(n-r, k) / C(n, k), and its rank is (n+1) / (r+1) on average; precision at the rank i of a
    relevant item is (1 + (i-1)(r-1)/(n-1)) / i on average. The median rank is the first k that
    is reached with probability one half by a query drawn at random.
    """
    in_pool_Q = task.eligible_QP[task.answerable].sum(axis=1).tolist()
    right_QP = (task.relevant_QP & task.eligible_QP)[task.answerable]
    sizes = list(zip(in_pool_Q, right_QP.sum(axis=1).tolist(), strict=True))
    values = {
        f"recall_at_{k}": _mean(np.array([_hit_probability(n, r, k) for n, r in sizes]))
        for k in RECALL_AT
    }
    values["mean_rank"] = _mean(np.array([(n + 1) / (r + 1) for n, r in sizes]))
    values["median_rank"] = float(
        next(
            k
            for k in range(1, max(in_pool_Q) + 1)
            if _mean(np.array([_hit_probability(n, r, k) for n, r in sizes])) >= 0.5
        )
    )
    values[f"map_at_{MAP_AT}"] = _mean(
        np.array([_expected_precision(n, r, MAP_AT) for n, r in sizes])
    )
    return values


def _hit_probability(num_items: int, num_relevant: int, k: int) -> float:
    k = min(k, num_items)
    return 1 - math.comb(num_items - num_relevant, k) / math.comb(num_items, k)


def _expected_precision(num_items: int, num_relevant: int, depth: int) -> float:
    others = (num_relevant - 1) / max(num_items - 1, 1)
    ranks = range(1, min(depth, num_items) + 1)
    total = sum(num_relevant / num_items * (1 + (i - 1) * others) / i for i in ranks)
    return total / min(num_relevant, depth)


@dataclass(frozen=True, eq=False)
class StyleContrast:
    """Per query: how near the same style is in other songs, and the same song in other styles.

    Attributes:
        same_style_Q: mean distance to the same style in other songs.
        same_song_Q: mean distance to the same song in other styles.
        song_Q: the query's song.
    """

    same_style_Q: FloatArray
    same_song_Q: FloatArray
    song_Q: IntArray


def style_contrast(distance_NN: FloatArray, song_N: IntArray, style_N: IntArray) -> StyleContrast:
    """Compare the two distances, for the items that have both kinds of neighbours."""
    same_song_NN = song_N[:, np.newaxis] == song_N
    same_style_NN = style_N[:, np.newaxis] == style_N
    style_only_NN = same_style_NN & ~same_song_NN
    song_only_NN = same_song_NN & ~same_style_NN
    usable_N = style_only_NN.any(axis=1) & song_only_NN.any(axis=1)

    def mean_where(where_NN: BoolArray) -> FloatArray:
        total_N = np.where(where_NN, distance_NN, 0).sum(axis=1)
        return (total_N / np.maximum(where_NN.sum(axis=1), 1))[usable_N]

    return StyleContrast(mean_where(style_only_NN), mean_where(song_only_NN), song_N[usable_N])


def style_over_song_ratio(
    contrast: StyleContrast, *, num_bootstrap: int, seed: int
) -> Estimate | None:
    """Measure how much farther the same song in other styles is than the same style elsewhere.

    Returns:
        the ratio of the mean distances: above 1 the representation follows the mix more than the
        song. None if there is no query, or the same style lies at distance zero.
    """
    if len(contrast.song_Q) == 0 or not contrast.same_style_Q.mean() > 0:
        return None
    values = np.stack((contrast.same_song_Q, contrast.same_style_Q), axis=1)
    return bootstrap(values, contrast.song_Q, _ratio_of_means, num_bootstrap, seed)


def bootstrap(
    values_QV: FloatArray,
    song_Q: IntArray,
    statistic: Callable[[FloatArray], float],
    num_samples: int,
    seed: int,
) -> Estimate:
    """Resample whole songs with replacement: queries of one song are not independent.

    Args:
        values_QV: one row per query.
        song_Q: the song of each query.
        statistic: of such rows.
        num_samples: resamples; 0 gives an interval of no width.
        seed: equal seeds give equal intervals.
    """
    value = statistic(values_QV)
    songs, index_Q = np.unique(song_Q, return_inverse=True)
    rows_by_song = [np.flatnonzero(index_Q == i) for i in range(len(songs))]
    generator = np.random.default_rng(seed)
    samples = [
        statistic(values_QV[np.concatenate([rows_by_song[i] for i in drawn])])
        for drawn in generator.integers(len(songs), size=(num_samples, len(songs)))
    ]
    if not samples:
        return Estimate(value, value, value)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def _mean(values: FloatArray) -> float:
    return float(np.mean(values))


def _median(values: FloatArray) -> float:
    return float(np.median(values))


def _ratio_of_means(values_Q2: FloatArray) -> float:
    numerator, denominator = values_Q2.mean(axis=0)
    return float(numerator / max(denominator, np.finfo(np.float64).tiny))
