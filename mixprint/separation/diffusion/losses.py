"""Loss of a denoiser: errors of instrumental and vocals, weighted by the level of noise.

Shape suffixes: B example of a batch, C channel, F frequency row, N frame.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.separation.diffusion.model import Denoiser, Ingredients
from mixprint.separation.training.losses import spectral_rmse

# Of the signal-to-noise ratio as a weight. Hang et al. (arXiv 2303.09556) have the upper one; with
# no lower one the end of time, where sampling begins, would not count at all.
WEIGHTS = (1.0, 5.0)
# Upper ends of the ranges of time that losses are told by.
TIMES = (0.25, 0.5, 0.75, 1.0)


class Losses(NamedTuple):
    """Loss of each example, and what it is made of.

    Attributes:
        total_B: what is learned from.
        instrumental_B: error of the instrumental, compressed and scaled.
        vocals_B: error of the vocals, likewise.
    """

    total_B: Tensor
    instrumental_B: Tensor
    vocals_B: Tensor


def denoising_losses(
    denoiser: Denoiser, parts: Ingredients, *, vocal_weight: float, linear_weight: float
) -> Losses:
    """Measure how far estimates are from the truth.

    Args:
        denoiser: that has made them.
        parts: the estimates and the truth.
        vocal_weight: of the vocals. They are the difference of linear spectra, compressed
            afterwards: the difference of compressed spectra is no spectrum of anything.
        linear_weight: of the error of linear spectra, relative to the level of the training, of
            examples of which nothing but noise is left: the mean of compressed spectra is not the
            mean that a separation in one step is to give.
    """
    compress, estimate = denoiser.compression.compress, parts.estimate
    instrumental_B = _rmse(estimate.x0_BCFN, parts.x0_BCFN)
    vocals_B = _rmse(compress(estimate.vocals_BCFN), compress(parts.vocals_BCFN))
    weight_B = parts.snr_B.clamp(*WEIGHTS).to(instrumental_B)
    total_B = weight_B * (instrumental_B + vocal_weight * vocals_B)
    # The instrumental's error is the vocals', for both add up to the mixture.
    linear_B = _rmse(estimate.vocals_BCFN, parts.vocals_BCFN)
    level = 10 ** (denoiser.config.level_dbfs / 20)
    only_noise_B = (parts.snr_B == 0).to(linear_B)
    total_B = total_B + linear_weight / level * only_noise_B * linear_B
    return Losses(total_B, instrumental_B, vocals_B)


def sums_by_time(time_B: Tensor, values_B: Tensor) -> Tensor:
    """Add values up in ranges of time.

    Returns:
        sums: of the values in each range of `TIMES`, and behind them how many there are.
    """
    ends = torch.tensor(TIMES, dtype=torch.float64, device=time_B.device)
    member_RB = torch.nn.functional.one_hot(torch.bucketize(time_B, ends), len(TIMES)).T.double()
    return torch.cat([member_RB @ values_B.double(), member_RB.sum(dim=1)])


def means_by_time(sums: Tensor) -> Mapping[str, float]:
    """Return the means of `sums_by_time` by the ends of the ranges, of those with values."""
    totals, numbers = sums.chunk(2)
    return {
        f"t{round(100 * end)}": total / number
        for end, total, number in zip(TIMES, totals.tolist(), numbers.tolist(), strict=True)
        if number
    }


def _rmse(estimate_BCFN: Tensor, target_BCFN: Tensor) -> Tensor:
    rmse_B1 = spectral_rmse(estimate_BCFN.unsqueeze(1), target_BCFN.unsqueeze(1))
    return rmse_B1[:, 0]
