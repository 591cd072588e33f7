"""Measures of a separation: closed forms."""

import math
from pathlib import Path

import pytest
import torch

from mixprint.separation.metrics import (
    LIMIT_DB,
    framewise_sdr,
    mean_sdr,
    median_sdr,
    museval_sdr,
    score_separator,
    utterance_sdr,
)
from mixprint.stems import STEMS
from tests.separation.trials import make_songs


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_sdr_of_silence_is_zero_and_of_a_tenth_of_error_twenty() -> None:
    reference_CT = _noise(2, 1000)
    assert utterance_sdr(torch.zeros_like(reference_CT), reference_CT).item() == pytest.approx(0)
    assert utterance_sdr(1.1 * reference_CT, reference_CT).item() == pytest.approx(20, abs=1e-3)


def test_sdr_counts_both_channels_together() -> None:
    # One channel perfect, the other missing: half of the power is error.
    reference_CT = torch.ones(2, 100)
    estimate_CT = torch.stack([torch.ones(100), torch.zeros(100)])
    assert utterance_sdr(estimate_CT, reference_CT).item() == pytest.approx(10 * math.log10(2))


def test_sdr_is_the_same_for_any_gain_and_polarity() -> None:
    reference, estimate = _noise(3, 2, 500), _noise(3, 2, 500).roll(1, -1)
    expected = utterance_sdr(estimate, reference)
    torch.testing.assert_close(utterance_sdr(-3 * estimate, -3 * reference), expected)


def test_sdr_of_a_perfect_estimate_is_the_limit_and_of_a_silent_reference_not_a_number() -> None:
    signal_CT = _noise(2, 100)
    assert utterance_sdr(signal_CT, signal_CT).item() == LIMIT_DB
    assert math.isnan(utterance_sdr(signal_CT, torch.zeros_like(signal_CT)).item())
    assert math.isnan(utterance_sdr(torch.zeros(2, 9), torch.zeros(2, 9)).item())


def test_sdr_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        utterance_sdr(torch.zeros(1, 100), torch.zeros(2, 100))


def test_frames_are_measured_each_for_itself_and_the_rest_is_left_out() -> None:
    reference_SCT = torch.ones(2, 2, 350)
    estimate_SCT = reference_SCT.clone()
    # The error's amplitude is a tenth, then all, then the double of the signal's; then far more.
    for frame, error in enumerate((0.1, 1.0, 2.0)):
        estimate_SCT[..., 100 * frame : 100 * frame + 100] += error
    estimate_SCT[..., 300:] += 100
    expected_SN = torch.tensor([[20.0, 0.0, -20 * math.log10(2)]], dtype=torch.float64).expand(2, 3)
    torch.testing.assert_close(
        framewise_sdr(estimate_SCT, reference_SCT, 100), expected_SN, rtol=0, atol=1e-5
    )
    assert museval_sdr(estimate_SCT, reference_SCT, 100) == pytest.approx([0.0, 0.0], abs=1e-5)


def test_a_median_of_two_frames_lies_between_them() -> None:
    reference_SCT = torch.ones(1, 2, 200)
    estimate_SCT = reference_SCT.clone()
    estimate_SCT[..., :100] += 0.1
    estimate_SCT[..., 100:] += 1.0
    assert museval_sdr(estimate_SCT, reference_SCT, 100) == pytest.approx([10.0], abs=1e-5)


@pytest.mark.parametrize("silent", ["reference", "estimate"])
def test_a_frame_in_which_one_stem_is_silent_counts_for_none(silent: str) -> None:
    reference_SCT, estimate_SCT = torch.ones(2, 2, 200), torch.full((2, 2, 200), 1.1)
    {"reference": reference_SCT, "estimate": estimate_SCT}[silent][1, :, :100] = 0
    sdr_SN = framewise_sdr(estimate_SCT, reference_SCT, 100)
    assert sdr_SN.isnan().tolist() == [[True, False], [True, False]]
    assert museval_sdr(estimate_SCT, reference_SCT, 100) == pytest.approx([20.0, 20.0], abs=1e-4)


def test_short_audio_is_one_frame_and_silent_or_perfect_songs_have_no_value() -> None:
    reference_SCT = torch.ones(1, 2, 50)
    assert framewise_sdr(1.1 * reference_SCT, reference_SCT, 100).shape == (1, 1)
    assert math.isnan(museval_sdr(reference_SCT, reference_SCT, 100)[0])
    assert math.isnan(museval_sdr(reference_SCT, torch.zeros(1, 2, 50), 100)[0])


def test_mean_leaves_out_songs_in_which_a_stem_is_silent() -> None:
    first = dict(zip(STEMS, (1.0, 2.0, math.nan, math.nan), strict=True))
    second = dict(zip(STEMS, (3.0, math.nan, 6.0, math.nan), strict=True))
    assert mean_sdr([first, second]) == {
        "vocals": 2.0,
        "bass": 2.0,
        "drums": 6.0,
        "average": pytest.approx(10 / 3),
    }
    assert mean_sdr([]) == {}


def test_median_over_songs() -> None:
    songs = [
        dict(zip(STEMS, values, strict=True))
        for values in (
            (1.0, 2.0, math.nan, math.nan),
            (9.0, 4.0, 6.0, math.nan),
            (3.0, 9.0, math.nan, math.nan),
        )
    ]
    assert median_sdr(songs) == {
        "vocals": 3.0,
        "bass": 4.0,
        "drums": 6.0,
        "average": pytest.approx(13 / 3),
    }


class Quarter:
    """Gives each stem a quarter of the mixture."""

    sample_rate_hz = 44_100
    stems = STEMS

    def separate(self, audio_CT: torch.Tensor, **_: object) -> torch.Tensor:
        return (audio_CT / 4).expand(4, -1, -1)


def test_both_scores_of_songs(tmp_path: Path) -> None:
    make_songs(tmp_path, 3, duration_s=1.5)
    scores = score_separator(Quarter(), [tmp_path])
    # Stems of power 1, 4, 9 and 16 (of 30): the error of a quarter of their sum against the last
    # is 9/16 of it and 14/16 of the power of the others.
    expected = 10 * math.log10(16 / (9 / 16 * 16 + 14 / 16))
    assert set(scores) == {"utterance_sdr", "museval_sdr"}
    for by_stem in scores.values():
        assert by_stem["other"] == pytest.approx(expected, abs=0.1)
        assert by_stem["vocals"] < by_stem["average"] < by_stem["other"]
