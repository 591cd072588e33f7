"""One loop for every training, in one process or under `torchrun`; it knows no system.

What it promises to each task: a training that is killed at any moment ends as an undisturbed one;
the last two states are kept, with hashes; no weight moves by a loss or gradient that is not finite;
any number of ranks learns the same; the best weights are kept beside the last.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mixprint.errors import ConfigError
from mixprint.machine import xla
from mixprint.training.averages import Average
from mixprint.training.curves import ScalarLog
from mixprint.training.loading import derive_seed, load_batches
from mixprint.training.outputs import (
    LOGS_FOLDER,
    STATE_FOLDER,
    TrainingOutputs,
    TrainingState,
)
from mixprint.training.ranks import (
    barrier,
    of_first_rank,
    process_group,
    rank_and_world,
    rank_device,
    share_first,
)
from mixprint.training.recorder import (
    MetricsCallback,
    Recorder,
    Sums,
    add_to,
    means_of,
    prefixed,
    rank_progress,
)
from mixprint.training.state import only_training
from mixprint.training.task import Task, Weights
from mixprint.training.updates import Update

SECONDS_PER_MINUTE = 60.0
# The other ranks wait where the first one works alone. One that dies is noticed by `torchrun`, not
# by waiting.
RANK_TIMEOUT = timedelta(hours=12)

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a training.

    Attributes:
        best: entry of the history of the best epoch, and what `Task.conclude` has added.
        history: entries of all epochs, see `mixprint.training.recorder`.
    """

    best: dict[str, float]
    history: list[dict[str, float]]


@dataclass
class _Status:
    """State of a training beside its weights.

    Attributes:
        step: number of steps taken.
        elapsed_s: time of work, up to the last state.
        sums: figures of the steps of the epoch under way.
        history: entries of all finished epochs.
        best: weights of the best epoch so far.
        best_epoch: its number; 0: none.
        best_score: its score.
        best_basis: what it was measured on.
    """

    step: int = 0
    elapsed_s: float = 0.0
    sums: Sums = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: tuple[float, ...] = ()
    best_basis: str = ""


def train(
    build: Callable[[torch.device], Task[Batch]],
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Train a task to its end, or go on where a killed training left off; call it on every rank.

    Under `torchrun` the process group is set up from the environment. If there are states of the
    same identity, the training goes on from the newest, else it starts anew. The number of ranks
    may change in between.

    Args:
        build: makes the task for the device of this rank, when the ranks have met.
        folder: receives what `mixprint.training.outputs` lists.
        device: `cpu`, `cuda` or `xla`; ranks take the GPU of their local rank.
        on_metrics: called on the first rank with a step and what was measured there, with an epoch
            after it is safe on disk; not called again for epochs before a resumption.

    Raises:
        TrainingError: a loss or gradient is not finite, a state cannot be saved, or another
            training works in the folder.
        CheckpointError: there are states to go on from, and none of them is whole.
        ConfigError: the task cannot learn on the device, or not every rank has one.
    """
    device = rank_device(torch.device(device))
    gpus = [device] if device.type == "cuda" else []
    with (
        process_group(device, RANK_TIMEOUT),
        torch.random.fork_rng(devices=gpus),
        ExitStack() as stack,
    ):
        if rank_and_world()[0] == 0:
            stack.enter_context(only_training(folder / STATE_FOLDER))
        # One that is just ending may save once more: no rank reads before it is gone.
        barrier()
        return _Training(build(device), folder, device).run(on_metrics)


class _Training:
    """A training under way, on one rank."""

    def __init__(self, task: Task[Any], folder: Path, device: torch.device) -> None:
        if xla.is_xla(device) and not task.on_xla:
            raise ConfigError(
                f"device of the training {task.name}: expected cpu or cuda, found {device}"
            )
        self._task, self._plan, self._device = task, task.plan, device
        self._rank, self._world_size = rank_and_world()
        self._log = logging.getLogger(f"mixprint.{task.name}")
        for part in task.parts.values():
            share_first(part.state_dict().values())
        self._averages = {n: Average(task.parts[n], decay) for n, decay in task.averaged.items()}
        self._optimizers = task.optimizers()
        self._update = Update(
            task.parts,
            self._optimizers,
            self._averages,
            max_grad_norm=self._plan.max_grad_norm,
            precision=self._plan.precision,
            device=device,
        )
        self._outputs = TrainingOutputs(folder, task, self._log)
        self._status = _Status()
        self._recorder: Recorder | None = None

    def run(self, on_metrics: MetricsCallback | None) -> Outcome:
        task, status = self._task, self._status
        self._resume()
        if self._plan.compile:
            for part in task.parts.values():
                part.compile()
        self._start_s = time.monotonic() - status.elapsed_s
        with ExitStack() as stack:
            stack.enter_context(task.running(status.step))
            self._log_start()
            if self._rank == 0:
                curves = stack.enter_context(
                    ScalarLog(self._outputs.folder / LOGS_FOLDER, status.step)
                )
                self._recorder = Recorder(task, self._outputs, curves, on_metrics, self._log)
                if status.history:
                    # A killed run may not have got so far after its last state.
                    self._write_epoch()
            batches = self._batches()
            epochs = rank_progress(
                self._log, "trained", self._plan.num_epochs, "epochs", has_lines=False
            )
            with epochs as shown:
                shown.advance(len(status.history))
                while not self._is_finished():
                    self._take_steps(batches)
                    self._validate()
                    shown.advance(note=self._standing())
            if not status.history or status.history[-1]["step"] != status.step:
                self._validate()
        return self._conclude()

    def _batches(self) -> Iterator[Any]:
        length = self._plan.length
        first = self._status.step
        return load_batches(
            self._task.examples(),
            range(first, length.steps) if length.steps > 0 else count(first),
            num_workers=self._plan.num_workers,
            pinned=self._device.type == "cuda",
        )

    def _done(self) -> float:
        """Return how much of the training is done, 0..1 and beyond; the same on every rank."""
        length, step = self._plan.length, self._status.step
        by_steps = step / length.steps if length.steps > 0 else 0.0
        if length.minutes <= 0:
            return by_steps
        limit_s = length.minutes * SECONDS_PER_MINUTE
        return max(by_steps, of_first_rank(self._elapsed_s(), self._device) / limit_s)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    def _is_finished(self) -> bool:
        waited = len(self._status.history) - self._status.best_epoch
        return self._done() >= 1 or 0 < self._plan.length.patience <= waited

    def _take_steps(self, batches: Iterator[Any]) -> None:
        """Take the steps of an epoch that are not taken yet."""
        status, plan = self._status, self._plan
        end = plan.epoch_end(status.step)
        for part in self._task.parts.values():
            part.train()
        verb = f"epoch {len(status.history) + 1}: took"
        with rank_progress(self._log, verb, end - status.step, "steps") as shown:
            while status.step < end and (done := self._done()) < 1:
                values = self._step(batches, done)
                add_to(status.sums, values)
                status.step += 1
                shown.advance(note=_figures(values, ("loss", "learning_rate")))
                if self._recorder is not None:
                    self._recorder.step(status.step, values)
                    # The state after an epoch holds its validation, too.
                    if plan.save_steps and status.step % plan.save_steps == 0 and status.step < end:
                        self._recorder.save(self._state())

    def _finish_step(self) -> None:
        """Have weights and averages moved, before they are read one by one."""
        if xla.is_xla(self._device):
            xla.run_pending()

    def _standing(self) -> str:
        """Say how the last epoch went, and which one is the best so far."""
        status = self._status
        best = f"best: epoch {status.best_epoch}" if status.best_epoch else ""
        if status.best_score:
            best += f" with {status.best_score[0]:.4g}"
        return ", ".join(filter(None, [_figures(status.history[-1], ("train.loss",)), best]))

    def _step(self, batches: Iterator[Any], done: float) -> dict[str, float]:
        """Take a step; return what is known of it."""
        task, step = self._task, self._status.step
        started_s = time.monotonic()
        batch = next(batches)
        seed = derive_seed(self._plan.seed, "dropout", step, self._rank)
        torch.manual_seed(seed)
        if xla.is_xla(self._device):
            xla.seed_device(seed)
        rates = {part: task.rate(part, step, done) for part in task.parts}
        self._update.begin(step, rates, lambda: task.describe(step, batch))
        values = dict(task.learn(step, batch, self._update))
        values |= self._by_part("gradient_norm", self._update.norms)
        values |= self._by_part("learning_rate", rates)
        return {**values, "step_s": time.monotonic() - started_s}

    def _by_part(self, name: str, values: Mapping[str, float]) -> dict[str, float]:
        """Name a figure of each part; a single part needs no name."""
        is_single = len(self._task.parts) == 1
        return {name if is_single else f"{name}.{p}": value for p, value in values.items()}

    def _validate(self) -> None:
        """End an epoch: measure the networks, keep them if they are the best, and save."""
        status, task = self._status, self._task
        parts = self._parts()
        started_s = time.monotonic()
        self._finish_step()
        for part in parts.values():
            part.eval()
        with torch.no_grad():
            metrics = dict(task.validate(status.step, parts))
        # Other processors round in another way, and all ranks have to end after the same epoch.
        metrics = of_first_rank(metrics, self._device)
        entry = {
            "epoch": len(status.history) + 1,
            "step": status.step,
            "minutes": round(self._elapsed_s() / SECONDS_PER_MINUTE, 2),
            **prefixed("train", means_of(status.sums)),
            **prefixed("valid", metrics),
            "valid.time_s": time.monotonic() - started_s,
        }
        status.history.append(of_first_rank(entry, self._device))
        status.sums = {}
        self._keep_best(task.score(metrics))
        if self._recorder is not None:
            self._recorder.epoch(self._state(), entry)
            self._write_epoch()
            self._recorder.tell(entry)

    def _keep_best(self, score: tuple[float, ...] | None) -> None:
        status, basis = self._status, self._task.basis()
        if score is None:
            return
        if status.best_epoch and basis == status.best_basis and score <= status.best_score:
            return
        status.best_epoch, status.best_score = len(status.history), score
        status.best, status.best_basis = self._weights(), basis

    def _write_epoch(self) -> None:
        """Write what follows from the state after an epoch; once more does no harm."""
        assert self._recorder is not None
        status = self._status
        has_ended = status.step == status.history[-1]["step"]
        is_best = status.best_epoch == len(status.history)
        self._recorder.write(
            status.history,
            last=self._weights() if has_ended else None,
            best=status.best if is_best else None,
        )

    def _conclude(self) -> Outcome:
        """Write the last weights and the best ones where others look for them."""
        status, task = self._status, self._task
        last = status.history[-1]
        weights, best = self._weights(), last
        best_weights: Weights = weights
        if status.best_epoch and status.best_basis == task.basis():
            best_weights, best = status.best, status.history[status.best_epoch - 1]
        added = of_first_rank(dict(task.conclude(best_weights, best)), self._device)
        best = {**best, **added}
        if self._rank == 0:
            self._outputs.write_last(weights, last)
            self._outputs.write_result(best_weights, best)
        barrier()
        return Outcome(best, status.history)

    def _parts(self) -> dict[str, nn.Module]:
        """Return what is validated and exported: averages where there are some."""
        averages = {name: average.network for name, average in self._averages.items()}
        return {**self._task.parts, **averages}

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """Copy the weights of what is exported."""
        return {
            name: {n: value.detach().cpu().clone() for n, value in part.state_dict().items()}
            for name, part in self._parts().items()
        }

    def _state(self) -> TrainingState:
        """Return everything that a resumed run needs."""
        status = self._status
        status.elapsed_s = self._elapsed_s()
        self._finish_step()
        parts = {name: part.state_dict() for name, part in self._task.parts.items()}
        averages = {n: average.network.state_dict() for n, average in self._averages.items()}
        optimizers = {
            name: [optimizer.state_dict() for optimizer in optimizers]
            for name, optimizers in self._optimizers.items()
        }
        if xla.is_xla(self._device):
            parts, averages, optimizers = xla.on_cpu((parts, averages, optimizers))
        return {
            "step": status.step,
            "parts": parts,
            "averages": averages,
            "optimizers": optimizers,
            "progress": dict(vars(status)),
            "memory": dict(self._task.memory()),
        }

    def _resume(self) -> None:
        """Go on from the newest state, or begin with an empty folder."""
        if self._rank == 0:
            self._outputs.remove_leftovers()
        state = self._outputs.states.load_for_all(self._device)
        if state is None:
            if self._rank == 0:
                self._outputs.start_anew()
            return
        for name, part in self._task.parts.items():
            part.load_state_dict(state["parts"][name])
        for name, average in self._averages.items():
            average.network.load_state_dict(state["averages"][name])
        for name, optimizers in self._optimizers.items():
            for optimizer, saved in zip(optimizers, state["optimizers"][name], strict=True):
                for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=False):
                    if "fused" in own:
                        # It belongs to the device, and not to the training.
                        group["fused"] = own["fused"]
                optimizer.load_state_dict(saved)
        for name, value in state["progress"].items():
            setattr(self._status, name, value)
        self._task.recall(state["memory"])
        self._log.info(
            "resumed after %d epochs, at step %d", len(self._status.history), self._status.step
        )

    def _log_start(self) -> None:
        length = self._plan.length
        limits = [
            f"{length.steps} steps" if length.steps > 0 else "",
            f"{length.minutes:g} minutes" if length.minutes > 0 else "",
        ]
        self._log.info(
            "training on %s: %.2f M weights, %s, %d processes, %s",
            self._task.summary(),
            sum(p.numel() for part in self._task.parts.values() for p in part.parameters()) / 1e6,
            " or ".join(filter(None, limits)),
            self._world_size,
            self._device,
        )


def _figures(values: Mapping[str, float], names: Sequence[str]) -> str:
    """Name some figures, of those that there are, in few characters."""
    return ", ".join(f"{n.replace('_', ' ')} {values[n]:.3g}" for n in names if n in values)
