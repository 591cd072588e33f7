"""Delays put impulses where they belong."""

import math

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from mixprint.dsp.delays import (
    delayed,
    read_back,
    repeated,
    repeated_through_filter,
    reversed_pieces,
)

RATE_HZ = 44_100


def impulses(num_samples: int = 100, *, at: int = 3) -> Tensor:
    audio_NCT = torch.zeros(2, 2, num_samples)
    audio_NCT[:, 0, at], audio_NCT[:, 1, at] = 1.0, -0.5
    return audio_NCT


def where(audio_T: Tensor) -> dict[int, float]:
    return {int(t): float(audio_T[t]) for t in audio_T.nonzero()[:, 0]}


def test_delayed() -> None:
    result_NCT = delayed(impulses(), torch.tensor([0.0, 40.0]))
    assert where(result_NCT[0, 1]) == {3: -0.5}
    assert where(result_NCT[1, 0]) == {43: 1.0}
    assert not delayed(impulses(), torch.tensor([97.0, 1_000.0])).any()


def test_repeats_fall_by_the_feedback() -> None:
    result_NCT = repeated(impulses(), torch.tensor([30.0, 11.0]), torch.tensor([0.5, -0.8]))
    assert where(result_NCT[0, 0]) == {3: 1.0, 33: 0.5, 63: 0.25, 93: 0.125}
    assert where(result_NCT[1, 1]) == pytest.approx(
        {3 + 11 * k: -0.5 * (-0.8) ** k for k in range(9)}
    )


def test_filtered_repeats_are_those_of_the_loop() -> None:
    delay, feedback, num_samples = 400, 0.8, 3_000
    low, high = (math.exp(-2 * math.pi * hz / RATE_HZ) for hz in (200.0, 3_000.0))
    audio_NCT = impulses(num_samples)
    pass_T, expected_T = audio_NCT[0, 0].double().numpy(), torch.zeros(num_samples).double()
    for k in range(num_samples // delay):
        # High-pass and low-pass of first order, one behind the other.
        pass_T = lfilter([(1 + low) / 2, -(1 + low) / 2], [1, -low], pass_T)
        pass_T = lfilter([1 - high], [1, -high], pass_T)
        pass_T = torch.nn.functional.pad(torch.from_numpy(pass_T), (delay, -delay)).numpy()
        expected_T += feedback**k * torch.from_numpy(pass_T)
    result_NCT = repeated_through_filter(
        audio_NCT,
        torch.full((2,), float(delay)),
        torch.full((2,), feedback),
        torch.full((2,), 200.0),
        torch.full((2,), 3_000.0),
        RATE_HZ,
    )
    torch.testing.assert_close(result_NCT[1, 0].double(), expected_T, rtol=0, atol=2e-5)


def test_a_delay_that_moves_reads_between_samples() -> None:
    ramp_NCT = torch.arange(1.0, 101.0).expand(1, 2, -1)
    delay_T = 3.0 + 2.5 * torch.sin(torch.arange(100.0))
    result_NCT = read_back(ramp_NCT, delay_T[None, None] / 2, lambda x: 2 * x, longest=6)
    # A ramp is read exactly; before it there is silence.
    expected_T = (torch.arange(1.0, 101.0) - delay_T).clamp_min(0)
    torch.testing.assert_close(result_NCT[0, 1, 6:], expected_T[6:], rtol=0, atol=1e-4)
    zero_NCT = torch.zeros(1, 2, 100)
    assert read_back(ramp_NCT, zero_NCT, torch.abs, longest=0).equal(ramp_NCT)


def test_pieces_are_reversed_when_they_have_passed() -> None:
    audio_NCT = torch.ones(1, 1, 25)
    audio_NCT[0, 0, 3] = 3.0
    result_T = reversed_pieces(audio_NCT, torch.tensor([8.0]))[0, 0]
    window_T = torch.hann_window(8)
    expected_T = torch.cat([torch.zeros(8), window_T, window_T, window_T[:1]])
    expected_T[8 + 4] *= 3
    torch.testing.assert_close(result_T, expected_T)
