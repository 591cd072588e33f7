"""Retrieval measures on a matrix of distances, with chance levels and confidence intervals.

Every query looks for relevant items in a pool. All measures come from the ranks of the relevant
items among the eligible ones. Equal distances count against the system (irrelevant items come
first), so that an embedding that collapsed to one point gains nothing.

Shape suffixes: Q query, P pool, E embedding, D features, N any item, V value, G song,
R resample.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

RECALL_AT = (1, 5, 10)
MAP_AT = 10
CONFIDENCE = 0.95
# Of the whole spread: less than this in a resample is rounding.
LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval (percentile bootstrap over songs, 95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Task:
    """A retrieval task: which items answer which query.

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


def direction_distance(a_NE: FloatArray, b_NE: FloatArray) -> FloatArray:
    """Measure how far the directions of all rows of two sets lie apart.

    It is the length of the chord between two points on the unit sphere, 0 to 2: the square root
    of 2 (1 - cosine). It ranks as the cosine does, and is a distance as the Euclidean one is, so
    that ratios of distances can be compared with those of other representations.

    Returns:
        distance, one row per row of `a_NE`, one column per row of `b_NE`. A row of zeros has
        distance 1 to every direction.
    """
    return _euclidean(_unit_rows(a_NE), _unit_rows(b_NE))


def rms_distance(a_ND: FloatArray, b_ND: FloatArray) -> FloatArray:
    """Measure the root mean square difference between all rows of two sets."""
    return _euclidean(a_ND, b_ND) / math.sqrt(a_ND.shape[1])


DISTANCES: Mapping[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "direction": direction_distance,
    "rms": rms_distance,
}


def _euclidean(a_NE: FloatArray, b_NE: FloatArray) -> FloatArray:
    """Measure the distances of all rows; unlike the usual matrix product, exactly 0 for equals."""
    # It takes half a second to import.
    from scipy.spatial.distance import cdist

    distance: FloatArray = cdist(a_NE, b_NE)
    return distance


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


def nearest(distance_QP: FloatArray, task: Task) -> IntArray:
    """Return the number of the item that each query finds first, in the order of its ranks.

    Returns:
        a number per query, answerable or not; meaningless where the pool is empty.
    """
    in_pool_QP = np.where(task.eligible_QP, distance_QP, np.inf)
    first_Q: IntArray = np.lexsort((task.relevant_QP, in_pool_QP))[:, 0]
    return first_Q


def first_ranks(ranked: Sequence[BoolArray]) -> FloatArray:
    """Return the rank (from 1) of the first relevant item of each query."""
    return np.array([int(np.argmax(relevant_P)) + 1 for relevant_P in ranked], dtype=np.float64)


def average_precisions(ranked: Sequence[BoolArray], depth: int | None = MAP_AT) -> FloatArray:
    """Return the average precision at a depth of each query; None looks at the whole pool.

    It is the mean, over the relevant items that could be among the first `depth`, of the
    precision at their rank (0 for those that are not).
    """
    values = []
    for relevant_P in ranked:
        top = relevant_P[:depth].astype(np.float64)
        precision = np.cumsum(top) / np.arange(1, len(top) + 1)
        num_reachable = min(int(relevant_P.sum()), len(top))
        values.append(float((precision * top).sum()) / num_reachable)
    return np.array(values)


def query_scores(distance_QP: FloatArray, task: Task) -> dict[str, FloatArray]:
    """Score every answerable query: recall at 1, 5 and 10, rank, and average precision.

    Recall at k is 1 if a relevant item is among the first k, else 0.

    Args:
        distance_QP: smaller is nearer.
        task: what is looked for; at least one query must be answerable.

    Returns:
        `recall_at_1`, `recall_at_5`, `recall_at_10`, `rank` (of the first relevant item, from 1),
        `map_at_10` and `map`; one value per answerable query.

    Raises:
        ValueError: no query is answerable, or shapes differ.
    """
    if distance_QP.shape != task.relevant_QP.shape:
        raise ValueError(f"expected {task.relevant_QP.shape}, got {distance_QP.shape}")
    ranked = ranked_relevance(distance_QP, task)
    if not ranked:
        raise ValueError("expected at least one query with a right and a wrong answer")
    rank_Q = first_ranks(ranked)
    scores = {f"recall_at_{k}": (rank_Q <= k).astype(np.float64) for k in RECALL_AT}
    return scores | {
        "rank": rank_Q,
        f"map_at_{MAP_AT}": average_precisions(ranked),
        "map": average_precisions(ranked, depth=None),
    }


def summarise(
    scores: Mapping[str, FloatArray], song_Q: IntArray, *, num_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    """Average the scores of `query_scores`, with intervals; the rank as mean and as median.

    Args:
        scores: name -> value per query.
        song_Q: the song of each of these queries.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.
    """
    means = {name: values_Q for name, values_Q in scores.items() if name != "rank"}
    estimates = {
        name: bootstrap_mean(values_Q, song_Q, num_bootstrap, seed)
        for name, values_Q in (means | {"mean_rank": scores["rank"]}).items()
    }
    rank_Q1 = scores["rank"][:, np.newaxis]
    return estimates | {"median_rank": bootstrap(rank_Q1, song_Q, _median, num_bootstrap, seed)}


def chance(task: Task) -> dict[str, float]:
    """Return what a random order of each pool scores on average; exact, from the pool sizes.

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
    for name, depth in ((f"map_at_{MAP_AT}", MAP_AT), ("map", None)):
        values[name] = _mean(np.array([_expected_precision(n, r, depth) for n, r in sizes]))
    return values


@cache
def _hit_probability(num_items: int, num_relevant: int, k: int) -> float:
    k = min(k, num_items)
    return 1 - math.comb(num_items - num_relevant, k) / math.comb(num_items, k)


@cache
def _expected_precision(num_items: int, num_relevant: int, depth: int | None) -> float:
    others = (num_relevant - 1) / max(num_items - 1, 1)
    depth = min(depth or num_items, num_items)
    rank_R = np.arange(1, depth + 1)
    total = float((num_relevant / num_items * (1 + (rank_R - 1) * others) / rank_R).sum())
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

    For each mix q let s(q) be its mean distance to the mixes of the same style of other songs,
    and c(q) that to the mixes of the same song in other styles; mixes that have only one kind of
    neighbours are left out. The ratio is the sum of c over the sum of s. Above 1 the
    representation follows the mix more than the song; 1 is what one that knows neither has.

    Returns:
        the ratio. None if no mix has both kinds, or the same style lies at distance zero.
    """
    if len(contrast.song_Q) == 0 or not contrast.same_style_Q.mean() > 0:
        return None
    return bootstrap_ratio(
        contrast.same_song_Q, contrast.same_style_Q, contrast.song_Q, num_bootstrap, seed
    )


def resampled_sums(
    values_QV: FloatArray, song_Q: IntArray, num_samples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Sum columns over the queries, and over resamples of whole songs drawn with replacement.

    Queries of one song are not independent, so a song is drawn with all of its queries. Whatever
    is made of sums (means, ratios, shares of variance) needs nothing else for its interval.

    Args:
        values_QV: one row per query.
        song_Q: the song of each query.
        num_samples: resamples.
        seed: equal seeds draw equal songs.

    Returns:
        sums_V and, a row per resample, sums_RV.
    """
    songs, index_Q = np.unique(song_Q, return_inverse=True)
    by_song_GV = np.zeros((len(songs), values_QV.shape[1]))
    np.add.at(by_song_GV, index_Q, values_QV)
    sums_RV = np.empty((num_samples, values_QV.shape[1]))
    for row, drawn in enumerate(_draws(len(songs), num_samples, seed)):
        sums_RV[row] = np.bincount(drawn, minlength=len(songs)) @ by_song_GV
    return values_QV.sum(axis=0), sums_RV


def interval(value: float, samples_R: FloatArray) -> Estimate:
    """Put the percentile interval of resampled values around a value; without samples no width."""
    if not len(samples_R):
        return Estimate(value, value, value)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples_R, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def bootstrap_ratio(
    numerator_Q: FloatArray,
    denominator_Q: FloatArray,
    song_Q: IntArray,
    num_samples: int,
    seed: int,
) -> Estimate:
    """Estimate the ratio of two sums over the queries, with whole songs resampled."""
    values_Q2 = np.stack((numerator_Q, denominator_Q), axis=1)
    sums_2, sums_R2 = resampled_sums(values_Q2, song_Q, num_samples, seed)
    least = np.finfo(np.float64).tiny
    return interval(
        float(sums_2[0] / max(sums_2[1], least)), sums_R2[:, 0] / np.maximum(sums_R2[:, 1], least)
    )


def bootstrap_r2(
    error_QV: FloatArray, spread_QV: FloatArray, song_Q: IntArray, num_samples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Measure R2 of each column, over the queries and over resamples of whole songs.

    Args:
        error_QV: squared errors of the predictions.
        spread_QV: squared errors of what can be predicted without knowing anything.
        song_Q: the song of each query.
        num_samples: resamples.
        seed: equal seeds draw equal songs.

    Returns:
        r2_V and, a row per resample, r2_RV: 1 less the error over the spread. Where songs are drawn
        in which nothing is to be explained it is 0, as for knowing nothing.
    """
    num_values = error_QV.shape[1]
    sums_V, sums_RV = resampled_sums(
        np.concatenate((error_QV, spread_QV), axis=1), song_Q, num_samples, seed
    )
    least_V = LEAST_SPREAD * sums_V[num_values:]

    def r2(sums: FloatArray) -> FloatArray:
        error, spread = sums[..., :num_values], sums[..., num_values:]
        varies = spread > least_V
        return np.where(varies, 1 - error / np.where(varies, spread, 1.0), 0.0)

    return r2(sums_V), r2(sums_RV)


def bootstrap_mean(values_Q: FloatArray, song_Q: IntArray, num_samples: int, seed: int) -> Estimate:
    """Estimate the mean over the queries, with whole songs resampled."""
    return bootstrap_ratio(values_Q, np.ones_like(values_Q), song_Q, num_samples, seed)


def bootstrap(
    values_QV: FloatArray,
    song_Q: IntArray,
    statistic: Callable[[FloatArray], float],
    num_samples: int,
    seed: int,
) -> Estimate:
    """Estimate any statistic of the queries' rows, with whole songs resampled.

    Args:
        values_QV: one row per query.
        song_Q: the song of each query.
        statistic: of such rows.
        num_samples: resamples; 0 gives an interval of no width.
        seed: equal seeds give equal intervals.
    """
    songs, index_Q = np.unique(song_Q, return_inverse=True)
    rows_by_song = [np.flatnonzero(index_Q == i) for i in range(len(songs))]
    samples_R = [
        statistic(values_QV[np.concatenate([rows_by_song[i] for i in drawn])])
        for drawn in _draws(len(songs), num_samples, seed)
    ]
    return interval(statistic(values_QV), np.array(samples_R))


def _draws(num_songs: int, num_samples: int, seed: int) -> Iterator[IntArray]:
    """Draw songs with replacement, as many as there are."""
    generator = np.random.default_rng(seed)
    for _ in range(num_samples):
        yield generator.integers(num_songs, size=num_songs)


def _mean(values: FloatArray) -> float:
    return float(np.mean(values))


def _median(values: FloatArray) -> float:
    return float(np.median(values))
