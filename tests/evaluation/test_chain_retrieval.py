from collections import Counter

import numpy as np
import pytest

from mixprint.evaluation.chain_retrieval import (
    MEASURES,
    chain_chance,
    chain_estimates,
    chain_scores,
    pair_segments,
)

# Two segments of each of five songs, in two styles.
SONGS = [f"song{i // 2}" for i in range(10)]
STYLES = ["dry", "wet"] * 5


def test_pairs_are_of_two_songs_and_two_styles_and_every_song_is_in_the_pool() -> None:
    pairs = pair_segments(SONGS, STYLES, 20, seed=1)
    queries, partners = (
        [SONGS[i] for i in numbers.tolist()] for numbers in (pairs.query_N, pairs.partner_N)
    )
    assert all(a != b for a, b in zip(queries, partners, strict=True))
    assert set(Counter(queries).values()) == set(Counter(partners).values()) == {4}
    assert all(STYLES[a] != STYLES[b] for a, b in zip(pairs.query_N, pairs.partner_N, strict=True))
    # More chains come after the ones that are there; another seed deals otherwise.
    longer = pair_segments(SONGS, STYLES, 33, seed=1)
    np.testing.assert_array_equal(longer.partner_N[:20], pairs.partner_N)
    assert (pair_segments(SONGS, STYLES, 20, seed=2).query_N != pairs.query_N).any()


def test_a_style_that_is_unknown_or_the_only_one_bars_nobody() -> None:
    for styles in ([""] * 10, ["one"] * 10):
        assert set(pair_segments(SONGS, styles, 200, seed=1).partner_N.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="at least 2 songs, got 1"):
        pair_segments(["a", "a"], ["", ""], 4, seed=1)


def test_scores_by_hand() -> None:
    # The partners of a and b are each other's; c finds its own; ranks 2, 2, 1.
    query_NE = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    partner_NE = np.array([[0.1, 1.0], [1.0, 0.0], [-3.0, -0.1]])
    scores = chain_scores(query_NE, partner_NE)
    assert scores["recall_at_1"].tolist() == [0, 0, 1]
    assert scores["recall_at_5"].tolist() == [1, 1, 1]
    assert scores["mrr"].tolist() == [0.5, 0.5, 1]
    found = chain_estimates(scores, num_bootstrap=200, seed=1)
    assert tuple(found) == MEASURES
    assert found["mrr"].value == pytest.approx(2 / 3)
    assert (found["mrr"].low, found["mrr"].high) == (0.5, 1)


def test_who_recognises_songs_finds_no_chain() -> None:
    pairs = pair_segments(SONGS, STYLES, 40, seed=1)
    song_GE = np.eye(5)
    song_N = np.array([int(song[-1]) for song in SONGS])
    found = chain_scores(song_GE[song_N[pairs.query_N]], song_GE[song_N[pairs.partner_N]])
    assert found["recall_at_10"].mean() == 0


def test_chance_is_what_a_random_order_scores() -> None:
    values = chain_chance(20)
    assert values["recall_at_1"] == pytest.approx(1 / 20)
    assert values["recall_at_10"] == pytest.approx(10 / 20)
    assert values["mrr"] == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)
    # Equal vectors tell nothing, and ties count against the system.
    assert chain_scores(np.ones((20, 3)), np.ones((20, 3)))["mrr"].max() == 1 / 20
