"""Records of a training under way, by its first rank: curves, states, weights and the log.

An entry of the history, one per epoch:

epoch       number of the epoch, from 1
step        how many steps were taken
minutes     of work so far, over all resumed runs
train.*     means over the steps of the epoch: what `Task.learn` returns, `gradient_norm`,
            `learning_rate` and `step_s`, the seconds that a step takes
valid.*     what `Task.validate` returns, and `time_s`, the seconds that it took

A point of a curve `train.*` is the mean over the steps since the point before; there is one every
`log_steps` steps and one at the end of each epoch.
"""

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixprint.progress import Progress
from mixprint.training.curves import ScalarLog
from mixprint.training.outputs import TrainingOutputs, TrainingState
from mixprint.training.ranks import rank_and_world
from mixprint.training.task import Task, Weights

# What an entry holds that differs between equal trainings.
TIMES = frozenset({"minutes", "train.step_s", "valid.time_s"})

# Called on the first rank with a step and what was measured there: a point of the curves `train.*`,
# or the entry of an epoch less these.
MetricsCallback = Callable[[int, Mapping[str, float]], None]
# Figure -> its sum over steps, and over how many.
Sums = dict[str, tuple[float, int]]


class Recorder:
    """Curves, states and weights of a training under way."""

    def __init__(
        self,
        task: Task[Any],
        outputs: TrainingOutputs,
        curves: ScalarLog,
        on_metrics: MetricsCallback | None,
        log: logging.Logger,
    ) -> None:
        self._task, self._outputs, self._curves = task, outputs, curves
        self._on_metrics, self._log = on_metrics, log
        self._sums: Sums = {}

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a step that was taken, and log the mean of the last ones when it is time."""
        add_to(self._sums, values)
        if step % self._task.plan.log_steps == 0:
            self._log_steps(step)

    def _log_steps(self, step: int) -> None:
        """Log the mean of the steps since the point before, if there were any."""
        if not self._sums:
            return
        means = prefixed("train", means_of(self._sums))
        self._curves.add(step, means)
        if self._on_metrics is not None:
            self._on_metrics(step, means)
        self._sums = {}

    def save(self, state: TrainingState) -> None:
        """Save a state."""
        self._curves.flush()
        self._outputs.states.save(state)
        self._task.saved(self._outputs.states.oldest_step)

    def epoch(self, state: TrainingState, entry: Mapping[str, float]) -> None:
        """Log an epoch that has been validated, and save its state."""
        step = int(entry["step"])
        self._log_steps(step)
        figures = {n: v for n, v in _without_curves(entry).items() if n not in ("epoch", "step")}
        self._curves.add(step, figures)
        self.save(state)

    def tell(self, entry: Mapping[str, float]) -> None:
        """Tell of an epoch that is safe on disk."""
        shown = ", ".join(
            f"{name} {value:.4g}"
            for name, value in entry.items()
            if name == "train.loss" or name.startswith("valid.")
        )
        self._log.info("epoch %d, step %d: %s", entry["epoch"], entry["step"], shown)
        if self._on_metrics is not None:
            self._on_metrics(int(entry["step"]), _without_curves(entry))

    def write(
        self,
        history: Sequence[Mapping[str, float]],
        last: Weights | None,
        best: Weights | None,
    ) -> None:
        """Write what follows from the state after an epoch; once more does no harm.

        Args:
            history: its entry is the last one.
            last: its weights, unless they have gone on since.
            best: its weights as the best ones, if they are.
        """
        if last is not None:
            self._outputs.write_epoch(last, history[-1])
        if best is not None:
            self._outputs.write_best(best, history[-1])
        self._outputs.write_history(history)


def _without_curves(entry: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in entry.items() if not name.startswith("train.")}


def rank_progress(
    log: logging.Logger, verb: str, total: int | None, unit: str, *, has_lines: bool = True
) -> Progress:
    """Return a progress that is seen on the first rank only; the others count in silence.

    The arguments are those of `Progress`.
    """
    is_first = rank_and_world()[0] == 0
    return Progress(
        log,
        verb,
        total=total,
        unit=unit,
        terminal=None if is_first else io.StringIO(),
        has_lines=has_lines and is_first,
    )


def add_to(sums: Sums, values: Mapping[str, float]) -> None:
    """Add values up by name, in place."""
    for name, value in values.items():
        total, number = sums.get(name, (0.0, 0))
        sums[name] = total + value, number + 1


def means_of(sums: Sums) -> dict[str, float]:
    """Return the means; a step that did not measure a figure counts for nothing in it."""
    return {name: total / number for name, (total, number) in sums.items()}


def prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """Name values after what they were measured in, `train` or `valid`."""
    return {f"{prefix}.{name}": value for name, value in values.items()}
