import pytest
import torch
from torch import Tensor

from mixprint.dsp.harmonic import harmonic_and_percussive

RATE_HZ = 24_000
NUM_SAMPLES = 2 * RATE_HZ


def tone() -> Tensor:
    return 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(NUM_SAMPLES) / RATE_HZ)


def clicks() -> Tensor:
    audio_T = torch.zeros(NUM_SAMPLES)
    audio_T[1_200 :: RATE_HZ // 4] = 1.0
    return audio_T


def power_db(rest: Tensor, of: Tensor) -> float:
    return float(10 * torch.log10(rest.square().sum() / of.square().sum()))


def test_what_is_held_and_what_is_struck_come_apart() -> None:
    harmonic_ST, percussive_ST = harmonic_and_percussive((tone() + clicks())[None], RATE_HZ)
    assert power_db(harmonic_ST[0] - tone(), tone()) < -15
    assert power_db(percussive_ST[0] - clicks(), clicks()) < -10


def test_the_parts_add_up() -> None:
    audio_ST = torch.randn(3, NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    harmonic_ST, percussive_ST = harmonic_and_percussive(audio_ST, RATE_HZ)
    torch.testing.assert_close(harmonic_ST + percussive_ST, audio_ST)


def test_silence_stays_silent() -> None:
    for part_ST in harmonic_and_percussive(torch.zeros(1, NUM_SAMPLES), RATE_HZ):
        assert not part_ST.any()


def test_what_is_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1028 samples, got 1000"):
        harmonic_and_percussive(torch.zeros(1, 1_000), RATE_HZ)
