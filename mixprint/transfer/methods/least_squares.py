"""Least squares with a Gaussian prior, for residuals that are expensive to compute.

Minimised is

    |r(z)|^2 + |z|^2

by Gauss-Newton steps with the damping of Levenberg and Marquardt. The derivatives are given once;
after that each evaluation corrects them along its own step (Broyden 1965), so a step costs one
evaluation.

Shape suffixes: P parameter, R residual.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Residuals = Callable[[Tensor], Tensor]

_DAMPING_UP, _DAMPING_DOWN = 10.0, 3.0
_LEAST_DAMPING = 1e-3
_DAMPING_AFTER_FAILURE = 0.1


@dataclass
class LeastSquares:
    """A search for the least objective; it is at its best point at any time.

    Attributes:
        position_P: the best point so far.
        residual_R: the residuals there.
        jacobian_RP: their derivatives, as far as they are known.
        longest: how far one step moves any parameter.
        damping: added to the curvature in all directions; it rises after a step that failed.
    """

    position_P: Tensor
    residual_R: Tensor
    jacobian_RP: Tensor
    longest: float
    damping: float = field(default=_LEAST_DAMPING)

    @property
    def objective(self) -> float:
        """Return the least objective so far."""
        return _objective(self.position_P, self.residual_R)

    def narrowed(self) -> Tensor:
        """Return which part of the prior's spread the residuals leave of each parameter.

        Laplace's approximation: the inverse of the curvature, with the derivatives at hand.
        """
        curvature_PP = self.jacobian_RP.mT @ self.jacobian_RP
        curvature_PP.diagonal().add_(1)
        return torch.linalg.inv(curvature_PP).diagonal().clamp(0.0, 1.0).sqrt()

    def step(self, residuals: Residuals) -> bool:
        """Try one step.

        Args:
            residuals: position_P -> residual_R; it is asked once.

        Returns:
            whether the objective fell.

        Raises:
            FloatingPointError: the residuals are not finite.
        """
        way_P = self._way()
        trial_P = self.position_P + way_P
        trial_R = residuals(trial_P)
        objective = _objective(trial_P, trial_R)
        if not math.isfinite(objective):
            raise FloatingPointError(f"expected a finite objective, found {objective}")
        unforeseen_R = trial_R - self.residual_R - self.jacobian_RP @ way_P
        length_squared = float(way_P.square().sum())
        if length_squared > 0:
            self.jacobian_RP = self.jacobian_RP + torch.outer(unforeseen_R, way_P) / length_squared
        if objective >= self.objective:
            self.damping = max(_DAMPING_UP * self.damping, _DAMPING_AFTER_FAILURE)
            return False
        self.position_P, self.residual_R = trial_P, trial_R
        self.damping /= _DAMPING_DOWN
        return True

    def _way(self) -> Tensor:
        """Return the step to the least of the quadratic model, shortened to `longest`."""
        curvature_PP = self.jacobian_RP.mT @ self.jacobian_RP
        scale = float(curvature_PP.diagonal().mean())
        curvature_PP.diagonal().add_(1 + self.damping * scale)
        slope_P = self.jacobian_RP.mT @ self.residual_R + self.position_P
        way_P = -torch.linalg.solve(curvature_PP, slope_P)
        reach = float(way_P.abs().max()) if len(way_P) else 0.0
        return way_P * min(1.0, self.longest / reach) if reach > 0 else way_P


def _objective(position_P: Tensor, residual_R: Tensor) -> float:
    return float(residual_R.square().sum() + position_P.square().sum())
