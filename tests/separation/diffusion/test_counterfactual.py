"""Checks by what is otherwise: they find what they look for, and a tiny network keeps them."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.separation import Separator
from mixprint.separation.diffusion.counterfactual import (
    CHECKS,
    Excerpt,
    Findings,
    calibration,
    change_db,
    check_excerpt,
    check_separator,
    is_kept,
    level_db,
    read_excerpts,
    summary,
)
from mixprint.separation.nulltest import FLOOR_DB
from mixprint.stems import SAMPLE_RATE_HZ
from tests.separation.diffusion.trials import HOP, music, separator
from tests.separation.networks import ToyNetwork
from tests.separation.trials import make_songs

LENGTH = 45 * HOP + 50
EXCERPT = Excerpt("song", music(LENGTH), 2 * music(LENGTH, 1))


class Shares(ToyNetwork):
    """Gives each stem a share of the mixture, and to it what is called an offset."""

    def __init__(self, vocals: float, offset: float = 0.0) -> None:
        super().__init__()
        self.share_S = torch.tensor([vocals, *[(1 - vocals) / 3] * 3]).view(1, 4, 1, 1)
        self.offset = offset

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        return super().__call__(audio_BCT, starts_B) * self.share_S + self.offset


@pytest.fixture(scope="module")
def found() -> Findings:
    return check_excerpt(Separator(separator(steps=2)), EXCERPT, music(LENGTH, 2), num_samples=2)


def test_a_diffusion_separator_keeps_all_limits(found: Findings) -> None:
    assert found.keys() == CHECKS.keys()
    verdicts = {name: is_kept(name, value) for name, value in found.items()}
    limited = {name for name, check in CHECKS.items() if check.most_db is not None}
    assert {name for name, kept in verdicts.items() if kept} == limited
    assert found["same_seed"] == found["silence"] == FLOOR_DB
    assert found["other_seed"] > -100


def test_shares_of_the_mixture_have_values_that_are_known() -> None:
    quarter = check_excerpt(Separator(Shares(0.25)), EXCERPT, music(LENGTH, 2), num_samples=2)
    assert "same_seed" not in quarter
    assert "calibration" not in quarter
    assert quarter["no_vocals"] == pytest.approx(20 * math.log10(0.25), abs=1e-4)
    assert quarter["only_vocals"] == pytest.approx(20 * math.log10(0.75), abs=1e-4)
    # Other vocals as loud as these: three quarters of the difference stay in the instrumental.
    vocals_CT, others_CT = EXCERPT.vocals_CT, music(LENGTH, 2)
    others_CT = others_CT * vocals_CT.norm() / others_CT.norm()
    changed_db = level_db(0.75 * (others_CT - vocals_CT), EXCERPT.instrumental_CT)
    assert quarter["intervention"] == pytest.approx(changed_db, abs=1e-3)
    assert quarter["null"] < -120
    assert quarter["silence"] == FLOOR_DB


def test_what_is_wrong_is_found() -> None:
    offset = check_excerpt(Separator(Shares(0.25, 0.01)), EXCERPT, music(LENGTH, 2))
    assert offset["silence"] == pytest.approx(-40, abs=1e-3)
    for name in ("null", "gain", "silence"):
        assert is_kept(name, offset[name]) is False
    for name in ("batch", "cut"):
        assert is_kept(name, offset[name])


def test_where_nothing_sounds_a_check_says_nothing() -> None:
    tested = Separator(Shares(0.25))
    silent = Excerpt("no vocals", torch.zeros(2, LENGTH), music(LENGTH))
    found = check_excerpt(tested, silent, music(LENGTH, 2))
    assert "no_vocals" in found
    assert not {"only_vocals", "intervention"} & found.keys()
    assert "intervention" not in check_excerpt(tested, EXCERPT, torch.zeros(2, 5))


def test_levels() -> None:
    audio_CT = music(100)
    assert change_db(audio_CT, audio_CT) == FLOOR_DB
    assert change_db(1.1 * audio_CT, audio_CT) == pytest.approx(-20, abs=1e-4)
    assert level_db(audio_CT, torch.zeros(2, 100)) == -FLOOR_DB
    assert level_db(torch.zeros(2, 100), torch.zeros(2, 100)) == FLOOR_DB


@pytest.mark.parametrize(("deviation", "expected"), [(1.0, 1.0), (0.5, None), (2.0, None)])
def test_calibration_compares_variance_and_error(deviation: float, expected: float | None) -> None:
    drawn_KCT = torch.randn(5, 2, 50_000, generator=torch.Generator().manual_seed(1))
    truth_CT, samples_KCT = drawn_KCT[0], deviation * drawn_KCT[1:]
    if expected is None:
        # The error is that of the truth, 1, and of a mean of four.
        expected = deviation**2 * 1.25 / (1 + deviation**2 / 4)
    assert calibration(samples_KCT, truth_CT) == pytest.approx(expected, rel=0.03)


def test_summary_has_means_and_the_worst() -> None:
    rows = [{"null": -150.0, "calibration": 0.25}, {"null": -130.0, "calibration": 2.0}, {}]
    assert summary(rows) == {
        "null": {"mean": -140.0, "worst": -130.0},
        "calibration": pytest.approx({"mean": 0.5**0.5, "worst": 0.25}),
    }


def test_excerpts_are_the_middle_of_songs_and_sing_for_each_other(tmp_path: Path) -> None:
    make_songs(tmp_path, 2)
    excerpts = read_excerpts([tmp_path], 0.2, SAMPLE_RATE_HZ)
    assert [excerpt.name for excerpt in excerpts] == ["song0", "song1"]
    for excerpt in excerpts:
        assert excerpt.vocals_CT.shape == (2, 8820)
        # Stems of deviation .02 to .08 of which the vocals are the softest.
        assert excerpt.vocals_CT.std().item() == pytest.approx(0.02, rel=0.05)
        assert excerpt.instrumental_CT.std().item() == pytest.approx(0.02 * 29**0.5, rel=0.05)
    tested = Separator(Shares(0.25))
    pair, one = list(check_separator(tested, excerpts)), list(check_separator(tested, excerpts[:1]))
    known = check_excerpt(tested, excerpts[0], excerpts[1].vocals_CT)
    assert pair[0] == known
    assert one[0]["intervention"] != known["intervention"]
