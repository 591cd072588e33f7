"""Least squares with a Gaussian prior, for residuals that are dear to compute.

Minimised is

    |r(z)|^2 + |z|^2

by Gauss-Newton steps with the damping of Levenberg and Marquardt. The derivatives are measured once
by differences; after that each evaluation corrects them along its own step (Broyden 1965), so a
step costs one evaluation.

Shape suffixes: P parameter, R residual.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Residuals = Callable[[Tensor], Tensor]

_DAMPING_UP, _DAMPING_DOWN = 4.0, 3.0
_LEAST_DAMPING = 1e-3


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
            self.damping = max(_DAMPING_UP * self.damping, _LEAST_DAMPING)
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


def differences(residuals: Residuals, position_P: Tensor, width: float) -> Tensor:
    """Measure derivatives by one evaluation more than there are parameters.

    Args:
        residuals: see `LeastSquares.step`.
        position_P: where.
        width: of the differences.

    Returns:
        jacobian_RP.
    """
    here_R = residuals(position_P)
    columns = []
    for parameter in range(len(position_P)):
        moved_P = position_P.clone()
        moved_P[parameter] += width
        columns.append((residuals(moved_P) - here_R) / width)
    if not columns:
        return here_R.new_zeros((len(here_R), 0))
    return torch.stack(columns, dim=1)


def _objective(position_P: Tensor, residual_R: Tensor) -> float:
    return float(residual_R.square().sum() + position_P.square().sum())
