"""Recursive filters without a loop over samples."""

import numpy as np
import pytest
import torch
from scipy.signal import sosfilt

from mixprint.dsp import filter_designs as designs
from mixprint.dsp.equaliser import Sections, bell, shelf
from mixprint.dsp.filters import BLOCK_SAMPLES, filtered

RATE_HZ = 44_100


def one_by_one(audio_BCT: torch.Tensor, sections: Sections) -> np.ndarray:
    sos_BK6 = torch.cat([sections.b_BK3, sections.a_BK3], dim=-1).numpy()
    return np.stack(
        [sosfilt(sos, x.double().numpy()) for sos, x in zip(sos_BK6, audio_BCT, strict=True)]
    )


@pytest.mark.parametrize("num_samples", [1, BLOCK_SAMPLES, 3 * BLOCK_SAMPLES + 5, 20_000])
def test_it_is_the_recursion(num_samples: int) -> None:
    """Low and narrow, high, and of every order: in single precision, to its last digits."""
    corner_hz_B = torch.tensor([20.0, 700.0, 60_000.0])
    gain_db_B, q_B = torch.tensor([18.0, -18.0, 6.0]), torch.tensor([8.0, 0.4, 2.0])
    sections = Sections.joined(
        [
            designs.one_pole(corner_hz_B, RATE_HZ, high=True),
            bell(corner_hz_B, gain_db_B, q_B, RATE_HZ),
            shelf(corner_hz_B, gain_db_B, RATE_HZ, high=False),
            designs.tilt(corner_hz_B, gain_db_B, RATE_HZ),
            designs.linkwitz_riley(corner_hz_B * 4, RATE_HZ),
        ]
    )
    noise_BCT = torch.randn(3, 2, num_samples, generator=torch.Generator().manual_seed(0))
    expected = one_by_one(noise_BCT, sections)
    found = filtered(noise_BCT, sections)
    assert found.dtype == torch.float32
    scale = np.sqrt((expected**2).mean(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(found.numpy() / scale, expected / scale, atol=2e-5)
    exact = filtered(noise_BCT.double(), sections)
    np.testing.assert_allclose(exact.numpy() / scale, expected / scale, atol=1e-7)
