"""The measure of Diff-MST, with its faults and without, on noise whose features are known."""

import math

import pytest
import torch
from torch import Tensor

from mixprint.evaluation.objective import TERMS, _triangles, corrected_terms, published_terms

RATE_HZ = 44_100


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, 2 * RATE_HZ, generator=generator)


def test_a_louder_mix_differs_by_its_level_alone() -> None:
    mix_CT = noise(0)
    for terms in (published_terms, corrected_terms):
        assert set(terms(mix_CT, mix_CT, RATE_HZ).values()) == {0.0}
    rms = float(mix_CT.square().mean().sqrt())
    published = published_terms(2 * mix_CT, mix_CT, RATE_HZ)
    assert published["rms"] == pytest.approx(0.1 * rms**2, rel=1e-3)
    assert published["bark"] == pytest.approx(0.1 * math.log(2) ** 2, rel=1e-3)
    corrected = corrected_terms(2 * mix_CT, mix_CT, RATE_HZ)
    assert corrected["rms"] == pytest.approx(6.02, abs=0.01)
    assert corrected["bark"] == pytest.approx(6.02, abs=0.01)
    for terms in (published, corrected):
        assert [terms[name] for name in ("crest", "width", "imbalance")] == pytest.approx(
            [0.0, 0.0, 0.0], abs=1e-3
        )


def test_a_mix_in_mono_costs_about_as_much_as_was_published() -> None:
    """Of equal loudness in mono the table says 33.3; white noise is brighter than songs."""
    mono_CT = noise(1)[:1].expand(2, -1)
    published = published_terms(mono_CT, noise(0), RATE_HZ)
    assert TERMS["bark"][1] * published["bark"] == pytest.approx(33.3, abs=5)
    # Corrected, a silent side lies at the floor, 60 dB below the middle.
    width_db = corrected_terms(mono_CT, noise(0), RATE_HZ)["width"]
    assert width_db == pytest.approx(60.0, abs=0.1)


def test_width_and_balance_are_told_in_db() -> None:
    mid_T, side_T = noise(0)
    mix_CT = torch.stack([mid_T + side_T, mid_T - side_T])
    narrow_CT = torch.stack([mid_T + 0.5 * side_T, mid_T - 0.5 * side_T])
    assert corrected_terms(narrow_CT, mix_CT, RATE_HZ)["width"] == pytest.approx(6.02, abs=0.01)
    left_CT = torch.tensor([[1.0], [0.5]]) * mix_CT
    assert corrected_terms(left_CT, mix_CT, RATE_HZ)["imbalance"] == pytest.approx(6.02, abs=0.05)


def test_bands_are_triangles_that_add_up() -> None:
    weight_F = _triangles(RATE_HZ).sum(dim=1)
    hz_F = torch.linspace(0, RATE_HZ // 2, len(weight_F))
    inside = weight_F[(hz_F > 200) & (hz_F < 15_000)]
    torch.testing.assert_close(inside, torch.ones_like(inside))
