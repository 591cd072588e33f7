"""Measures of a separation: closed forms."""

import math

import pytest
import torch

from mixprint.separation.metrics import LIMIT_DB, mean_sdr, null_depth_db, utterance_sdr
from mixprint.stems import STEMS


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


def test_null_depth() -> None:
    stems_SCT = _noise(4, 2, 1000)
    mixture_CT = stems_SCT.sum(dim=0)
    assert null_depth_db(torch.zeros_like(stems_SCT), mixture_CT) == pytest.approx(0)
    assert null_depth_db(0.9 * stems_SCT, mixture_CT) == pytest.approx(-20, abs=1e-3)
    assert null_depth_db(torch.zeros(4, 2, 9), torch.zeros(2, 9)) == -LIMIT_DB
    assert null_depth_db(torch.ones(4, 2, 9), torch.zeros(2, 9)) == 0.0


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
