import pytest
import torch

from mixprint.cascade.masks import CHANCE_COMPLEMENTARITY, MaskMeasures


def test_halves_say_nothing() -> None:
    found = MaskMeasures.of(torch.full((2, 3, 4), 0.5))
    assert found.complementarity == CHANCE_COMPLEMENTARITY
    assert found.decisiveness == 0
    assert found.mean == 0.5


def test_a_hard_mask_overlaps_nowhere() -> None:
    mask_BDN = torch.zeros(2, 3, 4)
    mask_BDN[0, :, :3] = 1.0
    found = MaskMeasures.of(mask_BDN)
    assert (found.overlap, found.complementarity, found.decisiveness) == (0, 1, 1)
    assert (found.mean, found.least_mean, found.most_mean) == pytest.approx((0.375, 0, 0.75))
