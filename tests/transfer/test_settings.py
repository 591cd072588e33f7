import math

import pytest
import torch

from mixprint.audio.streamed_levels import MixLevels, stream_levels
from mixprint.errors import ConfigError
from mixprint.transfer.settings import (
    LOUDNESS_AT_PEAK_SHARE,
    Controls,
    listed,
    parse_amounts,
    parse_numbers,
)
from tests.transfer.trials import settings


@pytest.mark.parametrize(
    ("texts", "keep", "expected"),
    [
        ([], [], [1, 1, 1, 1]),
        (["0.5"], [], [0.5, 0.5, 0.5, 0.5]),
        (["drums=0.5"], [], [1, 1, 0.5, 1]),
        (["drums=0.5, 0.8"], [], [0.8, 0.8, 0.5, 0.8]),
        (["0.8", "drums=0.5", "bass=2"], ["vocals", "bass"], [0, 0, 0.5, 0.8]),
    ],
)
def test_amounts_as_a_person_writes_them(
    texts: list[str], keep: list[str], expected: list[float]
) -> None:
    controls = Controls(amount=parse_amounts(texts, keep))
    torch.testing.assert_close(controls.amounts, torch.tensor(expected, dtype=torch.float32))
    stems = ("vocals", "bass", "drums", "other")
    assert controls.kept == tuple(s for s, a in zip(stems, expected, strict=True) if a == 0)


@pytest.mark.parametrize(
    ("texts", "keep", "message"),
    [
        (["loud"], [], "loud"),
        (["drums=a lot"], [], "drums=a lot"),
        (["piano=1"], [], "piano"),
        (["-0.5"], [], "amount"),
        (["nan"], [], "amount"),
        ([], ["piano"], "piano"),
        (["inf"], [], "0 to 10"),
        (["1e30"], [], "0 to 10"),
        ([""], [], "expected a number"),
    ],
)
def test_amounts_that_make_no_sense(texts: list[str], keep: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_amounts(texts, keep)


@pytest.mark.parametrize(
    "texts",
    [
        ["1,5"],
        ["0,5"],
        ["0.5", "0.7"],
        ["drums=0,5"],
        ["drums=0,5,bass=1"],
        ["bass=1, drums=0,5"],
        ["0.5,drums=0,2"],
        ["drums=0.5", "drums=0.2"],
        ["drums=0.5,drums=0.5"],
    ],
)
def test_a_decimal_comma_and_two_amounts_for_one_thing_are_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"decimal point|one number for drums"):
        parse_amounts(texts)


@pytest.mark.parametrize("text", ["0,001", "1,05", "0.5,00.7"])
def test_a_decimal_comma_in_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--lr: expected a decimal point"):
        parse_numbers([text], "--lr")


@pytest.mark.parametrize("text", ["nan", "1,inf", "-inf", "", ",", "0.1,,0.2", "fast", "1e999"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--lr: expected"):
        parse_numbers([text], "--lr")


def test_numbers_and_names_as_a_person_writes_them() -> None:
    assert parse_numbers(["0.5, 1e-3", "2"], "--lr") == (0.5, 1e-3, 2.0)
    assert listed(["a, b", "a"], "--method") == ("a", "b")
    assert listed([], "--keep") == ()


@pytest.mark.parametrize("texts", [[""], [","], ["a,"], [" "]])
def test_empty_names_are_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="--method: expected names"):
        listed(texts, "--method")


def test_controls_are_checked() -> None:
    with pytest.raises(ConfigError, match="loudness"):
        Controls(loudness="loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="apply_to"):
        Controls(apply_to="album")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="amount"):
        Controls(amount={"vocals": 1.0})


def test_nothing_done_is_no_gain_and_silence_is_not_raised() -> None:
    source = MixLevels(loudness_lufs=-14.0, true_peak_dbtp=-2.0, peak_dbfs=-2.5)
    louder = MixLevels(loudness_lufs=-11.0, true_peak_dbtp=-1.5, peak_dbfs=-2.0)
    silent = stream_levels([torch.zeros(2, 44_100)])
    # With the input's peak it would be 2.5 LU louder than the input.
    style_db = -3.0 + LOUDNESS_AT_PEAK_SHARE * 2.5
    wanted = {"free": 0.0, "style": style_db, "keep": -3.0, "match": -0.5}
    for loudness, gain_db in wanted.items():
        controls = Controls(loudness=loudness)  # type: ignore[arg-type]
        found = controls.gains_db(source, louder, target_lufs=-11.5)
        assert found == pytest.approx((gain_db, 0.0))
        assert controls.gains_db(source, silent, target_lufs=-11.5) == (0, 0)
        if loudness != "match":
            assert controls.gains_db(source, source, target_lufs=-11.5) == (0, 0)


def test_a_true_peak_is_lowered_but_that_of_an_untouched_input() -> None:
    hot = MixLevels(loudness_lufs=-14.0, true_peak_dbtp=3.0, peak_dbfs=2.0)
    assert Controls(loudness="keep").gains_db(hot, hot, -14.0) == (0, pytest.approx(-4.0))
    quiet = Controls(loudness="match").gains_db(hot, hot, -20.0)
    assert quiet == (pytest.approx(-6.0), 0)
    untouched = Controls(amount=parse_amounts(["0"]), loudness="keep")
    assert untouched.gains_db(hot, hot, -14.0) == (0, 0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("segment_duration", [2.0, 0.0, -1.0, math.nan, math.inf, 1e308]),
        ("segment_offset", [-1.0, math.nan, math.inf]),
        ("segments", [0, -1, 10**9]),
        ("lr", [0.0, -0.1, math.nan, math.inf, 5.0]),
        ("receptive_field", [0.0, -1.0, math.nan, math.inf, 1e6]),
        ("num_steps", [-1, 10**12]),
        ("seed", [-1, 2**64]),
        ("method", ["magic", ""]),
        ("optimize_target", ["loudness", ""]),
        ("aim", ["high"]),
    ],
)
def test_hyperparameters_out_of_range_are_named(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=f"{name}: expected"):
            settings(**{name: value})
