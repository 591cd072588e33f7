"""Schedules and samplers against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.sampler import sample
from mixprint.separation.diffusion.schedule import Noise, Schedule

STEPS = (8, 20, 50)
# Deviation of samples over that of the data, for data of deviation s: shared/specs, A2.4.
DEVIATIONS = {
    (1.0, "ddim", 0.0): (0.857, 0.941, 0.977),
    (1.0, "ddim", 0.4): (0.850, 0.934, 0.972),
    (1.0, "ddpm", 0.0): (0.791, 0.899, 0.956),
    (1.0, "dpm", 0.0): (0.962, 0.999, 1.001),
    (0.5, "ddim", 0.0): (0.824, 0.927, 0.971),
    (0.5, "ddim", 0.4): (0.813, 0.917, 0.966),
    (0.5, "ddpm", 0.0): (0.742, 0.864, 0.935),
    (0.5, "dpm", 0.0): (0.924, 1.005, 1.005),
    (0.1, "ddim", 0.0): (0.435, 0.724, 0.883),
    (0.1, "ddim", 0.4): (0.432, 0.716, 0.872),
    (0.1, "ddpm", 0.0): (0.421, 0.661, 0.803),
    (0.1, "dpm", 0.0): (0.444, 0.777, 0.972),
}


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_ends_are_exact_and_the_rest_falls(kind: str) -> None:
    schedule = Schedule(kind)
    assert schedule.noise_at(0.0) == Noise(1.0, 0.0)
    assert schedule.noise_at(1.0) == Noise(0.0, 1.0)
    assert schedule.noise_at(0.0).half_log_snr == math.inf
    assert schedule.noise_at(1.0).half_log_snr == -math.inf
    time_B = torch.linspace(0, 1, 101)
    alpha_B, sigma_B = schedule.coefficients(time_B)
    assert alpha_B.dtype == torch.float64
    torch.testing.assert_close(alpha_B**2 + sigma_B**2, torch.ones(101, dtype=torch.float64))
    assert (alpha_B.diff() < 0).all()


def test_cosine_is_a_quarter_of_a_circle() -> None:
    noise = Schedule("cosine").noise_at(1 / 3)
    assert noise == pytest.approx((math.sqrt(3) / 2, 0.5))
    assert noise.half_log_snr == pytest.approx(math.log(3) / 2)


def test_linear_are_the_original_betas_but_for_the_rescaling() -> None:
    betas = torch.linspace(1e-4, 2e-2, 200, dtype=torch.float64)
    original = torch.cumprod((1 - betas).sqrt(), dim=0)
    expected = (original - original[-1]) / (1 - original[-1])
    alpha, _ = Schedule("linear").coefficients(torch.arange(1, 201) / 200)
    # The steps of the original, of 2 % at most, against continuous time.
    torch.testing.assert_close(alpha, expected, rtol=0, atol=0.01)


def test_signal_error_and_velocity_follow_from_each_other() -> None:
    alpha, sigma = Schedule("cosine").noise_at(0.3)
    x0, error = torch.randn(2, 100, dtype=torch.float64)
    z, v = alpha * x0 + sigma * error, alpha * error - sigma * x0
    torch.testing.assert_close(alpha * z - sigma * v, x0)
    torch.testing.assert_close(sigma * z + alpha * v, error)


def test_the_grid_trails_and_respects_timesteps() -> None:
    continuous = Schedule("cosine")
    times = [2 / math.pi * math.acos(noise.alpha) for noise in continuous.grid(4)]
    assert times == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    times = [2 / math.pi * math.acos(noise.alpha) for noise in Schedule("cosine", 10).grid(4)]
    assert times == pytest.approx([1, 0.8, 0.5, 0.2, 0])
    shorter = continuous.grid(4, 0.8, 2.0)
    times = [2 / math.pi * math.acos(noise.alpha) for noise in shorter]
    assert times == pytest.approx([0.8 * part for part in (1, 4 / 9, 1 / 9, 0)], abs=1e-7)
    assert len(continuous.grid(20, 0.3)) == 7
    assert continuous.grid(20, 0.3)[0] == continuous.noise_at(0.3)
    assert len(continuous.grid(1, 0.1)) == 2
    with pytest.raises(ConfigError, match="at most 10"):
        Schedule("cosine", 10).grid(11)
    uniform_B = torch.tensor([1e-9, 0.1, 0.11, 1.0])
    assert Schedule("cosine", 10).times(uniform_B).tolist() == pytest.approx([0.1, 0.1, 0.2, 1.0])
    assert continuous.times(uniform_B) is uniform_B


@pytest.mark.parametrize(("spacing", "part"), [(1.0, 0.777), (2.0, 1.07)])
def test_shorter_steps_keep_small_deviations(spacing: float, part: float) -> None:
    def ideal(z: Tensor, noise: Noise) -> Tensor:
        signal = (noise.alpha * 0.1) ** 2
        return noise.alpha * 0.01 / (signal + noise.sigma**2) * z

    start = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    found = sample(ideal, start, Schedule("cosine").grid(20, spacing=spacing), "dpm")
    assert found.std().item() == pytest.approx(0.1 * part, abs=1e-3)


@pytest.mark.parametrize(("deviation", "kind", "eta"), DEVIATIONS)
def test_samples_of_gaussian_data_have_the_known_deviation(
    deviation: float, kind: str, eta: float
) -> None:
    def ideal(z: Tensor, noise: Noise) -> Tensor:
        signal = (noise.alpha * deviation) ** 2
        return noise.alpha * deviation**2 / (signal + noise.sigma**2) * z

    generator = torch.Generator().manual_seed(0)

    def draw(_: int) -> Tensor:
        return torch.randn(200_000, generator=generator)

    found = [
        sample(ideal, draw(0), Schedule("cosine").grid(steps), kind, eta, draw).std().item()
        for steps in STEPS
    ]
    expected = [deviation * part for part in DEVIATIONS[deviation, kind, eta]]
    assert found == pytest.approx(expected, abs=0.01 * deviation)


@pytest.mark.parametrize("kind", ["dpm", "ddim", "ddpm"])
def test_one_step_is_the_mean(kind: str) -> None:
    levels = []

    def mean(z: Tensor, noise: Noise) -> Tensor:
        levels.append(noise)
        return 0 * z + 7

    found = sample(mean, torch.randn(5), Schedule("linear").grid(1), kind)
    assert levels == [Noise(0.0, 1.0)]
    assert found.tolist() == [7] * 5


def test_only_new_noise_makes_it_random() -> None:
    grid = Schedule("cosine").grid(5)
    start = torch.randn(9)

    def run(kind: str, eta: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda _: torch.randn(9, generator=generator)  # noqa: E731
        return sample(lambda z, noise: noise.alpha * z.tanh(), start, grid, kind, eta, draw)

    assert torch.equal(run("ddim", 0.0, 1), run("ddim", 0.0, 2))
    assert torch.equal(run("dpm", 0.0, 1), run("dpm", 0.0, 2))
    assert not torch.equal(run("ddim", 0.1, 1), run("ddim", 0.1, 2))
    assert torch.equal(run("ddpm", 0.0, 1), run("ddim", 1.0, 1))


def test_what_cannot_be_drawn_is_refused() -> None:
    grid = Schedule("cosine").grid(3)
    with pytest.raises(ConfigError, match="euler"):
        sample(lambda z, _: z, torch.ones(1), grid, "euler")
    with pytest.raises(ValueError, match="expected noise"):
        sample(lambda z, _: z, torch.ones(1), grid, "ddpm")
