import math

import pytest
import torch

from mixprint.dsp.spectral_distance import multi_resolution_stft


def make_noise(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 2, 22_050, generator=generator)


def test_equal_audio_has_no_distance() -> None:
    x_SCT = make_noise()
    assert multi_resolution_stft(x_SCT, x_SCT).abs().max() < 1e-6
    silence_SCT = torch.zeros_like(x_SCT)
    assert multi_resolution_stft(silence_SCT, silence_SCT).abs().max() < 1e-6


@pytest.mark.parametrize("gain_db", [-6.0, 6.0])
def test_a_gain_counts_in_nepers_and_in_amplitude(gain_db: float) -> None:
    x_SCT = make_noise()
    gain = 10 ** (gain_db / 20)
    expected = abs(math.log(gain)) + abs(gain - 1)
    distance_S = multi_resolution_stft(gain * x_SCT, x_SCT)
    # Bins near the floor of -80 dB count a little less.
    torch.testing.assert_close(distance_S, torch.full((4,), expected), rtol=0.02, atol=0)


def test_width_and_exchanged_sides_are_seen() -> None:
    x_SCT = make_noise()
    middle_SCT = x_SCT.mean(dim=1, keepdim=True).expand(-1, 2, -1)
    assert (multi_resolution_stft(middle_SCT, x_SCT) > 1).all()
    left_SCT = x_SCT * torch.tensor([1.0, 0.5]).view(2, 1)
    assert (multi_resolution_stft(left_SCT.flip(1), left_SCT) > 0.3).all()


def test_gradient_is_finite_at_silence_and_at_equality() -> None:
    for x_SCT in (torch.zeros(1, 2, 9_000), make_noise()[:1, :, :9_000]):
        truth_SCT = x_SCT.clone()
        x_SCT.requires_grad_(True)
        multi_resolution_stft(x_SCT, truth_SCT).sum().backward()
        assert x_SCT.grad is not None
        assert x_SCT.grad.isfinite().all()


def test_shapes_are_checked() -> None:
    x_SCT = make_noise()
    with pytest.raises(ValueError, match="one shape"):
        multi_resolution_stft(x_SCT, x_SCT[..., 1:])
    with pytest.raises(ValueError, match="one shape"):
        multi_resolution_stft(x_SCT[:, :1], x_SCT[:, :1])
    with pytest.raises(ValueError, match="8192"):
        multi_resolution_stft(x_SCT[..., :100], x_SCT[..., :100])
