"""Fundamentals of voices."""

import math

import pytest
import torch

from mixprint.dsp.pitch import fundamentals_hz

RATE_HZ = 8_000


@pytest.mark.parametrize("hz", [82.4, 220.0, 783.99])
def test_a_voice_of_many_harmonics_has_its_fundamental(hz: float) -> None:
    t_T = torch.arange(RATE_HZ // 2) / RATE_HZ
    # The second harmonic is the strongest, as formants make it.
    strengths = [0.5, 1.0, 0.7, 0.3]
    voice_T = sum(
        strength * torch.sin(2 * math.pi * number * hz * t_T + number)
        for number, strength in enumerate(strengths, start=1)
    )
    found_M = fundamentals_hz(torch.as_tensor(voice_T), RATE_HZ)
    assert len(found_M) >= 20
    assert found_M.tolist() == pytest.approx([hz] * len(found_M), rel=0.01)


def test_noise_silence_and_what_is_too_short_have_none() -> None:
    noise_T = torch.randn(RATE_HZ, generator=torch.Generator().manual_seed(0))
    assert len(fundamentals_hz(noise_T, RATE_HZ)) <= 2
    assert len(fundamentals_hz(torch.zeros(RATE_HZ), RATE_HZ)) == 0
    assert len(fundamentals_hz(torch.ones(100), RATE_HZ)) == 0
