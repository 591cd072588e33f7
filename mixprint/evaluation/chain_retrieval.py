"""Retrieval of effect chains: of which two songs was the mix made in the same way?

Each of N chains of effects, which has a part of its own for each stem, is put on the stems of two
different songs. One of the two mixes is the query; the other, its partner, is one of N candidates:
the partners of all chains. Only the chain leads from a query to its partner. Each song is partner
under other chains, too, so an embedding that looks for the query's own song finds a wrong answer.

How many of the partners are found depends on N, the size of the pool: state it with every figure.
Other pools, songs or effects make other tests.

Shape suffixes: N chain, and the mixes that it makes; G song; E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mixprint.chains import Chains, draw_chains
from mixprint.evaluation.measures import numbered
from mixprint.evaluation.retrieval import (
    DISTANCES,
    RECALL_AT,
    Estimate,
    FloatArray,
    IntArray,
    Task,
    bootstrap_mean,
    chance,
    query_scores,
)
from mixprint.training.loading import derive_seed

MRR = "mrr"
MEASURES = (*(f"recall_at_{k}" for k in RECALL_AT), MRR)
MIN_SONGS = 2


@dataclass(frozen=True, eq=False)
class ChainPairs:
    """Segments that chains are put on.

    Attributes:
        query_N: number of the segment that becomes the query.
        partner_N: number of the segment, of another song, that becomes the right answer.
    """

    query_N: IntArray
    partner_N: IntArray


def pair_segments(
    songs: Sequence[str], styles: Sequence[str], num_chains: int, seed: int
) -> ChainPairs:
    """Deal segments to chains, so that neither song nor known style leads to the right answer.

    The songs stand in a circle, shuffled anew for each round: each is once a query, and once the
    partner of the one before it. From as many chains as songs on, each song is as often in the pool
    as among the queries. More chains leave the pairs of the first ones as they are.

    Args:
        songs: the song of each segment.
        styles: the style of each segment's mix, empty where it is unknown. A partner has another
            one than its query where its song has any other.
        num_chains: how many pairs.
        seed: of the shuffling.

    Raises:
        ValueError: there are fewer than `MIN_SONGS` songs.
    """
    song_N = numbered(songs)
    num_songs = int(song_N.max()) + 1 if len(song_N) else 0
    if num_songs < MIN_SONGS:
        raise ValueError(f"expected segments of at least {MIN_SONGS} songs, got {num_songs}")
    generator = torch.Generator().manual_seed(derive_seed(seed, "chain pairs"))

    def choose(numbers: IntArray) -> int:
        return int(numbers[int(torch.randint(len(numbers), (), generator=generator))])

    segments_of = [np.flatnonzero(song_N == song) for song in range(num_songs)]
    style_N = np.array(styles)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < num_chains:
        circle = torch.randperm(num_songs, generator=generator).tolist()
        for song, after in zip(circle, (*circle[1:], circle[0]), strict=True):
            query, others = choose(segments_of[song]), segments_of[after]
            unlike = others[(style_N[others] != style_N[query]) | (style_N[others] == "")]
            pairs.append((query, choose(unlike if len(unlike) else others)))
    query_N, partner_N = np.array(pairs[:num_chains], dtype=np.int64).reshape(-1, 2).T
    return ChainPairs(query_N, partner_N)


def draw_pair_chains(num_chains: int, length: int, effects: Sequence[str], seed: int) -> Chains:
    """Draw the chains of one length: those of all queries, then the same ones of all partners.

    Phases, which are no style, differ: alike, they would tell who belongs together.

    Args:
        num_chains: number of pairs.
        length: effects on each stem.
        effects: names to draw from.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "held-out chains", length))
    chains = draw_chains(num_chains, generator, lengths=(length,), effects=effects)
    return chains.take(torch.arange(num_chains).repeat(2)).at_other_times(generator)


def chain_scores(
    query_NE: FloatArray, partner_NE: FloatArray, *, distance: str = "direction"
) -> dict[str, FloatArray]:
    """Look for the partner of each query among all partners.

    Args:
        query_NE: a mix under each chain.
        partner_NE: another song's mix under the same chain; row n answers query n.
        distance: a key of `DISTANCES`; `direction` ranks as the cosine similarity does.

    Returns:
        measure of `MEASURES` -> score of each query: recall is 0 or 1, `mrr` the reciprocal rank.

    Raises:
        ValueError: there are fewer than two chains, or shapes differ.
    """
    if len(query_NE) != len(partner_NE):
        raise ValueError(f"expected a partner per query, got {len(partner_NE)}, {len(query_NE)}")
    scores = query_scores(DISTANCES[distance](query_NE, partner_NE), _task(len(query_NE)))
    # With one right answer the average precision over the whole pool is the reciprocal rank.
    return {name: scores["map" if name == MRR else name] for name in MEASURES}


def chain_chance(num_chains: int) -> dict[str, float]:
    """Return what a random order of the candidates scores on average."""
    values = chance(_task(num_chains))
    return {name: values["map" if name == MRR else name] for name in MEASURES}


def chain_estimates(
    scores: Mapping[str, FloatArray], *, num_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    """Average the scores of `chain_scores`, or differences of two, with 95 % intervals over chains.

    Args:
        scores: measure -> value of each chain.
        num_bootstrap: resamples of the chains.
        seed: equal seeds draw equal chains.
    """
    return {
        name: bootstrap_mean(values_N, np.arange(len(values_N)), num_bootstrap, seed)
        for name, values_N in scores.items()
    }


def counted_effects(length: int) -> str:
    """Say how long chains are."""
    return f"{length} effect{'s' if length != 1 else ''}"


def _task(num_chains: int) -> Task:
    return Task(
        relevant_QP=np.eye(num_chains, dtype=np.bool_),
        eligible_QP=np.ones((num_chains, num_chains), dtype=np.bool_),
        song_Q=np.arange(num_chains),
    )
