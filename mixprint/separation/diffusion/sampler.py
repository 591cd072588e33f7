"""Samplers: from noise to a sample, with a network that tells the signal from the noise.

Sources: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239 (DDPM); Song et
al., "Denoising Diffusion Implicit Models", arXiv 2010.02502 (DDIM); Lu et al., "DPM-Solver++",
arXiv 2211.01095 (its algorithm 2, 2M).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.schedule import Noise
from mixprint.separation.diffusion.settings import SAMPLERS

# A noisy signal and its level of noise to the estimated signal.
Denoise = Callable[[Tensor, Noise], Tensor]


def sample(
    denoise: Denoise,
    start: Tensor,
    grid: Sequence[Noise],
    kind: str,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Draw a sample.

    Args:
        denoise: the network; it is run once per step.
        start: noisy signal at the first level of the grid, real or complex.
        grid: falling levels of noise, of which the last is none; see `Schedule.grid`. With a
            single step the sample is what `denoise` makes of the start: at time 1 the mean of all
            signals.
        kind: `dpm`, `ddim` or `ddpm`.
        eta: of `ddim`: the part of the noise that is drawn anew.
        noise: number of a step, from 1, to noise of the shape of the start; for `ddpm`, and for
            `ddim` with an `eta` above 0.

    Returns:
        the sample.

    Raises:
        ConfigError: the kind is not known.
    """
    if kind not in SAMPLERS:
        raise ConfigError(f"sampling.sampler: expected one of {SAMPLERS}, found {kind!r}")
    if kind == "dpm":
        return _dpm(denoise, start, grid)
    return _ddim(denoise, start, grid, 1.0 if kind == "ddpm" else eta, noise)


def _ddim(
    denoise: Denoise,
    z: Tensor,
    grid: Sequence[Noise],
    eta: float,
    noise: Callable[[int], Tensor] | None,
) -> Tensor:
    for number, (now, after) in enumerate(pairwise(grid), start=1):
        x0 = denoise(z, now)
        if after.sigma == 0:
            return x0
        error = (z - now.alpha * x0) / now.sigma
        # Deviation of the noise that is new: of all of it when eta is 1 and nothing is left of
        # the signal.
        kept = now.alpha / after.alpha
        new = eta * after.sigma / now.sigma * math.sqrt(max(1 - kept * kept, 0.0))
        old = math.sqrt(max(after.sigma**2 - new**2, 0.0))
        z = after.alpha * x0 + old * error
        if new:
            if noise is None:
                raise ValueError(f"expected noise, for eta is {eta:g}")
            z = z + new * noise(number)
    return z


def _dpm(denoise: Denoise, z: Tensor, grid: Sequence[Noise]) -> Tensor:
    last_x0, last_h = None, math.inf
    for now, after in pairwise(grid):
        x0 = denoise(z, now)
        if after.sigma == 0:
            return x0
        h = after.half_log_snr - now.half_log_snr
        # Second order: the line through this estimate and the last, in the logarithm of the
        # signal-to-noise ratio. Behind noise alone that has no finite place to start from.
        estimate = x0
        if last_x0 is not None and math.isfinite(last_h):
            estimate = x0 + h / (2 * last_h) * (x0 - last_x0)
        z = after.sigma / now.sigma * z - after.alpha * math.expm1(-h) * estimate
        last_x0, last_h = x0, h
    return z
