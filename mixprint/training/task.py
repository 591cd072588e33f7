"""The protocol between the engine and what is trained: a task has one class per system.

All that a task computes has to follow from its seed and the number of the step, never from what
came before: then a training that was killed goes on exactly as an undisturbed one, and any number
of ranks learns the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from mixprint.training.updates import Update

Batch = TypeVar("Batch")
# Of each part by name; those of its average where it has one.
Weights = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Length:
    """When a training ends: at the first limit that it reaches.

    Attributes:
        steps: steps; 0: `minutes` alone decides.
        minutes: minutes of work over all resumed runs; 0: `steps` decides. Only with `steps`
            alone does a training give the same weights again.
        patience: epochs without a better score; 0: no limit.
    """

    steps: int = 0
    minutes: float = 0.0
    patience: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Course of a training. An *epoch* ends with a validation, and after the last step.

    Attributes:
        length: when it ends.
        valid_steps: steps of an epoch.
        first_valid_step: where the first epoch ends; 0: after `valid_steps`, too.
        seed: of what is random inside a step, for example dropout.
        max_grad_norm: longer gradients of a part are shortened to this.
        save_steps: steps from one saved state to the next inside an epoch; 0: none.
        log_steps: steps from one entry of the curves to the next.
        keep_checkpoints: of so many of the last epochs the weights are kept.
        num_workers: readers of each rank; 0: batches are read between the steps.
        precision: `float32`, or `bfloat16` inside `update.autocast()`.
        compile: whether the parts go through `torch.compile`.
    """

    length: Length
    valid_steps: int
    first_valid_step: int = 0
    seed: int
    max_grad_norm: float
    save_steps: int = 0
    log_steps: int
    keep_checkpoints: int = 0
    num_workers: int = 0
    precision: str = "float32"
    compile: bool = False

    @property
    def num_epochs(self) -> int | None:
        """Count the epochs of a training that goes to its last step; None without a last one."""
        if self.length.steps <= 0:
            return None
        rest = self.length.steps - (self.first_valid_step or self.valid_steps)
        return 1 + max(-(-rest // self.valid_steps), 0)

    def epoch_end(self, step: int) -> int:
        """Return where the epoch ends that a step belongs to, by the limits of steps."""
        first = self.first_valid_step or self.valid_steps
        past = max(step - first, -1)
        end = first if past < 0 else first + (past // self.valid_steps + 1) * self.valid_steps
        return min(end, self.length.steps) if self.length.steps > 0 else end


class Task(ABC, Generic[Batch]):
    """A system to train, with its data and its score; the engine does all else.

    Attributes:
        name: of the log and the experiment.
        parts: networks by name, on the device of this rank, with equal weights on all ranks.
        averaged: parts of which an average of the weights is kept, and its decay. The averages
            are what is validated and exported.
        plan: how the training is run.
        on_xla: whether it can learn on XLA devices, such as TPUs.
    """

    name: str
    parts: Mapping[str, nn.Module]
    averaged: Mapping[str, float] = {}
    plan: Plan
    on_xla: ClassVar[bool] = False

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return all that the weights follow from, in JSON: data, parameters, code.

        A training goes on from states of the same identity only.
        """

    @abstractmethod
    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        """Build the optimisers of each part; their own rate is a factor of `rate`."""

    @abstractmethod
    def rate(self, part: str, step: int, done: float) -> float:
        """Return the learning rate of a step; the arguments alone decide it.

        Args:
            part: name of the network.
            step: number of the step, from 0.
            done: which part of the training lies behind it, 0..1.
        """

    @abstractmethod
    def examples(self) -> Dataset[Batch]:
        """Build what readers read from: item n is this rank's batch of step n."""

    @abstractmethod
    def learn(self, step: int, batch: Batch, update: Update) -> Mapping[str, float]:
        """Learn from a batch, by `update.backward` and `update.step`, the same way on all ranks.

        Returns:
            figures of the whole batch, over all ranks; the log shows `loss`.
        """

    @abstractmethod
    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        """Measure the parts, or their averages; called on every rank, which may share the work.

        Returns:
            figures; those of the first rank count.
        """

    @abstractmethod
    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """Return what validations are compared by, larger is better; None: not to be compared."""

    @abstractmethod
    def describe(self, step: int, batch: Batch) -> Sequence[str]:
        """Name the examples of this rank's batch, for messages: tracks and segments."""

    @abstractmethod
    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """Write the weights in the form that is used later; called on the first rank.

        Args:
            folder: of a checkpoint, or of the training itself at its end.
            weights: of all parts.
            entry: of the history, see `mixprint.training.recorder`.
        """

    def export_last(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """Write the weights of the last step beside the best, where that is wanted."""

    def conclude(self, weights: Weights, entry: Mapping[str, float]) -> Mapping[str, float]:
        """Choose the final form of the best weights; called on every rank before their export.

        Returns:
            what shall be added to their entry.
        """
        return {}

    def summary(self) -> str:
        """Say what is learned from, for the log."""
        return ""

    def running(self, step: int) -> AbstractContextManager[object]:
        """Return a context for the training from a step on, for example of helpers."""
        return nullcontext()

    def saved(self, oldest_step: int) -> None:
        """Drop what no resumption can need: none starts before this step. On the first rank."""

    def memory(self) -> Mapping[str, Any]:
        """Return what else has to outlive a kill, as plain values."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave to the state that the training goes on from."""

    def basis(self) -> str:
        """Tell what validations measure on: scores on other songs are not compared."""
        return ""

    def replace(self, others: Mapping[Path, Mapping[str, Any]]) -> None:
        """Agree that a new training removes states of other identities, or raise.

        Args:
            others: their identities by folder; empty where one is unknown.
        """
