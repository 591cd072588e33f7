"""Muon: momentum whose matrices are made orthogonal before they are added to the weights.

Every direction of a weight matrix then moves equally far, also those that few examples ask for.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with their
coefficients of the iteration; kernels of convolutions as matrices of output by all the rest.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# A polynomial that brings singular values from 0..1 to about 0.7..1.2 within five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ROUNDS = 5
SMALLEST_SIDE = 8  # of a matrix for which an orthogonal step means anything
LSTM_GATES = 4  # stacked in one tensor, each a matrix of its own
FLOOR = 1e-7


def orthogonalised(matrix_BMN: Tensor) -> Tensor:
    """Bring all singular values of matrices near 1, by Newton-Schulz iterations.

    Args:
        matrix_BMN: matrices M x N.

    Returns:
        matrix_BMN with the same singular vectors.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix_BMN.shape[-2] > matrix_BMN.shape[-1]
    x_BMN = matrix_BMN.mT if is_tall else matrix_BMN
    x_BMN = x_BMN / (x_BMN.norm(dim=(-2, -1), keepdim=True) + FLOOR)
    for _ in range(NUM_ROUNDS):
        product_BMM = x_BMN @ x_BMN.mT
        x_BMN = a * x_BMN + (b * product_BMM + c * (product_BMM @ product_BMM)) @ x_BMN
    return x_BMN.mT if is_tall else x_BMN


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay; for matrices and kernels only."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Take the parameters.

        Args:
            groups: parameter groups; `stacked` in one says that each of its tensors is so many
                matrices above each other, by default 1.
            lr: length of a step; a tall matrix takes it times the root of height by width.
            momentum: part of the old momentum that stays.
            weight_decay: as in AdamW.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "stacked": 1}
        super().__init__(groups, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, weight.grad, group)
        return loss

    def _step_one(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(state["momentum"], group["momentum"])
        stacked = group["stacked"]
        update_BMN = orthogonalised(update.reshape(stacked, len(weight) // stacked, -1))
        height, width = update_BMN.shape[1:]
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        step = group["lr"] * max(1.0, height / width) ** 0.5
        weight.add_(update_BMN.reshape(weight.shape), alpha=-step)


def split_parameters(model: nn.Module) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
    """Tell what Muon trains from what it does not.

    Returns:
        groups of matrices for `Muon`, and the other parameters: biases, norms, embeddings, and
        what has a side below `SMALLEST_SIDE`.
    """
    gates = {id(p) for m in model.modules() if isinstance(m, nn.LSTM) for p in m.parameters()}
    plain: list[nn.Parameter] = []
    stacked: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.ndim < 2 or min(len(parameter), parameter[0].numel()) < SMALLEST_SIDE:
            others.append(parameter)
        elif id(parameter) in gates:
            stacked.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": plain},
        {"params": stacked, "stacked": LSTM_GATES},
    ]
    return [group for group in groups if group["params"]], others
