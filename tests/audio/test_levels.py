import pytest
import torch

from mixprint.audio.levels import true_peak_dbtp


def test_true_peak_lies_between_samples() -> None:
    # At a quarter of the rate, sampled at 45 degrees, a sine's peaks lie 3 dB above its samples.
    time_T = torch.arange(600_000, dtype=torch.float64)
    audio_CT = torch.sin(torch.pi / 2 * time_T + torch.pi / 4).float().expand(2, -1)
    # Faded, for a sine that begins suddenly overshoots.
    audio_CT = audio_CT * torch.hann_window(600_000, periodic=False)
    assert float(audio_CT.abs().max()) == pytest.approx(0.7071, abs=1e-3)
    assert true_peak_dbtp(audio_CT) == pytest.approx(0.0, abs=0.01)
    assert true_peak_dbtp(0.1 * audio_CT) == pytest.approx(-20.0, abs=0.01)


def test_true_peak_of_one_sample_and_of_silence() -> None:
    click_CT = torch.zeros(2, 1000)
    click_CT[1, 300] = 0.5
    assert true_peak_dbtp(click_CT) == pytest.approx(-6.0206, abs=1e-3)
    # Full scale up and down with every sample: half the rate, at its highest in the samples.
    fastest_CT = torch.tensor([1.0, -1.0]).repeat(2, 50_000) * torch.hann_window(100_000)
    assert true_peak_dbtp(fastest_CT) == pytest.approx(0.0, abs=0.01)
    assert true_peak_dbtp(torch.zeros(2, 1000)) == pytest.approx(-200.0)
