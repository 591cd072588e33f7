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
        covariance_KK.diagonal().add_(_LEAST_DEVIATION**2)
        self.mean_RK.copy_(mean_RK)
        self._set_covariance(covariance_KK, shrinkage)

    @torch.no_grad()
    def adapt(
        self,
        position_MK: Tensor,
        weight_MK: Tensor,
        role_M: Tensor,
        *,
        strength: float,
        shrinkage: float,
    ) -> None:
        """Move towards observed strips, the further the more there are of them.

        The estimate is that of a Gaussian of which the present one is known beforehand, and counts
        as `strength` observations. All roles move by what the observations have in common, and each
        by what its own add to that: of a role that was not observed, only the common part is known.

        Args:
            position_MK: their positions.
            weight_MK: how much each setting was heard, 0 to 1.
            role_M: rows of their roles.
            strength: observations that the present prior counts as, above 0; without any
                observation it stays.
            shrinkage: part of the correlations that is not believed, 0 to 1.

        Source: the conjugate prior of a normal mean and covariance, see Murphy, Machine Learning: a
        Probabilistic Perspective, 2012, section 4.6, its mean in two levels.
        """
        position_MK, weight_MK = position_MK.double(), weight_MK.double()
        before_RK = self.mean_RK.double()
        deviation_MK = position_MK - before_RK[role_M]
        moved_MK = weight_MK * deviation_MK
        common_K = moved_MK.sum(dim=0) / (weight_MK.sum(dim=0) + strength)
        moves = [common_K]
        for role in range(1, len(before_RK)):
            is_own_M1 = (role_M == role)[:, None]
            total_K = (is_own_M1 * moved_MK).sum(dim=0) + strength * common_K
            moves.append(total_K / ((is_own_M1 * weight_MK).sum(dim=0) + strength))
        move_RK = torch.stack(moves)
        left_MK = weight_MK.sqrt() * (deviation_MK - move_RK[role_M])
        covariance_KK = torch.linalg.inv(self.precision_KK.double())
        covariance_KK = left_MK.T @ left_MK + strength * covariance_KK
        scale_K = (weight_MK.sum(dim=0) + strength).rsqrt()
        covariance_KK = scale_K[:, None] * covariance_KK * scale_K
        self.mean_RK.copy_(before_RK + move_RK)
        self._set_covariance(covariance_KK, shrinkage * len(role_M) / (len(role_M) + strength))

    def _set_covariance(self, covariance_KK: Tensor, shrinkage: float) -> None:
        variance_K = covariance_KK.diagonal().clone()
        covariance_KK = (1 - shrinkage) * covariance_KK
        covariance_KK.diagonal().copy_(variance_K)
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
