"""Curves and grids of distortion."""

import math

import torch

from mixprint.dsp import waveshaping


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, None]


def test_curves_at_points_that_one_knows() -> None:
    audio_NCT = levels(-3.0, -1.0, 0.0, 0.5, 1.0, 2.5)
    one_N = torch.ones(1)
    for found, expected in (
        (waveshaping.soft_clipped(audio_NCT), (-1.0, -1.0, 0.0, 0.6875, 1.0, 1.0)),
        (waveshaping.folded(audio_NCT), (1.0, -1.0, 0.0, 0.5, 1.0, -0.5)),
        (waveshaping.rectified(audio_NCT, one_N / 2), (0.0, 0.0, 0.0, 0.5, 1.0, 2.5)),
        (waveshaping.rectified(audio_NCT, one_N), (3.0, 1.0, 0.0, 0.5, 1.0, 2.5)),
        (waveshaping.rounded(audio_NCT, 2 * one_N), (-3.0, -1.0, 0.0, 0.5, 1.0, 2.5)),
        (waveshaping.rounded(audio_NCT, one_N), (-3.0, -1.0, 0.0, 0.0, 1.0, 2.0)),
    ):
        torch.testing.assert_close(found[0, 0], torch.tensor(expected))


def test_a_biased_curve_keeps_silence_and_the_slope_there() -> None:
    bias_N = torch.tensor([0.7])
    found_T = waveshaping.biased_tanh(levels(-1e-3, 0.0, 1e-3).double(), bias_N.double())[0, 0]
    assert found_T[1] == 0
    slope = (found_T[2] - found_T[0]) / 2e-3
    assert abs(slope - (1 - math.tanh(0.7) ** 2)) < 1e-5
    # Lopsided: what is up bends more than what is down.
    up, down = waveshaping.biased_tanh(levels(1.0, -1.0), bias_N)[0, 0].abs()
    assert up < 0.4 < 0.8 < down


def test_polynomials_turn_a_sine_into_its_harmonics() -> None:
    angle_T = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
    gains = [0.5, -0.25, 0.125]
    shaped_NCT = waveshaping.chebyshev_shaped(
        torch.cos(angle_T)[None, None], [torch.tensor([gain]).double() for gain in gains]
    )
    bin_F = torch.fft.rfft(shaped_NCT[0, 0]).real[1:6] / 32
    torch.testing.assert_close(bin_F, torch.tensor([1.0, *gains, 0.0]).double())
    assert not waveshaping.chebyshev_shaped(torch.zeros(1, 2, 8), [torch.ones(1)] * 4).any()


def test_a_lower_rate_holds_samples() -> None:
    ramp_NCT = torch.arange(10.0).expand(2, 1, -1)
    found_NCT = waveshaping.held(ramp_NCT, torch.tensor([1.0, 2.5]))
    assert found_NCT[0].equal(ramp_NCT[0])
    assert found_NCT[1, 0].tolist() == [0, 0, 0, 2, 2, 5, 5, 5, 8, 8]
