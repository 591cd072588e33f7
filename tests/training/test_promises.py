"""What each training promises, all keep: one test per promise, over toys and real systems."""

import errno
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.errors import CheckpointError, TrainingError
from mixprint.storage.atomic import read_json
from mixprint.training import engine
from mixprint.training import state as training_state
from mixprint.training.recorder import TIMES
from mixprint.training.task import Length, Task
from tests.processes import start_ranks
from tests.training.boundaries import Boundaries
from tests.training.cases import STEPS, STEPS_PER_EPOCH, run_case, steps_noted
from tests.training.conftest import Prepared
from tests.training.trials import (
    KilledError,
    as_rank,
    killed_in_step,
    newest_state,
    result_hashes,
    tensors,
)


def some(prepared: Prepared, numbers: range, every: int) -> range:
    """All of the numbers for toys, some of them for what takes longer."""
    return numbers if prepared.case.is_toy else numbers[::every]


def killed(prepared: Prepared, folder: Path, move: int, **changes: Any) -> None:
    """Train until some move of the weights, and leave the folder as a kill does."""
    with killed_in_step(move, prepared.case.moved_by), pytest.raises(KilledError):
        prepared.run(folder, **changes)


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in TIMES} for entry in history]


def test_figures_have_names_of_one_scheme(prepared: Prepared) -> None:
    seen = prepared.told
    history = read_json(prepared.whole / "history.json")
    assert [(e["epoch"], e["step"]) for e in history] == [(1, 3), (2, 6)]
    # The means of an epoch are no points of the curves of its steps.
    assert [(e["step"], {k: v for k, v in e.items() if k[:6] != "train."}) for e in history] == [
        (step, values) for step, values in seen if "epoch" in values
    ]
    assert [step for step, values in seen if "epoch" not in values] == list(range(1, STEPS + 1))
    for values in (*history, *(values for _, values in seen)):
        named = values.keys() - {"epoch", "step", "minutes"}
        assert {name.split(".")[0] for name in named} <= {"train", "valid"}
        assert ("train.loss" in named) == (values in history or "epoch" not in values)


def test_a_training_killed_at_any_step_ends_as_an_undisturbed_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    for move in some(prepared, range(1, prepared.case.moves + 1), 3):
        folder = tmp_path / str(move)
        killed(prepared, folder, move)
        told: list[tuple[int, dict[str, float]]] = []
        outcome = prepared.run(folder, on_metrics=lambda *metrics, told=told: told.append(metrics))
        assert result_hashes(folder) == prepared.hashes, move
        assert without_times(outcome.history) == without_times(prepared.outcome.history)
        # Epochs that were whole are not told of again.
        lost = (move - 1) // (prepared.case.moves // STEPS) // STEPS_PER_EPOCH
        epochs = [values["epoch"] for _, values in told if "epoch" in values]
        assert epochs == list(range(1 + lost, 3))


def train_process(name: str, data: Any, folder: Path, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    run_case(name, data, folder)


def test_a_process_that_the_system_kills_leaves_what_is_needed(
    prepared: Prepared, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    arguments = (prepared.name, prepared.data, tmp_path, torch.get_num_threads())
    process = context.Process(target=train_process, args=arguments)
    process.start()
    deadline_s = time.monotonic() + 120
    while not list(tmp_path.glob("state/*/state-0.json")):
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "no state was saved in two minutes"
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    prepared.run(tmp_path)
    assert result_hashes(tmp_path) == prepared.hashes


def test_a_kill_at_every_file_boundary_leaves_a_training_that_resumes(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_dir = tmp_path / "watched"
    out_dir.mkdir()
    boundaries = Boundaries(out_dir, tmp_path / "copies")
    with boundaries.watch():
        prepared.run(out_dir)
    assert result_hashes(out_dir) == prepared.hashes
    assert len(boundaries.names) > 60
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time of what follows
    folders = boundaries.folders()
    first, every = (0, 3) if prepared.case.is_toy else (31, 31)  # the very first is a new folder
    for number in range(first, len(folders), every):
        folder, name = folders[number], boundaries.names[number]
        prepared.run(folder)
        assert result_hashes(folder) == prepared.hashes, name
        left = {path.name for path in folder.iterdir()}
        assert left == {path.name for path in prepared.whole.iterdir()}, name
        shutil.rmtree(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_damaged_state_costs_the_steps_since_the_one_before(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It is the engine that notices: for both kinds of damage the toys show it.
    for damage in (flip_a_bit, cut_short) if prepared.case.is_toy else (flip_a_bit,):
        folder = tmp_path / damage.__name__
        killed(prepared, folder, 5 * prepared.case.moves // STEPS)
        damage(max(folder.glob("state/*/*.pt"), key=lambda path: path.stat().st_mtime_ns))
        caplog.clear()
        with caplog.at_level("INFO", "mixprint"):
            prepared.run(folder)
        assert "goes on from the state before" in caplog.text
        assert "resumed after 1 epochs, at step 3" in caplog.text
        assert result_hashes(folder) == prepared.hashes


def test_a_full_disk_stops_a_training_that_then_goes_on(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, original = itertools.count(1), torch.save

    def save(*arguments: Any) -> None:
        original(*arguments)
        if next(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        message = r"save the state of step 3, found: .*the disk full.*that is kept: that of step 2$"
        with pytest.raises(TrainingError, match=message):
            prepared.run(tmp_path)
    prepared.run(tmp_path)
    assert result_hashes(tmp_path) == prepared.hashes


def test_readers_can_be_changed_in_the_middle_of_an_epoch(
    prepared: Prepared, tmp_path: Path
) -> None:
    killed(prepared, tmp_path, 3 * prepared.case.moves // STEPS)
    prepared.run(tmp_path, num_workers=1)
    assert result_hashes(tmp_path) == prepared.hashes


def train_rank(rank: int, folder: str, name: str, data: Any) -> None:
    with as_rank(rank, folder), steps_noted(Path(folder) / f"rank{rank}.txt"):
        run_case(name, data, Path(folder) / "ranks", is_random=False, save_steps=1)


def test_two_ranks_go_on_where_one_was_killed(prepared: Prepared, tmp_path: Path) -> None:
    with steps_noted(tmp_path / "one.txt"):
        prepared.run(tmp_path / "one", is_random=False)
    # The third step is lost: its examples come again, so that the state's are what counts.
    killed(prepared, tmp_path / "ranks", 3 * prepared.case.moves // STEPS, is_random=False)
    assert newest_state(tmp_path / "ranks")["step"] == 2
    start_ranks(train_rank, str(tmp_path), prepared.name, prepared.data)
    one, *ranks = (
        (tmp_path / name).read_text().splitlines() for name in ("one.txt", "rank0.txt", "rank1.txt")
    )
    assert abs(len(ranks[0]) - len(ranks[1])) <= len(one) // 2
    assert Counter(ranks[0] + ranks[1]) == Counter(
        line for line in one if int(line.split()[0]) >= 2
    )
    both, expected = (read_json(tmp_path / n / "history.json") for n in ("ranks", "one"))
    for entry, expected_entry in zip(both, expected, strict=True):
        assert entry["train.loss"] == pytest.approx(expected_entry["train.loss"], abs=1e-4)


def first_step(rank: int, folder: str, name: str, data: Any) -> None:
    with as_rank(rank, folder):
        run_case(name, data, Path(folder) / "ranks", is_random=False, length=Length(steps=1))


def test_gradients_of_two_ranks_equal_those_of_one(prepared: Prepared, tmp_path: Path) -> None:
    prepared.run(tmp_path / "one", is_random=False, length=Length(steps=1))
    start_ranks(first_step, str(tmp_path), prepared.name, prepared.data)
    # After one step the first moment of Adam is a tenth of the gradient.
    ranks, one = (
        {n: 10 * v for n, v in tensors(newest_state(tmp_path / kind)) if n.endswith("exp_avg")}
        for kind in ("ranks", "one")
    )
    assert len(one) >= 4
    torch.testing.assert_close(ranks, one, atol=1e-5, rtol=0)


def test_a_training_of_another_identity_removes_what_would_be_confused(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(prepared.whole, tmp_path, dirs_exist_ok=True)
    assert (tmp_path / "checkpoint_epoch_2").is_dir()

    def other(task: Task[Any]) -> None:
        known = task.identity()
        task.identity = lambda: {**known, "other": True}  # type: ignore[method-assign]

    if prepared.case.keeps_others:
        with pytest.raises(CheckpointError, match="expected a state of other True, found None"):
            prepared.run(tmp_path, change=other)
        assert result_hashes(tmp_path) == prepared.hashes
        return
    killed(prepared, tmp_path, 1, change=other)
    assert "other data, parameters or code; training starts anew" in caplog.text
    # The result of the older one stays until the newer one has its own.
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"config.json", "state", "logs"}
    assert not left & {"best_model", "final_model", "checkpoint_epoch_2", "history.json"}
    prepared.run(tmp_path, change=other)
    assert len(list(tmp_path.glob("state/*/identity.json"))) == 1


def test_the_last_checkpoints_are_kept_beside_the_best_and_the_final_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    outcome = prepared.run(tmp_path, valid_steps=2, keep_checkpoints=2)
    found = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert found >= {"checkpoint_epoch_2", "checkpoint_epoch_3", "best_model", "final_model"}
    assert "checkpoint_epoch_1" not in found

    def weights(name: str) -> list[bytes]:
        folder = tmp_path / name
        return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]

    assert weights("final_model") == weights("checkpoint_epoch_3") != []
    best = int(outcome.best["epoch"])
    if best > 1:
        assert weights("best_model") == weights(f"checkpoint_epoch_{best}")


def test_the_curves_have_each_step_once_after_a_resumption(
    prepared: Prepared, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Killed in step 6: the steps 5 and 6 are lost and taken again.
    killed(prepared, tmp_path, prepared.case.moves)
    prepared.run(tmp_path)
    assert len(list((tmp_path / "logs").iterdir())) == 2
    curves = [EventAccumulator(str(f / "logs")).Reload() for f in (tmp_path, prepared.whole)]
    losses, expected = ([(e.step, e.value) for e in c.Scalars("train/loss")] for c in curves)
    assert losses == expected
    assert sorted({step for step, _ in losses}) == list(range(1, STEPS + 1))
    for curve in curves:
        assert [event.step for event in curve.Scalars("valid/time_s")] == [3, 6]


def test_a_second_training_in_the_same_folder_is_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_state, "LOCK_PATIENCE_S", 0.1)
    with (
        training_state.only_training(tmp_path / "state"),
        pytest.raises(TrainingError, match="expected to be the only training there"),
    ):
        prepared.run(tmp_path)


def test_a_gradient_that_is_not_finite_stops_before_a_weight_moves_and_names_the_data(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    moved: list[int] = []
    monkeypatch.setattr(prepared.case.moved_by, "step", lambda *_: moved.append(1))
    message = r"^step 0: expected a finite gradient norm, found inf; .*" + prepared.case.named
    with pytest.raises(TrainingError, match=message):
        prepared.run(tmp_path)
    assert moved == []
    assert not list(tmp_path.glob("state/*/*.pt"))


def test_patience_ends_a_training(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_better(task: Task[Any]) -> None:
        task.score = lambda _: (0.0,)  # type: ignore[method-assign]

    outcome = prepared.run(
        tmp_path,
        valid_steps=1,
        length=Length(steps=STEPS, patience=2),
        keep_checkpoints=0,
        change=never_better,
    )
    assert (len(outcome.history), outcome.best["epoch"]) == (3, 1)
    assert not list(tmp_path.glob("checkpoint_epoch_*"))


def test_minutes_end_a_training(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A minute passes in each step.
    monkeypatch.setattr(engine._Training, "_elapsed_s", lambda self: 60.0 * self._status.step)
    outcome = prepared.run(tmp_path, length=Length(minutes=2.0), valid_steps=STEPS)
    assert [(entry["step"], entry["minutes"]) for entry in outcome.history] == [(2, 2.0)]
    # Time that is used up is not given again.
    again = prepared.run(tmp_path, length=Length(minutes=2.0), valid_steps=STEPS)
    assert again.history == outcome.history


def test_every_network_goes_through_the_compiler(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part: compiled.append(part))
    parts: list[torch.nn.Module] = []

    def note(task: Task[Any]) -> None:
        parts.extend(task.parts.values())

    prepared.run(tmp_path, length=Length(steps=1), compile=True, change=note)
    assert compiled == parts != []


def test_half_precision_changes_a_little(prepared: Prepared, tmp_path: Path) -> None:
    # The first step of a network that starts as the identity does not depend on what it computes.
    first = prepared.run(tmp_path, length=Length(steps=2), precision="bfloat16")
    whole = prepared.run(tmp_path / "whole", length=Length(steps=2))
    assert first.best["train.loss"] == pytest.approx(whole.best["train.loss"], rel=0.1)
    assert first.best["train.loss"] != whole.best["train.loss"]


def test_the_history_is_that_of_the_result(prepared: Prepared) -> None:
    history = json.loads((prepared.whole / "history.json").read_text())
    assert history == prepared.outcome.history
    best = prepared.outcome.best
    entry = history[int(best["epoch"]) - 1]
    # What is validated may be measured once more when the training has ended.
    known = {name: value for name, value in entry.items() if not name.startswith("valid.")}
    assert best.items() >= known.items()
    assert best.keys() >= entry.keys()
