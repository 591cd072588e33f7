"""What the engine promises to any task, on toys."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.errors import TrainingError
from mixprint.training import state as training_state
from mixprint.training.engine import Outcome, train
from mixprint.training.recorder import TIMES
from mixprint.training.task import Length
from tests.training.toys import STEPS, TOYS, AdversarialToy, AveragedToy, Points, plan
from tests.training.trials import (
    KilledError,
    as_rank,
    killed_in_step,
    newest_state,
    result_hashes,
    tensors,
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
    assert [step for step, values in seen if "train.loss" in values] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("weights.safetensors", "config.json", "history.json", "state", "logs"),
        *("best_model", "final_model", "checkpoint_epoch_2"),
    }


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    name: str, workers: int, tmp_path: Path
) -> None:
    run(name, tmp_path / "whole", num_workers=workers)
    for number in range(1, 1 + STEPS * len(TOYS[name](plan(), torch.device("cpu")).parts)):
        folder = tmp_path / str(number)
        with killed_in_step(number, torch.optim.Adam), pytest.raises(KilledError):
            run(name, folder)
        outcome = run(name, folder)
        assert result_hashes(folder) == result_hashes(tmp_path / "whole"), number
        expected = json.loads((tmp_path / "whole" / "history.json").read_text())
        for entry, expected_entry in zip(outcome.history, expected, strict=True):
            assert entry.keys() == expected_entry.keys() >= TIMES
            assert {k: v for k, v in entry.items() if k not in TIMES} == {
                k: v for k, v in expected_entry.items() if k not in TIMES
            }


def train_rank(rank: int, folder: str, name: str) -> None:
    AveragedToy.dropout = 0.0  # masks are each rank's own; this process is the test's
    with as_rank(rank, folder):
        run(name, Path(folder) / "ranks", length=Length(steps=2))


@pytest.mark.parametrize("name", TOYS)
def test_two_ranks_learn_what_one_does(
    name: str, tmp_path: Path, start_ranks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AveragedToy, "dropout", 0.0)
    run(name, tmp_path / "one", length=Length(steps=2))
    start_ranks(train_rank, str(tmp_path), name)
    ranks, one = (dict(tensors(newest_state(tmp_path / kind))) for kind in ("ranks", "one"))
    assert len(one) > 20
    torch.testing.assert_close(ranks, one, atol=1e-5, rtol=0)


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


def test_a_gradient_that_is_not_finite_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: math.inf)
    with pytest.raises(TrainingError, match=r"step 0: expected a finite gradient norm, found inf"):
        run("averaged", tmp_path)


def test_a_second_training_in_the_same_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_state, "LOCK_PATIENCE_S", 0.1)
    with (
        training_state.only_training(tmp_path / "state"),
        pytest.raises(TrainingError, match="expected to be the only training there"),
    ):
        run("averaged", tmp_path)


def test_patience_ends_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AveragedToy, "validate", lambda *_: {"distance": 1.0})
    length = Length(steps=30, patience=2)
    outcome = run("averaged", tmp_path, length=length)
    assert (len(outcome.history), outcome.best["epoch"]) == (3, 1)


def test_minutes_end_a_training_wherever_it_is(tmp_path: Path) -> None:
    outcome = run("averaged", tmp_path, length=Length(minutes=0.01), valid_steps=1_000_000)
    (entry,) = outcome.history
    assert entry["step"] > 0
    assert 0.01 <= entry["minutes"] < 0.1
    # Time that is used up is not given again.
    assert run("averaged", tmp_path, length=Length(minutes=0.01)).history == outcome.history


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
