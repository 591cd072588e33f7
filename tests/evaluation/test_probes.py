import numpy as np
import pytest

from mixprint.evaluation import class_probe, settings_probe
from mixprint.evaluation.probes import STRENGTHS, parts, predict_held_out

NUM_SONGS, NUM_STYLES = 12, 4
SONGS = [f"song{i}" for i in range(NUM_SONGS) for _ in range(NUM_STYLES)]
STYLES = [f"style{j}" for _ in range(NUM_SONGS) for j in range(NUM_STYLES)]
SONG_N = np.repeat(np.arange(NUM_SONGS), NUM_STYLES)
STYLE_N = np.tile(np.arange(NUM_STYLES), NUM_SONGS)
NAMES, FAMILIES = ("a.gain_db", "b.gain_db", "a.pan"), ("gain", "gain", "pan")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_ridge_agrees_with_its_primal_form() -> None:
    embedding_NE, target_NV = normal(len(SONG_N), 6) + 3, normal(len(SONG_N), 2, seed=1) - 5
    predicted_NV, mean_NV, strength_NV = predict_held_out(embedding_NE, target_NV, SONG_N)
    for held_out_N in parts(SONG_N):
        fitted_N = ~held_out_N
        assert not set(SONG_N[held_out_N]) & set(SONG_N[fitted_N])
        centre_E = embedding_NE[fitted_N].mean(axis=0)
        x_FE = embedding_NE[fitted_N] - centre_E
        mean_V = target_NV[fitted_N].mean(axis=0)
        np.testing.assert_allclose(mean_NV[held_out_N], np.tile(mean_V, (held_out_N.sum(), 1)))
        # The penalty counts in mean powers over the fitted mixes: the trace over their number.
        power = np.trace(x_FE @ x_FE.T) / len(x_FE)
        for value in range(2):
            strength = strength_NV[held_out_N, value][0]
            assert strength in STRENGTHS
            weight_E = np.linalg.solve(
                x_FE.T @ x_FE + strength * power * np.eye(6),
                x_FE.T @ (target_NV[fitted_N, value] - mean_V[value]),
            )
            expected = mean_V[value] + (embedding_NE[held_out_N] - centre_E) @ weight_E
            np.testing.assert_allclose(predicted_NV[held_out_N, value], expected)


def test_settings_that_the_embedding_holds_are_found() -> None:
    embedding_NE = normal(len(SONG_N), 8)
    settings_NV = embedding_NE @ normal(8, 3, seed=1) + 7
    found = settings_probe(embedding_NE, settings_NV, NAMES, FAMILIES, SONGS, num_bootstrap=50)
    assert found.mean_r2.value > 0.999
    assert set(found.by_setting) == set(NAMES)
    gains = [found.by_setting[name].value for name in NAMES[:2]]
    assert found.by_family["gain"].value == pytest.approx(np.mean(gains))
    assert found.mean_r2.low <= found.mean_r2.value <= found.mean_r2.high


def test_settings_that_it_does_not_hold_are_not_found() -> None:
    found = settings_probe(
        normal(len(SONG_N), 8),
        normal(len(SONG_N), 3, seed=2),
        NAMES,
        FAMILIES,
        SONGS,
        num_bootstrap=50,
    )
    assert found.mean_r2.value < 0.1


def test_knowing_the_song_does_not_help() -> None:
    """Settings that hang on the song alone cannot be known for a song that was not met."""
    settings_NV = normal(NUM_SONGS, 3)[SONG_N]
    found = settings_probe(
        np.eye(NUM_SONGS)[SONG_N], settings_NV, NAMES, FAMILIES, SONGS, num_bootstrap=50
    )
    assert found.mean_r2.value == pytest.approx(0, abs=1e-9)


def test_classes() -> None:
    style_N4, song_N12 = np.eye(NUM_STYLES)[STYLE_N], np.eye(NUM_SONGS)[SONG_N]
    both = np.concatenate((style_N4, song_N12), axis=1)
    style = class_probe(both, STYLES, SONGS, SONGS, num_bootstrap=20)
    song = class_probe(both, SONGS, STYLES, SONGS, num_bootstrap=20)
    assert style is not None
    assert song is not None
    assert (style.accuracy.value, song.accuracy.value) == (1, 1)
    assert (style.chance, song.chance) == pytest.approx((1 / NUM_STYLES, 1 / NUM_SONGS))
    assert song.num_mixes == len(SONGS)
    blind = class_probe(style_N4, SONGS, STYLES, SONGS, num_bootstrap=20)
    assert blind is not None
    assert blind.accuracy.value == pytest.approx(1 / NUM_SONGS)


def test_a_class_that_only_the_held_out_part_has_is_not_tested() -> None:
    songs = ["lonely", *SONGS[1:]]
    found = class_probe(np.eye(NUM_SONGS)[SONG_N], songs, STYLES, SONGS, num_bootstrap=5)
    assert found is not None
    assert found.num_mixes == len(SONGS) - 1


def test_too_few_groups() -> None:
    embedding_NE = normal(8, 3)
    assert class_probe(embedding_NE, ["a", "b"] * 4, ["x", "y"] * 4, ["s"] * 8) is None
    with pytest.raises(ValueError, match="2 groups"):
        predict_held_out(embedding_NE, normal(8, 1), np.array([0, 1] * 4))
