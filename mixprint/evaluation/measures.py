"""Song and style retrieval on arrays of embeddings: the measures, ready to be called.

    from mixprint.evaluation import style_metrics

    found = style_metrics(embedding_NE, styles, songs)
    found.estimates["recall_at_1"]            # value, low, high
    found.chance["recall_at_1"]
    found.estimates["style_over_song_ratio"]

Shape suffixes: N mix, Q query, P pool, E embedding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mixprint.evaluation.retrieval import (
    DISTANCES,
    Estimate,
    FloatArray,
    IntArray,
    Task,
    chance,
    nearest,
    query_scores,
    style_contrast,
    style_over_song_ratio,
    summarise,
)

STYLE_OVER_SONG = "style_over_song_ratio"


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Result of a retrieval task.

    Attributes:
        estimates: measure -> value with its interval.
        chance: measure -> what an embedding that knows nothing scores on average.
        num_unanswerable: queries without a right or without a wrong answer; they are left out.
        query_Q: number of the mix behind each answerable query, among those that were passed.
        nearest_Q: number of the item of the pool that was found first; of several at the same
            distance a wrong one, as in the scores.
        scores: measure -> value per answerable query.
    """

    estimates: dict[str, Estimate]
    chance: dict[str, float]
    num_unanswerable: int
    query_Q: IntArray
    nearest_Q: IntArray
    scores: dict[str, FloatArray]

    def to_values(self) -> dict[str, dict[str, float]]:
        """Return the estimates as plain values, for JSON."""
        return {name: asdict(estimate) for name, estimate in self.estimates.items()}


def song_metrics(
    query_QE: FloatArray,
    pool_PE: FloatArray,
    answer_Q: Sequence[int],
    songs: Sequence[str],
    *,
    distance: str = "direction",
    num_bootstrap: int = 1000,
    seed: int = 1,
) -> Retrieval:
    """Look for the piece of a pool that comes from the same mix as the query.

    Args:
        query_QE: for example the last segments of mixes.
        pool_PE: for example the first segments of all mixes.
        answer_Q: number of the right answer in the pool.
        songs: the song of each query, the unit of the intervals.
        distance: a key of `DISTANCES`: `direction` for embeddings, `rms` for features.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Returns:
        recall at 1, 5 and 10, mean and median rank, mAP at 10.

    Raises:
        ValueError: the pool has fewer than two items, or shapes differ.
    """
    task = Task(
        relevant_QP=np.asarray(answer_Q)[:, np.newaxis] == np.arange(len(pool_PE)),
        eligible_QP=np.ones((len(query_QE), len(pool_PE)), dtype=np.bool_),
        song_Q=numbered(songs),
    )
    return _retrieve(DISTANCES[distance](query_QE, pool_PE), task, num_bootstrap, seed)


def style_metrics(
    embedding_NE: FloatArray,
    styles: Sequence[str],
    songs: Sequence[str],
    *,
    distance: str = "direction",
    num_bootstrap: int = 1000,
    seed: int = 1,
) -> Retrieval:
    """Look for the same style among other songs, with the query's own song as a distractor.

    In the pool of a mix are all mixes of other songs, and its own song in other styles; right are
    those of its style. Its own song in its own style is neither right nor wrong and left out.

    Args:
        embedding_NE: one row per mix.
        styles: the style of each.
        songs: the song of each: the content that mixes share, and the unit of the intervals.
        distance: a key of `DISTANCES`: `direction` for embeddings, `rms` for features.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Returns:
        recall at 1, 5 and 10, mean and median rank, mAP at 10 and over the whole pool, and
        `style_over_song_ratio` (see `retrieval.style_over_song_ratio`) where it is defined.

    Raises:
        ValueError: no mix has both its style in another song and a wrong answer, or lengths differ.
    """
    if not len(embedding_NE) == len(styles) == len(songs):
        raise ValueError(
            f"expected a style and a song per mix, got {len(embedding_NE)} mixes, {len(styles)} "
            f"styles, {len(songs)} songs"
        )
    distance_NN = DISTANCES[distance](embedding_NE, embedding_NE)
    found = _retrieve(distance_NN, style_task(styles, songs), num_bootstrap, seed)
    ratio = style_over_song_ratio(
        style_contrast(distance_NN, numbered(songs), numbered(styles)),
        num_bootstrap=num_bootstrap,
        seed=seed,
    )
    if ratio is not None:
        found.estimates[STYLE_OVER_SONG] = ratio
        found.chance[STYLE_OVER_SONG] = 1.0
    return found


def style_task(styles: Sequence[str], songs: Sequence[str]) -> Task:
    """Set the task of `style_metrics`; `Task.answerable` tells which mixes can be queries."""
    song_N, style_N = numbered(songs), numbered(styles)
    same_song_NN = song_N[:, np.newaxis] == song_N
    same_style_NN = style_N[:, np.newaxis] == style_N
    return Task(
        relevant_QP=same_style_NN & ~same_song_NN,
        # The same song in the same style includes the query itself.
        eligible_QP=~(same_song_NN & same_style_NN),
        song_Q=song_N,
    )


def numbered(labels: Sequence[str]) -> IntArray:
    """Number labels from 0 in sorted order."""
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _retrieve(distance_QP: FloatArray, task: Task, num_bootstrap: int, seed: int) -> Retrieval:
    scores = query_scores(distance_QP, task)
    query_Q = np.flatnonzero(task.answerable)
    song_Q = task.song_Q[query_Q]
    return Retrieval(
        estimates=summarise(scores, song_Q, num_bootstrap=num_bootstrap, seed=seed),
        chance=chance(task),
        num_unanswerable=len(task.song_Q) - len(query_Q),
        query_Q=query_Q,
        nearest_Q=nearest(distance_QP, task)[query_Q],
        scores=scores,
    )
