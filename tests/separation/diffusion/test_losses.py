"""Losses: values that can be derived by hand, and gradients at the edges."""

import pytest
import torch
from torch import Tensor

from mixprint.separation.diffusion.losses import denoising_losses, means_by_time, sums_by_time
from mixprint.separation.diffusion.model import Denoised, Ingredients, denoised_examples
from tests.separation.diffusion.trials import denoiser, music

WEIGHTS = {"vocal_weight": 0.5, "linear_weight": 2.0}


def ingredients(x0: float, vocals: float, snr: list[float]) -> Ingredients:
    """Estimates that are off by so much, where the truth is nothing."""

    def constant(value: float) -> Tensor:
        return torch.full((len(snr), 2, 129, 4), value, dtype=torch.complex64)

    estimate = Denoised(constant(x0), constant(-vocals), constant(vocals))
    zero = constant(0.0)
    return Ingredients(zero, zero, estimate, zero, torch.tensor(snr, dtype=torch.float64))


def test_losses_of_known_errors() -> None:
    network = denoiser(level_dbfs=-20.0)
    parts = ingredients(0.2, 0.04, [3.0, 100.0, 0.2, 0.0])
    losses = denoising_losses(network, parts, **WEIGHTS)
    # Real and imaginary parts count apart: a real error has its square halved. Vocals are
    # compressed by a root.
    x0, vocals = 0.2 / 2**0.5, 0.04**0.5 / 2**0.5
    torch.testing.assert_close(losses.instrumental_B, torch.full((4,), x0))
    torch.testing.assert_close(losses.vocals_B, torch.full((4,), vocals))
    both = x0 + 0.5 * vocals
    linear = 2.0 * 10 * 0.04 / 2**0.5  # relative to a level of -20 dB
    expected = torch.tensor([3 * both, 5 * both, both, both + linear])
    torch.testing.assert_close(losses.total_B, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("snr", [0.0, 1.0])
def test_the_truth_has_no_loss_and_a_finite_gradient(snr: float) -> None:
    parts = ingredients(0.0, 0.0, [snr])
    for spectrum in parts.estimate:
        spectrum.requires_grad_()
    losses = denoising_losses(denoiser(), parts, **WEIGHTS)
    assert losses.total_B.item() < 5e-3
    losses.total_B.sum().backward()
    for spectrum in parts.estimate[::2]:
        assert not spectrum.grad.abs().any()


@pytest.mark.parametrize("silent", ["vocals", "instrumental", "both"])
def test_silence_has_a_finite_gradient(silent: str) -> None:
    network = denoiser()
    vocals, instrumental = (network.analyse(music(2560, num)[None]) for num in (1, 2))
    if silent != "instrumental":
        vocals = torch.zeros_like(vocals)
    if silent != "vocals":
        instrumental = torch.zeros_like(instrumental)
    times = torch.tensor([1.0], dtype=torch.float64)
    noise = torch.randn(instrumental.shape, dtype=torch.complex64)
    parts = denoised_examples(network, vocals + instrumental, instrumental, times, noise)
    loss = denoising_losses(network, parts, **WEIGHTS).total_B.sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # A mask cannot err on silence: there nothing is learned.
    assert any(gradient.any() for gradient in gradients) == (silent != "both")


def test_losses_by_time() -> None:
    times = torch.tensor([0.01, 0.25, 0.26, 0.9, 1.0], dtype=torch.float64)
    sums = sums_by_time(times, torch.tensor([1.0, 3.0, 5.0, 7.0, 8.0]))
    assert means_by_time(sums) == {"t25": 2.0, "t50": 5.0, "t100": 7.5}
