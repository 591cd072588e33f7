"""Noise schedules: how much of the signal is left at a time, and how much noise is in it.

Time runs from 0, the signal alone, to 1, noise alone: z = alpha x0 + sigma e with
alpha^2 + sigma^2 = 1. The ends hold exactly, so that a sample begins with noise as the training
has seen it (Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv
2305.08891).

Shape suffixes: B example of a batch.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.machine import xla
from mixprint.separation.diffusion.settings import ScheduleKind

# The betas of Ho et al. (arXiv 2006.11239), 1e-4 to 2e-2, over the 200 steps of the first diffusion
# separators; here in continuous time.
LINEAR_BETAS = (200 * 1e-4, 200 * 2e-2)


class Noise(NamedTuple):
    """A level of noise: the coefficients of signal and noise.

    Numbers in a sampler; in a training, one per example.
    """

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """log(alpha / sigma); infinite at the ends."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


@dataclass(frozen=True)
class Schedule:
    """Noise over time.

    Attributes:
        kind: see `mixprint.separation.diffusion.settings.DiffusionConfig.schedule`.
        timesteps: see there.
    """

    kind: ScheduleKind
    timesteps: int = 0

    def coefficients(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_B and sigma_B of times in 0 to 1, in float64, but in float32 on XLA."""
        device = time_B.device
        time_B = time_B.to(xla.host_of(device)).double()
        if self.kind == "cosine":
            alpha_B = (time_B * (math.pi / 2)).cos()
            sigma_B = (time_B * (math.pi / 2)).sin()
        else:
            left = math.exp(-sum(LINEAR_BETAS) / 4)
            first, last = LINEAR_BETAS
            integral_B = first * time_B + (last - first) / 2 * time_B.square()
            # Shifted and scaled, so that what the original betas leave of the signal is none.
            alpha_B = ((-integral_B / 2).exp() - left) / (1 - left)
            sigma_B = (1 - alpha_B.square()).clamp_min(0).sqrt()
        alpha_B = alpha_B.masked_fill(time_B <= 0, 1.0).masked_fill(time_B >= 1, 0.0)
        sigma_B = sigma_B.masked_fill(time_B <= 0, 0.0).masked_fill(time_B >= 1, 1.0)
        return xla.sent(alpha_B, device), xla.sent(sigma_B, device)

    def noise_at(self, time: float) -> Noise:
        """Return the level of noise at a time."""
        alpha, sigma = self.coefficients(torch.tensor(time, dtype=torch.float64, device="cpu"))
        return Noise(alpha.item(), sigma.item())

    def times(self, uniform_B: Tensor) -> Tensor:
        """Return times to train at, from uniform numbers above 0 up to 1: of the grid, if any."""
        if not self.timesteps:
            return uniform_B
        return (uniform_B * self.timesteps).ceil().clamp_min(1) / self.timesteps

    def grid(self, steps: int, strength: float = 1.0, spacing: float = 1.0) -> list[Noise]:
        """Place the steps of a sampler.

        Args:
            steps: from time 1 to 0, as far as `timesteps` allows.
            strength: time at which it begins: that part of the steps, at least one.
            spacing: 1 for steps of equal length; more for shorter and shorter ones. What is left of
                the noise before the last step is not drawn from any more, so a long last step
                leaves samples that differ too little.

        Returns:
            falling levels of noise, one more than there are steps; the last is (1, 0).

        Raises:
            ConfigError: there are more steps than timesteps.
        """
        if self.timesteps and steps > self.timesteps:
            raise ConfigError(
                f"sampling.steps: expected at most {self.timesteps}, the timesteps that it was "
                f"trained at, found {steps}"
            )
        num_steps = max(round(steps * strength), 1)
        times = [strength * (1 - step / num_steps) ** spacing for step in range(num_steps)]
        if self.timesteps:
            # As a set, for there may be fewer of them than steps.
            nearest = {max(round(time * self.timesteps), 1) for time in times}
            times = [number / self.timesteps for number in sorted(nearest, reverse=True)]
        return [self.noise_at(time) for time in (*times, 0.0)]
