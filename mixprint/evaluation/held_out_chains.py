"""Retrieval of effect chains on a collection, with effects that trainings do not draw by default.

It needs nothing known of the songs: their own segments are put through chains of
`mixprint.chains.HELD_OUT`, so a collection of any two songs can be evaluated. The measure is that
of `mixprint.evaluation.chain_retrieval`.

Shape suffixes: N chain, E embedding, B batch, S stem, C channel, T sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixprint.chains import HELD_OUT, MAX_LENGTH, apply_chains
from mixprint.collection.shards import SegmentRef
from mixprint.errors import ConfigError
from mixprint.evaluation.chain_retrieval import (
    MEASURES,
    MIN_SONGS,
    ChainPairs,
    chain_chance,
    chain_estimates,
    chain_scores,
    counted_effects,
    draw_pair_chains,
    pair_segments,
)
from mixprint.evaluation.embedding import DISTANCE_OF, ENCODER, embed_segments
from mixprint.evaluation.retrieval import FloatArray
from mixprint.fingerprint import code_version, fingerprint
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed

MIN_CHAINS = 2


@dataclass(frozen=True, kw_only=True)
class ChainTest:
    """Size of the test.

    Attributes:
        num_chains: chains of each length, and so the size of the pool; 0: no test.
        lengths: effects on each stem.
        segment_s: what is heard of a segment, from its start.
        seed: of chains and pairs.
    """

    num_chains: int
    lengths: Sequence[int]
    segment_s: float
    seed: int

    def identity(self) -> str:
        """Return what figures must share to be compared, beside the songs."""
        code = code_version(
            "mixprint.chains.applying",
            "mixprint.chains.drawing",
            "mixprint.evaluation.chain_retrieval",
        )
        return fingerprint({**asdict(self), "effects": sorted(HELD_OUT), "code": code})


@dataclass(frozen=True, eq=False)
class ChainRetrieval:
    """Figures of the test, as metrics.json holds them, and the encoder's scores behind them.

    Attributes:
        values: the figures, or why there are none.
        scores: measure -> chain -> the encoder's score; empty where there are none.
    """

    values: dict[str, Any]
    scores: dict[str, dict[str, float]]


def retrieve_chains(
    references: Sequence[SegmentRef],
    songs: Sequence[str],
    styles: Sequence[str],
    embedders: Mapping[str, Callable[[Tensor, int], Tensor]],
    test: ChainTest,
    *,
    device: torch.device | str,
    num_bootstrap: int,
) -> ChainRetrieval:
    """Put chains on segments of a collection, and look for the partner of each query.

    Args:
        references: the segments.
        songs: the song of each.
        styles: the style of each, empty where it is unknown.
        embedders: the names of `DISTANCE_OF`, each with a function of stems_BSCT on `device` and
            the sample rate in Hz.
        test: how many chains of what length.
        device: where to compute.
        num_bootstrap: resamples of the chains for the intervals.

    Raises:
        ConfigError: chains are to be longer than there are effects.
        DataError: a shard is broken, or a vector is not finite.
    """
    longest = min(MAX_LENGTH, len(HELD_OUT))
    if any(not 1 <= length <= longest for length in test.lengths):
        raise ConfigError(
            f"evaluate.chain_effects must be 1 to {longest} effects, got {list(test.lengths)}"
        )
    if absent := _absent(songs, test):
        return ChainRetrieval({"absent": absent}, {})
    by_length: dict[str, dict[str, Any]] = {}
    everything: dict[str, dict[str, list[FloatArray]]] = {}
    names: list[str] = []
    for length in test.lengths:
        pairs = pair_segments(songs, styles, test.num_chains, derive_seed(test.seed, length))
        vectors = _embed_pairs(references, pairs, embedders, test, length, device)
        names += [f"{counted_effects(length)}, chain {n}" for n in range(test.num_chains)]
        by_length[str(length)] = {}
        for name, (query_NE, partner_NE) in vectors.items():
            scores = chain_scores(query_NE, partner_NE, distance=DISTANCE_OF[name])
            by_length[str(length)][name] = _figures(scores, test, num_bootstrap)
            kept = everything.setdefault(name, {measure: [] for measure in MEASURES})
            for measure, values_N in scores.items():
                kept[measure].append(values_N)
    joined = {
        name: {measure: np.concatenate(parts) for measure, parts in kept.items()}
        for name, kept in everything.items()
    }
    values = {
        "num_chains": test.num_chains,
        "pool_size": test.num_chains,
        "lengths": list(test.lengths),
        "segment_s": test.segment_s,
        "num_songs": len(set(songs)),
        "effects": sorted(HELD_OUT),
        "test_fingerprint": test.identity(),
        "chance": chain_chance(test.num_chains),
        **{name: _figures(scores, test, num_bootstrap) for name, scores in joined.items()},
        "by_length": by_length,
    }
    return ChainRetrieval(
        values,
        {
            measure: dict(zip(names, values_N.tolist(), strict=True))
            for measure, values_N in joined[ENCODER].items()
        },
    )


def _absent(songs: Sequence[str], test: ChainTest) -> str:
    """Say why there is no test; empty if there is one."""
    num_songs = len(set(songs))
    if test.num_chains < MIN_CHAINS or not test.lengths:
        return "switched off by evaluate.num_chains or evaluate.chain_effects"
    if num_songs < MIN_SONGS:
        return f"expected at least {MIN_SONGS} songs, found {num_songs}"
    return ""


def _figures(
    scores: Mapping[str, FloatArray], test: ChainTest, num_bootstrap: int
) -> dict[str, dict[str, float]]:
    found = chain_estimates(scores, num_bootstrap=num_bootstrap, seed=test.seed)
    return {name: asdict(estimate) for name, estimate in found.items()}


def _embed_pairs(
    references: Sequence[SegmentRef],
    pairs: ChainPairs,
    embedders: Mapping[str, Callable[[Tensor, int], Tensor]],
    test: ChainTest,
    length: int,
    device: torch.device | str,
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Embed both mixes of chains of one length: name -> (query_NE, partner_NE)."""
    chains = draw_pair_chains(test.num_chains, length, sorted(HELD_OUT), test.seed)
    num_samples = round(test.segment_s * SAMPLE_RATE_HZ)

    def change(row: int, stems_SCT: Tensor) -> Tensor:
        heard_BSCT = stems_SCT[None, ..., :num_samples].to(device)
        chain = chains.take(torch.tensor([row])).to(device)
        return apply_chains(heard_BSCT, chain, SAMPLE_RATE_HZ)[0]

    rows = [*pairs.query_N.tolist(), *pairs.partner_N.tolist()]
    vectors, _ = embed_segments(embedders, [references[i] for i in rows], device, change=change)
    return {
        name: (values_NE[: test.num_chains], values_NE[test.num_chains :])
        for name, values_NE in vectors.items()
    }
