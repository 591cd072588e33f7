"""One step of a training: gradients of all ranks become a move of the weights, or an error."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixprint.errors import TrainingError
from mixprint.machine import xla
from mixprint.training.averages import Average
from mixprint.training.ranks import of_all_ranks, sums_over_ranks

_NUM_NAMED = 16  # examples in a message


class Update:
    """Gradients and steps of a task, one for all steps; the engine calls `begin` before each.

    A rank's loss is its share: the sum over the ranks is the loss of the whole batch, and its
    gradient the sum of theirs. Ranks may call `backward` as often as each likes, but `step` in the
    same order.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        optimizers: Mapping[str, Sequence[Optimizer]],
        averages: Mapping[str, Average],
        *,
        max_grad_norm: float,
        precision: str,
        device: torch.device,
    ) -> None:
        self._parts, self._optimizers, self._averages = parts, optimizers, averages
        self._max_grad_norm, self._precision, self._device = max_grad_norm, precision, device
        # The rate that an optimiser is created with is its factor; it outlives a resumption here.
        for group in self._groups(parts):
            group.setdefault("initial_lr", group["lr"])
        self._describe: Callable[[], Sequence[str]] = list
        self.step_number = 0
        self.norms: dict[str, float] = {}

    def begin(
        self, step: int, rates: Mapping[str, float], describe: Callable[[], Sequence[str]]
    ) -> None:
        """Forget the step before.

        Args:
            step: number of the step.
            rates: learning rate of each part.
            describe: names this rank's examples.
        """
        self.step_number, self._describe = step, describe
        self._loss = torch.zeros((), device=self._device)
        self._inspected: Tensor | None = None
        self.norms = {}
        for name, part in self._parts.items():
            part.zero_grad(set_to_none=True)
            for group in self._groups([name]):
                group["lr"] = rates[name] * group["initial_lr"]

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context that computes in the precision of the training."""
        wanted = self._precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=wanted)

    def inspect(self, values: Tensor) -> None:
        """Note values of the examples, one row each, so that an error names the right ones.

        Args:
            values: first axis as `Task.describe` names them; those with values that are not
                finite are named, all where there are none.
        """
        self._inspected = values.detach()

    def backward(self, loss: Tensor, *parts: str) -> None:
        """Add the gradient of a loss to the parts, all of them where none is named.

        Args:
            loss: this rank's share. `step` stops the training if the sum is not finite.
            parts: which parts learn from it; the others do not even notice.
        """
        self._loss += loss.detach()
        inputs = [p for name in parts for p in self._parts[name].parameters() if p.requires_grad]
        loss.backward(inputs=inputs or None)

    def step(self, part: str) -> float:
        """Move the weights of a part by the gradients of all ranks, and its average.

        Returns:
            the sum of the losses of all ranks since the step before.

        Raises:
            TrainingError: loss or gradient is not finite; no weight has moved.
        """
        network = self._parts[part]
        total = self._sum_gradients(network)
        self._loss = torch.zeros_like(self._loss)
        length = nn.utils.clip_grad_norm_(network.parameters(), self._max_grad_norm)
        # Read at once. Where there is no gradient, its length lies on the CPU.
        measured = torch.stack([total, length.to(total.device)])
        if xla.is_xla(self._device):
            xla.run_pending()
        loss, norm = measured.tolist()
        self._check_finite(loss, "loss")
        self._check_finite(norm, "gradient norm")
        self.norms[part] = norm
        for optimizer in self._optimizers[part]:
            optimizer.step()
        network.zero_grad(set_to_none=True)
        if part in self._averages:
            self._averages[part].update(self.step_number + 1)
        return loss

    def _sum_gradients(self, network: nn.Module) -> Tensor:
        """Add up what the ranks have learned; return the sum of the losses.

        Where a rank had nothing to learn from, its gradient is zero; where no rank had, there is
        none.
        """
        if torch.distributed.is_initialized():
            weights = [p for p in network.parameters() if p.requires_grad]
            has_grad = torch.tensor(
                [p.grad is not None for p in weights],
                dtype=torch.float32,
                device=xla.host_of(self._device),
            )
            gradients = [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights
            ]
            *sums, has_grad, loss = sums_over_ranks([*gradients, has_grad, self._loss.view(1)])
            for weight, total, num_ranks in zip(weights, sums, has_grad.tolist(), strict=True):
                weight.grad = total.view_as(weight) if num_ranks else None
            return loss[0]
        return self._loss

    def _check_finite(self, value: float, what: str) -> None:
        """Stop all ranks, which hold the same value, and name the examples of all."""
        if math.isfinite(value):
            return
        names = list(self._describe())
        if self._inspected is not None:
            is_bad = ~self._inspected.isfinite()
            bad_N = is_bad.flatten(1).any(dim=1) if is_bad.ndim > 1 else is_bad
            suspects = [name for name, bad in zip(names, bad_N.tolist(), strict=True) if bad]
        else:
            suspects = []
        found = of_all_ranks((suspects, names))
        bad = [name for suspected, _ in found for name in suspected]
        if not bad:
            bad = [name for _, own in found for name in own]
        raise TrainingError(
            f"step {self.step_number}: expected a finite {what}, found {value}; {listed(bad)}"
        )

    def _groups(self, names: Iterable[str]) -> list[dict[str, Any]]:
        return [g for name in names for o in self._optimizers[name] for g in o.param_groups]


def listed(names: Sequence[str]) -> str:
    """List names, the first ones of very many."""
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
