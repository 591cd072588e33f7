import math

import numpy as np
import pytest
import torch

from mixprint.dsp.decibels import NEPER_PER_DB, amplitude, limited


def test_twenty_decibels_are_a_factor_of_ten() -> None:
    assert math.exp(NEPER_PER_DB * 20) == pytest.approx(10)
    assert amplitude(20.0) == 10
    assert amplitude(torch.tensor([-20.0, 40.0])).tolist() == pytest.approx([0.1, 100])
    assert amplitude(np.array([-20.0, 40.0])).tolist() == pytest.approx([0.1, 100])


def test_limits_are_approached_and_zero_keeps_its_slope() -> None:
    value = torch.tensor([-1e6, 0.0, 1e6], requires_grad=True)
    limited(value, 3.0).sum().backward()
    assert limited(value, 3.0).tolist() == [-3.0, 0.0, 3.0]
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, 1.0, 0.0]
