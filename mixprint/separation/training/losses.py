"""Distances of spectra that separators are trained by.

Shape suffixes: B batch of this rank, S stem, C channel, F frequency row, N frame.
"""

import torch
from torch import Tensor

# Keeps the gradient of a root finite where estimate and target are equal; -80 dB of full scale.
ERROR_FLOOR = 1e-8


def spectral_rmse(estimate: Tensor, target: Tensor) -> Tensor:
    """Distance of complex spectra: the RMSE of each stem.

    Args:
        estimate: estimate_BSCFN, complex.
        target: target_BSCFN, complex.

    Returns:
        rmse_BS.

    Source: Tong et al., arXiv 2401.13276, training objective.
    """
    error = torch.view_as_real(estimate - target)
    power_BS = error.square().mean(dim=(2, 3, 4, 5))
    return (power_BS + ERROR_FLOOR).sqrt()
