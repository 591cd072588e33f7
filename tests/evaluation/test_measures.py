import numpy as np
import pytest

from mixprint.evaluation import song_metrics, style_metrics
from mixprint.evaluation.measures import style_task

SONGS = ["a", "a", "b", "b", "c", "c"]
STYLES = ["dry", "wet"] * 3


def vectors(style_weight: float, song_weight: float) -> np.ndarray:
    """Make embeddings in which style and song have a direction each."""
    style_N2 = np.eye(2)[[0, 1] * 3]
    song_N3 = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    return np.concatenate((style_weight * style_N2, song_weight * song_N3), axis=1)


def test_an_embedding_of_the_style() -> None:
    found = style_metrics(vectors(1.0, 0.1), STYLES, SONGS, num_bootstrap=20)
    assert found.estimates["recall_at_1"].value == 1
    assert found.estimates["map"].value == 1
    # Each of the 6 mixes has 5 others in its pool: 2 in its style, 2 in another, 1 of its song.
    assert found.chance["recall_at_1"] == pytest.approx(2 / 5)
    assert found.query_Q.tolist() == [0, 1, 2, 3, 4, 5]
    assert [STYLES[i] for i in found.nearest_Q] == STYLES
    # Chords: cos = 1 / 1.01 to the same style elsewhere, 0.01 / 1.01 to the same song.
    expected = np.sqrt((2 - 0.02 / 1.01) / (2 - 2 / 1.01))
    assert found.estimates["style_over_song_ratio"].value == pytest.approx(expected)
    assert found.scores["recall_at_1"].tolist() == [1] * 6


def test_an_embedding_of_the_song_walks_into_the_distractor() -> None:
    found = style_metrics(vectors(0.1, 1.0), STYLES, SONGS, num_bootstrap=20)
    assert found.estimates["recall_at_1"].value == 0
    assert found.estimates["style_over_song_ratio"].value < 0.2
    assert [SONGS[i] for i in found.nearest_Q] == SONGS


def test_a_collapsed_embedding_finds_no_style() -> None:
    found = style_metrics(np.ones((6, 2)), STYLES, SONGS, num_bootstrap=20)
    assert found.estimates["recall_at_1"].value == 0
    assert all(STYLES[i] != style for i, style in zip(found.nearest_Q, STYLES, strict=True))


def test_scale_and_rotation_change_nothing() -> None:
    embedding_NE = np.random.default_rng(0).normal(size=(6, 5))
    turn_EE, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    for distance in ("direction", "rms"):
        first, second = (
            style_metrics(x, STYLES, SONGS, distance=distance, num_bootstrap=10)
            for x in (embedding_NE, 3 * embedding_NE @ turn_EE)
        )
        for name, estimate in first.estimates.items():
            assert second.estimates[name].value == pytest.approx(estimate.value), name


def test_a_mix_twice_in_one_style_is_neither_right_nor_wrong() -> None:
    task = style_task(["dry", "dry", "wet", "dry"], ["a", "a", "a", "b"])
    assert task.eligible_QP[0].tolist() == [False, False, True, True]
    assert task.relevant_QP[0].tolist() == [False, False, False, True]


def test_song_retrieval_by_hand() -> None:
    pool_PE = np.eye(3)
    query_QE = np.array([[1.0, 0.1, 0.0], [1.0, 0.9, 0.0]])
    found = song_metrics(query_QE, pool_PE, [0, 1], ["a", "b"], num_bootstrap=10)
    assert found.scores["rank"].tolist() == [1, 2]
    assert found.nearest_Q.tolist() == [0, 0]
    assert found.estimates["mean_rank"].value == 1.5
    assert found.chance["recall_at_1"] == pytest.approx(1 / 3)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="6 mixes, 5 styles"):
        style_metrics(vectors(1, 1), STYLES[:5], SONGS)
