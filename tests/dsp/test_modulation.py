"""Oscillators, filters that move, and the two phases of a sound."""

import math

import torch

from mixprint.dsp import filter_designs as designs
from mixprint.dsp.equaliser import Sections
from mixprint.dsp.filters import filtered
from mixprint.dsp.modulation import (
    HOP_SAMPLES,
    frame_centres,
    frame_levels,
    moving_filter,
    quadrature,
    sine,
    turns,
)

RATE_HZ = 44_100


def test_an_oscillator_stays_in_phase_for_minutes() -> None:
    num_samples = 60 * RATE_HZ
    turn_NT = turns(torch.tensor([0.3, 997.0]), num_samples, RATE_HZ)
    for t in (0, 1, 511, 512, 100_001, num_samples - 1):
        for row, rate_hz in enumerate((0.3, 997.0)):
            expected = math.sin(2 * math.pi * math.fmod(rate_hz * t / RATE_HZ + 0.25, 1))
            assert abs(sine(turn_NT[row, t], 0.25).item() - expected) < 2e-4


def test_a_filter_that_does_not_move_is_the_filter() -> None:
    noise_NCT = torch.randn(2, 2, 9_000, generator=torch.Generator().manual_seed(0))

    def design(corner_hz: torch.Tensor) -> Sections:
        return designs.resonant(corner_hz, 2.0, RATE_HZ)

    corner_hz_N = torch.tensor([500.0, 3_000.0])
    num_frames = len(frame_centres(9_000, noise_NCT.device))
    found = moving_filter(noise_NCT, design, corner_hz_N[:, None].expand(-1, num_frames))
    torch.testing.assert_close(found, filtered(noise_NCT, design(corner_hz_N)), rtol=0, atol=1e-5)


def test_a_filter_moves_when_it_should() -> None:
    """A tone is stopped as long as the corner is below it."""
    time_T = torch.arange(8 * HOP_SAMPLES) / RATE_HZ
    tone_NCT = torch.sin(2 * math.pi * 2_000 * time_T).expand(1, 2, -1)
    centre_J = frame_centres(tone_NCT.shape[-1], tone_NCT.device)
    corner_NJ = torch.where(centre_J < 4 * HOP_SAMPLES, 100.0, 18_000.0)[None]
    result_NCT = moving_filter(tone_NCT, lambda hz: designs.butterworth(hz, 4, RATE_HZ), corner_NJ)
    assert result_NCT[..., HOP_SAMPLES : 3 * HOP_SAMPLES].abs().amax() < 1e-3
    last = slice(6 * HOP_SAMPLES, 7 * HOP_SAMPLES)
    torch.testing.assert_close(
        result_NCT[..., last].square().mean(), torch.tensor(0.5), rtol=0.01, atol=0
    )


def test_levels_are_those_before_the_middle_of_a_frame() -> None:
    audio_NCT = torch.zeros(1, 2, 3 * HOP_SAMPLES + 10)
    audio_NCT[..., HOP_SAMPLES : 2 * HOP_SAMPLES] = 0.5
    torch.testing.assert_close(frame_levels(audio_NCT), torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0]]))


def test_two_phases_of_a_tone_have_its_level_together() -> None:
    time_T = torch.arange(RATE_HZ) / RATE_HZ
    for frequency_hz in (100.0, 1_000.0, 15_000.0):
        tone_NCT = torch.sin(2 * math.pi * frequency_hz * time_T).expand(1, 2, -1)
        cosine_NCT, sine_NCT = (part[..., RATE_HZ // 2 :] for part in quadrature(tone_NCT))
        envelope_NCT = cosine_NCT.square() + sine_NCT.square()
        torch.testing.assert_close(envelope_NCT, torch.ones_like(envelope_NCT), rtol=0, atol=0.025)
