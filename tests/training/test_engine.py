"""What the engine promises to any task, on toys."""

import io
import json
import math
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.errors import TrainingError
from mixprint.training.engine import Outcome, train
from mixprint.training.task import Length
from tests.training.toys import TOYS, AdversarialToy, AveragedToy, Points, plan
from tests.training.trials import (
    newest_state,
)


def run(name: str, folder: Path, on_metrics: Any = None, **changes: Any) -> Outcome:
    return train(lambda d: TOYS[name](plan(**changes), d), folder, on_metrics=on_metrics)


@pytest.mark.parametrize("name", TOYS)
def test_a_training_reaches_its_aim_and_leaves_last_and_best(name: str, tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    before = torch.random.get_rng_state()
    outcome = run(name, tmp_path, on_metrics=lambda step, values: seen.append((step, values)))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's randomness is its own
    history = json.loads((tmp_path / "history.json").read_text())
    assert history == outcome.history
    assert [(entry["epoch"], entry["step"]) for entry in history] == [(1, 3), (2, 6)]
    assert history[1]["valid.distance"] < history[0]["valid.distance"]
    assert outcome.best == history[1]
    assert [step for step, values in seen if "train.loss" in values] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("weights.safetensors", "config.json", "history.json", "state", "logs"),
        *("best_model", "final_model", "checkpoint_epoch_2"),
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_are_shown_inside_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixprint.progress.BAR_EVERY_S", 0.0)
    monkeypatch.setattr("mixprint.progress._num_columns", lambda _: 200)
    with redirect_stderr(Terminal()) as terminal:
        history = run("averaged", tmp_path).history
    loss, score = history[0]["train.loss"], -history[0]["valid.distance"]
    (bar,) = (text for text in terminal.getvalue().split("\r\x1b[K") if "2: took 1/3" in text)
    outer, inner = bar.partition("] ")[2].split(" | ")
    assert outer == f"trained 1/2 epochs, train.loss {loss:.3g}, best: epoch 1 with {score:.4g}"
    assert inner.startswith("epoch 2: took 1/3 steps, 0 s")


def test_without_a_terminal_steps_have_lines_and_epochs_their_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: dict[int, dict[str, float]] = {}
    with caplog.at_level("INFO"), redirect_stderr(io.StringIO()):
        entry = run("averaged", tmp_path, on_metrics=seen.setdefault).history[1]
    steps, epoch = (text for text in caplog.messages if text.startswith("epoch 2"))
    loss, rate = seen[6]["train.loss"], seen[6]["train.learning_rate"]
    assert steps.startswith("epoch 2: took 3/3 steps, ")
    assert steps.endswith(f", loss {loss:.3g}, learning rate {rate:.3g}")
    assert epoch.startswith(f"epoch 2, step 6: train.loss {entry['train.loss']:.4g}, valid.")


class Broken(Points):
    def __getitem__(self, step: int) -> Tensor:
        point_BD = super().__getitem__(step)
        if step == 1:
            point_BD[2, 0] = math.nan
        return point_BD


def test_a_loss_that_is_not_finite_stops_before_the_weights_move_and_names_its_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AveragedToy, "examples", lambda _: Broken())
    message = r"^step 1: expected a finite loss, found nan; track 2 segment 1$"
    with pytest.raises(TrainingError, match=message):
        run("averaged", tmp_path, save_steps=1)
    assert newest_state(tmp_path)["step"] == 1
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_loss_that_was_not_inspected_names_all_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdversarialToy, "examples", lambda _: Broken())
    with pytest.raises(TrainingError, match=r"loss, found nan; track 0 .*track 4 segment 1$"):
        run("adversarial", tmp_path)


def test_the_average_is_what_is_exported(tmp_path: Path) -> None:
    run("averaged", tmp_path)
    state = newest_state(tmp_path)
    # Decay of the short average that a short training has: 1 - 1 / (steps / 10 + 1).
    start = AveragedToy(plan(), torch.device("cpu")).parts["net"].state_dict()
    for name, average in state["averages"]["net"].items():
        weight = state["parts"]["net"][name]
        assert not torch.equal(average, weight)
        assert not torch.equal(average, start[name])
        assert torch.equal(state["progress"]["best"]["net"][name], average)


@pytest.mark.parametrize(
    ("first", "every", "ends"),
    [(0, 4, [4, 8, 10]), (3, 4, [3, 7, 10]), (10, 4, [10]), (0, 20, [10])],
)
def test_epochs_end_with_validations_and_with_the_training(
    first: int, every: int, ends: list[int]
) -> None:
    rhythm = plan(length=Length(steps=10), first_valid_step=first, valid_steps=every)
    assert sorted({rhythm.epoch_end(step) for step in range(10)}) == ends
    assert all(rhythm.epoch_end(step) > step for step in range(10))
    assert rhythm.num_epochs == len(ends)
