"""Losses: values that can be derived by hand, and gradients at the edges."""

import pytest
import torch
from torch import Tensor

from mixprint.separation.diffusion.losses import denoising_losses, means_by_time, sums_by_time
from mixprint.separation.diffusion.model import (
    Denoised,
    Ingredients,
    Masked,
    denoised_examples,
)
from mixprint.separation.diffusion.training_settings import LossWeights
from tests.separation.diffusion.trials import denoiser, music

WEIGHTS = LossWeights(vocal=0.5, linear=2.0, variance=0.0, presence=0.0)


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
    losses = denoising_losses(network, parts, WEIGHTS)
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
    for spectrum in parts.estimate[:3]:
        spectrum.requires_grad_()
    losses = denoising_losses(denoiser(), parts, WEIGHTS)
    assert losses.total_B.item() < 5e-3
    losses.total_B.sum().backward()
    for spectrum in parts.estimate[:3:2]:
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
    loss = denoising_losses(network, parts, WEIGHTS).total_B.sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # A mask cannot err on silence: there nothing is learned.
    assert any(gradient.any() for gradient in gradients) == (silent != "both")


def test_variances_of_errors_are_learned_by_their_likelihood_alone() -> None:
    torch.manual_seed(0)
    error = 0.1 * torch.randn(1, 2, 129, 400, dtype=torch.complex64)  # 0.005 in each part
    error.requires_grad_()
    zero = torch.zeros_like(error)
    log_variance = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([log_variance], lr=0.3)
    for _ in range(100):
        optimiser.zero_grad()
        masked = Masked(error, log_variance.expand(error.shape), torch.zeros(1, 400))
        estimate = Denoised(zero, zero, zero, masked)
        parts = Ingredients(zero, zero, estimate, zero, torch.tensor([1.0]))
        losses = denoising_losses(denoiser(), parts, WEIGHTS._replace(variance=2.0))
        losses.total_B.sum().backward()
        optimiser.step()
    assert error.grad is None
    assert log_variance.exp().item() == pytest.approx(0.005, rel=0.05)
    others_B = losses.instrumental_B + 0.5 * losses.vocals_B
    torch.testing.assert_close(losses.total_B, 2.0 * losses.variance_B + others_B)


def test_which_frames_have_vocals_is_learned_by_its_likelihood_alone() -> None:
    logit_BN = torch.tensor([[2.0, -3.0, 0.0, 1.0]], requires_grad=True)
    there_N = torch.tensor([1.0, 1.0, 0.0, 0.0])
    # Beside a mixture of power 1 in each number: -30 dB, -40 dB, -50 dB, nothing.
    level_N = torch.tensor([10**-1.5, 1e-2, 10**-2.5, 0.0])
    vocals = level_N.expand(1, 2, 129, 4).to(torch.complex64)
    mixture = torch.ones_like(vocals)
    estimate = Denoised(mixture, 0.5 * mixture, 0.5 * mixture)
    estimate = estimate._replace(masked=Masked(mixture, torch.zeros(1, 2, 129, 4), logit_BN))
    parts = Ingredients(mixture, mixture, estimate, vocals, torch.tensor([1.0]))
    losses = denoising_losses(denoiser(), parts, WEIGHTS._replace(presence=2.0))
    chance_N = logit_BN[0].sigmoid()
    expected = -(there_N * chance_N + (1 - there_N) * (1 - chance_N)).log().mean()
    torch.testing.assert_close(losses.presence_B, expected[None])
    (grad_BN,) = torch.autograd.grad(losses.total_B.sum(), logit_BN)
    torch.testing.assert_close(grad_BN[0], 2.0 * (chance_N - there_N) / 4)


def test_losses_by_time() -> None:
    times = torch.tensor([0.01, 0.25, 0.26, 0.9, 1.0], dtype=torch.float64)
    sums = sums_by_time(times, torch.tensor([1.0, 3.0, 5.0, 7.0, 8.0]))
    assert means_by_time(sums) == {"t25": 2.0, "t50": 5.0, "t100": 7.5}
