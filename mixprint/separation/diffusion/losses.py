"""Loss of a denoiser: errors of instrumental and vocals, weighted by the level of noise.

Shape suffixes: B example of a batch, C channel, F frequency row, N frame.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.separation.diffusion.model import Denoised, Denoiser, Ingredients, Masked
from mixprint.separation.diffusion.training_settings import LossWeights
from mixprint.separation.training.losses import spectral_rmse

# Of the signal-to-noise ratio as a weight. Hang et al. (arXiv 2303.09556) have the upper one; with
# no lower one the end of time, where sampling begins, would not count at all.
WEIGHTS = (1.0, 5.0)
# Power of vocals beside the mean power of the mixture, above which a frame has vocals.
LEAST_VOCALS_DB = -45.0
# Upper ends of the ranges of time that losses are told by.
TIMES = (0.25, 0.5, 0.75, 1.0)


class Losses(NamedTuple):
    """Loss of each example, and what it is made of.

    Attributes:
        total_B: what is learned from.
        instrumental_B: error of the instrumental, compressed and scaled.
        vocals_B: error of the vocals, likewise.
        variance_B: negative log likelihood of the error of masks; 0 of a free head.
        presence_B: that of whether there are vocals in each frame, likewise.
    """

    total_B: Tensor
    instrumental_B: Tensor
    vocals_B: Tensor
    variance_B: Tensor
    presence_B: Tensor


def denoising_losses(denoiser: Denoiser, parts: Ingredients, weights: LossWeights) -> Losses:
    """Measure how far estimates are from the truth.

    Args:
        denoiser: that has made them.
        parts: the estimates and the truth.
        weights: of the parts of the loss.
    """
    compress, estimate = denoiser.compression.compress, parts.estimate
    instrumental_B = _rmse(estimate.x0_BCFN, parts.x0_BCFN)
    vocals_B = _rmse(compress(estimate.vocals_BCFN), compress(parts.vocals_BCFN))
    weight_B = parts.snr_B.clamp(*WEIGHTS).to(instrumental_B)
    total_B = weight_B * (instrumental_B + weights.vocal * vocals_B)
    # The instrumental's error is the vocals', for both add up to the mixture.
    linear_B = _rmse(estimate.vocals_BCFN, parts.vocals_BCFN)
    level = 10 ** (denoiser.config.level_dbfs / 20)
    only_noise_B = (parts.snr_B == 0).to(linear_B)
    total_B = total_B + weights.linear / level * only_noise_B * linear_B
    variance_B = presence_B = torch.zeros_like(total_B)
    if estimate.masked is not None:
        variance_B = _variance_nll(estimate.masked, parts.x0_BCFN)
        presence_B = _presence_nll(estimate, estimate.masked.presence_BN, parts.vocals_BCFN)
        total_B = total_B + weights.variance * variance_B + weights.presence * presence_B
    return Losses(total_B, instrumental_B, vocals_B, variance_B, presence_B)


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


def _variance_nll(masked: Masked, x0_BCFN: Tensor) -> Tensor:
    """Negative log likelihood of Gaussian errors, but for a constant, in each number of a mask."""
    error_BCFN = torch.view_as_real(masked.x0_BCFN.detach() - x0_BCFN).square().mean(dim=-1)
    log_variance_BCFN = masked.log_variance_BCFN
    nll_BCFN = (log_variance_BCFN + error_BCFN * (-log_variance_BCFN).exp()) / 2
    return nll_BCFN.mean(dim=(1, 2, 3))


def _presence_nll(estimate: Denoised, presence_BN: Tensor, vocals_BCFN: Tensor) -> Tensor:
    """Negative log likelihood of which frames have vocals, the mean over frames."""
    mixture_BCFN = (estimate.instrumental_BCFN + estimate.vocals_BCFN).detach()
    least_B1 = 10 ** (LEAST_VOCALS_DB / 10) * _power(mixture_BCFN).mean(dim=1, keepdim=True)
    is_there_BN = (_power(vocals_BCFN) > least_B1).to(presence_BN)
    nll_BN = functional.binary_cross_entropy_with_logits(presence_BN, is_there_BN, reduction="none")
    return nll_BN.mean(dim=1)


def _power(spectrum_BCFN: Tensor) -> Tensor:
    return torch.view_as_real(spectrum_BCFN).square().sum(dim=(1, 2, 4))


def _rmse(estimate_BCFN: Tensor, target_BCFN: Tensor) -> Tensor:
    rmse_B1 = spectral_rmse(estimate_BCFN.unsqueeze(1), target_BCFN.unsqueeze(1))
    return rmse_B1[:, 0]
