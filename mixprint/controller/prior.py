"""Prior over settings: a Gaussian of positions, with a mean for each role of a track.

The mean is the style of all songs that were learned from, against which a controller is held; the
distance from it keeps settings likely where only a reference decides.

Shape suffixes: R role (row 0: all tracks, or an unknown role), M observed strip, N strip, K field.
"""

import torch
from torch import Tensor, nn

# A mean of a role counts as much as its own observations beside so many of all.
_ROLE_SHRINKAGE = 20.0
_LEAST_DEVIATION = 0.02
_LEAST_WEIGHT = 1e-6


class Prior(nn.Module):
    """Mean of each role and a common covariance, kept with the weights of a network.

    Attributes:
        mean_RK: positions.
        precision_KK: inverse of the covariance.
    """

    mean_RK: Tensor
    precision_KK: Tensor

    def __init__(self, num_roles: int, neutral_K: Tensor) -> None:
        """Start at neutral settings, with a deviation of a quarter of each range.

        Args:
            num_roles: without the unknown one.
            neutral_K: positions of what changes nothing.
        """
        super().__init__()
        with torch.device("cpu"):  # see `mixprint.checkpoints.form.restored`
            self.register_buffer("mean_RK", neutral_K.repeat(num_roles + 1, 1))
            self.register_buffer("precision_KK", torch.diag(torch.full_like(neutral_K, 16.0)))

    @torch.no_grad()
    def fit(self, position_MK: Tensor, weight_MK: Tensor, role_M: Tensor, shrinkage: float) -> None:
        """Estimate mean and covariance of observed strips.

        Args:
            position_MK: their positions, one strip at least.
            weight_MK: how much each setting was heard, 0 to 1.
            role_M: rows of their roles.
            shrinkage: part of the correlations that is not believed, 0 to 1.
        """
        position_MK, weight_MK = position_MK.double(), weight_MK.double() + _LEAST_WEIGHT
        mean_K = (weight_MK * position_MK).sum(dim=0) / weight_MK.sum(dim=0)
        means = [mean_K]
        for role in range(1, len(self.mean_RK)):
            own_MK = weight_MK * (role_M == role)[:, None]
            total_K = (own_MK * position_MK).sum(dim=0) + _ROLE_SHRINKAGE * mean_K
            means.append(total_K / (own_MK.sum(dim=0) + _ROLE_SHRINKAGE))
        mean_RK = torch.stack(means)
        share_MK = (weight_MK / weight_MK.sum(dim=0)).sqrt()
        deviation_MK = share_MK * (position_MK - mean_RK[role_M])
        covariance_KK = deviation_MK.T @ deviation_MK
        variance_K = covariance_KK.diagonal() + _LEAST_DEVIATION**2
        covariance_KK = (1 - shrinkage) * covariance_KK
        covariance_KK.diagonal().copy_(variance_K)
        self.mean_RK.copy_(mean_RK)
        self.precision_KK.copy_(torch.linalg.inv(covariance_KK))

    def mean(self, role_N: Tensor) -> Tensor:
        """Return the mean position_NK of roles."""
        return self.mean_RK[role_N]

    def distance(self, position_NK: Tensor, role_N: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance from the mean over the number of settings.

        Returns:
            distance_N, 1 on average for what the prior was fitted to.
        """
        deviation_NK = position_NK - self.mean(role_N)
        return ((deviation_NK @ self.precision_KK) * deviation_NK).mean(dim=-1)
