import math

import numpy as np
import pytest

from mixprint.evaluation.retrieval import (
    Estimate,
    Task,
    average_precisions,
    bootstrap,
    bootstrap_mean,
    bootstrap_r2,
    bootstrap_ratio,
    chance,
    direction_distance,
    first_ranks,
    nearest,
    query_scores,
    ranked_relevance,
    rms_distance,
    style_contrast,
    style_over_song_ratio,
    summarise,
)


def one_query(relevant: list[int], num_items: int) -> Task:
    relevant_QP = np.zeros((1, num_items), dtype=bool)
    relevant_QP[0, relevant] = True
    return Task(relevant_QP, np.ones_like(relevant_QP), np.zeros(1, dtype=np.int64))


def measure(
    distance_QP: np.ndarray, task: Task, *, num_bootstrap: int, seed: int
) -> dict[str, Estimate]:
    scores = query_scores(distance_QP, task)
    return summarise(scores, task.song_Q[task.answerable], num_bootstrap=num_bootstrap, seed=seed)


def test_distances() -> None:
    a = np.array([[1.0, 0.0], [0.0, 0.0]])
    b = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    # Chords of the unit circle over 0, 90 and 180 degrees.
    np.testing.assert_allclose(direction_distance(a, b), [[0, math.sqrt(2), 2], [1, 1, 1]])
    np.testing.assert_allclose(
        rms_distance(a, b) * math.sqrt(2), [[1, math.sqrt(10), 2], [2, 3, 1]]
    )


def test_ranks_and_precision_by_hand() -> None:
    # Order by distance: items 3, 0, 2, 1; relevant are 0 and 1, at the ranks 2 and 4.
    task = one_query([0, 1], 4)
    ranked = ranked_relevance(np.array([[0.2, 0.9, 0.5, 0.1]]), task)
    assert ranked[0].tolist() == [False, True, False, True]
    assert first_ranks(ranked).tolist() == [2]
    assert average_precisions(ranked)[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precisions(ranked, depth=3)[0] == pytest.approx((1 / 2) / 2)
    assert average_precisions(ranked, depth=None)[0] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_items_that_are_not_eligible_do_not_count() -> None:
    task = Task(
        np.array([[False, True, False]]), np.array([[False, True, True]]), np.zeros(1, np.int64)
    )
    ranked = ranked_relevance(np.array([[0.0, 0.5, 0.9]]), task)
    assert ranked[0].tolist() == [True, False]


def test_a_collapsed_embedding_gains_nothing() -> None:
    task = one_query([2], 5)
    assert first_ranks(ranked_relevance(np.zeros((1, 5)), task)).tolist() == [5]


def test_of_items_at_one_distance_a_wrong_one_is_found_first() -> None:
    task = Task(
        np.array([[True, True, False], [False, True, False]]),
        np.array([[True, True, True], [False, True, True]]),
        np.arange(2),
    )
    assert nearest(np.zeros((2, 3)), task).tolist() == [2, 2]
    assert nearest(np.array([[0.2, 0.1, 0.2], [0.0, 0.1, 0.1]]), task).tolist() == [1, 2]


def test_queries_without_right_or_wrong_answers_are_left_out() -> None:
    task = Task(
        np.array([[True, False], [False, False], [True, True]]),
        np.ones((3, 2), dtype=bool),
        np.arange(3),
    )
    assert task.answerable.tolist() == [True, False, False]
    result = measure(np.zeros((3, 2)), task, num_bootstrap=0, seed=0)
    assert result["recall_at_1"] == Estimate(0, 0, 0)


def test_perfect_retrieval() -> None:
    task = Task(np.eye(12, dtype=bool), np.ones((12, 12), dtype=bool), np.arange(12))
    result = measure(1 - np.eye(12), task, num_bootstrap=50, seed=1)
    for name in ("recall_at_1", "recall_at_5", "recall_at_10", "mean_rank", "map_at_10", "map"):
        assert result[name] == Estimate(1, 1, 1)


def test_chance_of_one_among_twelve_by_hand() -> None:
    task = Task(np.eye(12, dtype=bool), np.ones((12, 12), dtype=bool), np.arange(12))
    expected = {
        "recall_at_1": 1 / 12,
        "recall_at_5": 5 / 12,
        "recall_at_10": 10 / 12,
        "mean_rank": 6.5,
        "median_rank": 6,
        "map_at_10": sum(1 / i for i in range(1, 11)) / 12,
        "map": sum(1 / i for i in range(1, 13)) / 12,
    }
    assert chance(task) == pytest.approx(expected)


def test_chance_is_the_mean_over_random_orders() -> None:
    task = one_query([0, 3, 4], 14)
    generator = np.random.default_rng(3)
    runs = [measure(generator.random((1, 14)), task, num_bootstrap=0, seed=0) for _ in range(4000)]
    exact = chance(task)
    for name in ("recall_at_1", "recall_at_5", "mean_rank", "map_at_10", "map"):
        mean = np.mean([run[name].value for run in runs])
        assert mean == pytest.approx(exact[name], rel=0.06), name


def test_style_contrast_by_hand() -> None:
    # Items: song 0 in styles 0 and 1, song 1 in styles 0 and 1.
    song_N, style_N = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    distance_NN = np.array(
        [[0, 4, 1, 9], [4, 0, 9, 2], [1, 9, 0, 6], [9, 2, 6, 0]], dtype=np.float64
    )
    contrast = style_contrast(distance_NN, song_N, style_N)
    assert contrast.same_style_Q.tolist() == [1, 2, 1, 2]
    assert contrast.same_song_Q.tolist() == [4, 4, 6, 6]
    ratio = style_over_song_ratio(contrast, num_bootstrap=200, seed=1)
    assert ratio is not None
    assert ratio.value == pytest.approx(20 / 6)
    # Two songs: a resample holds the first twice, the second twice, or both.
    assert ratio.low == pytest.approx(8 / 3)
    assert ratio.high == pytest.approx(12 / 3)


def test_no_ratio_without_pairs_of_both_kinds() -> None:
    contrast = style_contrast(np.zeros((2, 2)), np.array([0, 1]), np.array([0, 1]))
    assert style_over_song_ratio(contrast, num_bootstrap=10, seed=0) is None


def test_the_bootstrap_resamples_songs_and_repeats_itself() -> None:
    # Within a song all queries agree, so with two songs only three means are possible.
    values_QV = np.array([[1.0]] * 5 + [[0.0]] * 5)
    song_Q = np.array([7] * 5 + [3] * 5)

    def mean(values: np.ndarray) -> float:
        return float(values.mean())

    estimate = bootstrap(values_QV, song_Q, mean, 500, 1)
    assert estimate == Estimate(0.5, 0, 1)
    assert bootstrap(values_QV, song_Q, mean, 500, 1) == estimate


def test_sums_are_resampled_like_any_statistic() -> None:
    generator = np.random.default_rng(5)
    values_Q2 = generator.random((12, 2))
    song_Q = np.repeat([4, 2, 9], [3, 4, 5])

    def ratio(rows: np.ndarray) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    slow = bootstrap(values_Q2, song_Q, ratio, 300, 2)
    fast = bootstrap_ratio(values_Q2[:, 0], values_Q2[:, 1], song_Q, 300, 2)
    for name in ("value", "low", "high"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name))
    mean = bootstrap_mean(values_Q2[:, 0], song_Q, 300, 2)
    assert mean.value == pytest.approx(values_Q2[:, 0].mean())


def test_r2_of_songs_in_which_nothing_varies() -> None:
    # The first two songs are as the mean predicts.
    spread_Q1 = np.array([[0.0], [1e-20], [3.0]])
    r2_V, r2_RV = bootstrap_r2(np.array([[1.0], [1.0], [1.0]]), spread_Q1, np.arange(3), 200, 1)
    assert r2_V == pytest.approx([0.0])
    # The last song is drawn 0 to 3 times among three, each of which costs an error of 1.
    np.testing.assert_allclose(np.unique(r2_RV.round(9)), [0, 0.5, 2 / 3], atol=1e-8)
    assert (r2_RV == 0).any()


def test_interval_width_falls_with_the_root_of_the_number_of_songs() -> None:
    def width(num_songs: int) -> float:
        values = np.tile([[0.0], [1.0]], (num_songs // 2, 1))
        estimate = bootstrap(values, np.arange(num_songs), lambda v: float(v.mean()), 2000, 2)
        return estimate.high - estimate.low

    # 2 x 1.96 x sqrt(0.25 / n)
    assert width(100) == pytest.approx(0.196, rel=0.1)
    assert width(400) == pytest.approx(0.098, rel=0.1)


def test_wrong_shapes_and_unanswerable_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        measure(np.zeros((1, 3)), one_query([0], 4), num_bootstrap=0, seed=0)
    with pytest.raises(ValueError, match="at least one query"):
        measure(np.zeros((1, 4)), one_query([], 4), num_bootstrap=0, seed=0)
