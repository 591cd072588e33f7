import math

import pytest
import torch

from mixprint.dsp.dynamics import compressor_gain_db


def test_the_compressor_has_attack_release_and_ratio_by_hand() -> None:
    block_s = 0.001
    level = torch.full((1, 1, 2_000), -60.0)
    level[..., 500:1_000] = -10.0
    gain = compressor_gain_db(
        level,
        torch.tensor([[-30.0]]),
        torch.tensor([[4.0]]),
        torch.tensor([[10.0]]),
        torch.tensor([[200.0]]),
        block_s,
    )[0, 0]
    full = -20 * (1 - 1 / 4)
    assert gain[:500].abs().max() < 1e-4
    # One-pole: after n blocks of 1 ms with 10 ms, 1 - exp(-n / 10) of the way.
    for n in (1, 10, 30):
        assert gain[499 + n].item() == pytest.approx(full * (1 - math.exp(-n / 10)), abs=1e-3)
    assert gain[999].item() == pytest.approx(full, abs=1e-3)
    # The release is a straight 10 dB in 200 ms, seen through the attack's lag of 10 ms.
    assert (gain[1_250] - gain[1_150]).item() == pytest.approx(5.0, abs=1e-2)
    # A slower release holds longer.
    assert gain[1_400].item() == pytest.approx(0.0, abs=1e-2)
