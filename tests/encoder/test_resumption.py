"""A training that is killed, wherever that is, ends as an undisturbed one."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mixprint.checkpoints import torchfile
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.data import SegmentSource
from mixprint.encoder.model import LogMel
from mixprint.encoder.settings import TrainConfig
from mixprint.errors import CheckpointError
from mixprint.storage.atomic import TEMPORARY_PREFIX
from tests.encoder.trials import KilledError, as_rank, newest_state, result_hashes, run

NUM_EPOCHS, STEPS_PER_EPOCH = 2, 3
NUM_STEPS = NUM_EPOCHS * STEPS_PER_EPOCH
# Without views that would have to be augmented and measured: these tests take many steps.
QUICK = {"negatives": ("songs", "siblings"), "shared_chain_weight": 0.0}


@contextmanager
def quick_input() -> Iterator[None]:
    """Let the network hear the samples themselves: what is tested here is not what it hears."""

    def levels(log_mel: LogMel, stems_BSCT: Tensor) -> Tensor:
        num_mels, num_frames = len(log_mel.filters_MF), 64
        first = stems_BSCT[..., : num_mels * num_frames]
        return first.flatten(1, 2).unflatten(-1, (num_mels, num_frames))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogMel, "forward", levels)
        yield


@pytest.fixture(scope="module", autouse=True)
def _quick_input() -> Iterator[None]:
    with quick_input():
        yield


@pytest.fixture(scope="module")
def config(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    return make_config(
        epochs=NUM_EPOCHS, film_dropout=0.3, save_steps=2, keep_checkpoints=1, log_steps=1, **QUICK
    )


@pytest.fixture(scope="module")
def undisturbed(
    config: TrainConfig, longer_set: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(config, longer_set, folder)
    return folder


@contextmanager
def killed_in_step(number: int) -> Iterator[None]:
    """Kill a training when it has moved the weights and before anything else knows of it."""
    calls = 0
    original = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW) -> None:
        nonlocal calls
        original(optimizer)
        calls += 1
        if calls == number:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        yield


@pytest.mark.parametrize("number", range(1, NUM_STEPS + 1))
def test_a_run_killed_at_any_step_ends_with_the_same_weights(
    config: TrainConfig, longer_set: Any, undisturbed: Path, tmp_path: Path, number: int
) -> None:
    with killed_in_step(number), pytest.raises(KilledError):
        run(config, longer_set, tmp_path)
    epochs: list[int] = []
    run(config, longer_set, tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert result_hashes(tmp_path) == result_hashes(undisturbed)
    # Epochs that were whole are not told of again.
    assert epochs == [e for e in (1, 2) if number <= e * STEPS_PER_EPOCH]
    history, expected = (
        json.loads((folder / "history.json").read_text()) for folder in (tmp_path, undisturbed)
    )
    for row, expected_row in zip(history, expected, strict=True):
        for times in ("epoch_s", "train_segments_per_s"):
            assert row.pop(times) > 0
            del expected_row[times]
        assert row == expected_row


def test_augmentations_and_dropout_resume_as_well(
    make_config: Callable[..., TrainConfig], longer_set: Any, tmp_path: Path
) -> None:
    config = make_config(epochs=1, film_dropout=0.3, save_steps=1, learn_temperature=True)
    run(config, longer_set, tmp_path / "whole")
    with killed_in_step(2), pytest.raises(KilledError):
        run(config, longer_set, tmp_path / "killed")
    run(config, longer_set, tmp_path / "killed")
    assert result_hashes(tmp_path / "killed") == result_hashes(tmp_path / "whole")


def train_process(config: TrainConfig, data: Any, out_dir: Path, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    with quick_input():
        run(config, data, out_dir)


def test_a_process_that_is_killed_by_the_system_leaves_what_is_needed(
    config: TrainConfig, longer_set: Any, undisturbed: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    arguments = (config, longer_set, tmp_path, torch.get_num_threads())
    process = context.Process(target=train_process, args=arguments)
    process.start()
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.glob("state/*/state-0.json")):
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline_s, "no state was saved in a minute"
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "final_model").exists(), "killed in the middle"
    run(config, longer_set, tmp_path)
    assert result_hashes(tmp_path) == result_hashes(undisturbed)


class Boundaries:
    """Copies a folder before every change to its files: what a kill there would leave.

    What Python has not handed to the system yet is in no copy, as it would be lost. Writers of
    native code, which announce nothing, give one more copy with half of their file.
    """

    _CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})

    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder, self._copies = folder, copies
        self._active = self._copying = False
        self._seen: set[tuple[object, ...]] = set()
        self.names: list[str] = []
        sys.addaudithook(self._hook)  # which can never be taken away again

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Copy at each boundary inside."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", self._after(os.fsync, "fsync"))
            patch.setattr(torch, "save", self._torn(torch.save, 1))
            patch.setattr(torchfile, "save_file", self._torn(safetensors.torch.save_file, 1))
            self._active = True
            try:
                yield
            finally:
                self._active = False

    def folders(self) -> list[Path]:
        return [self._copies / str(number) for number in range(len(self.names))]

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active or self._copying:
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and event not in self._CHANGES:
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and str(self._folder) in str(path):
            self._copy(f"{event} {Path(path).name}")

    def _after(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            result = original(*arguments)
            if self._active:
                self._copy(name)
            return result

        return wrapped

    def _torn(self, original: Callable[..., Any], position: int) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            result = original(*arguments)
            path = Path(arguments[position])
            content = path.read_bytes()
            self._copying = True
            path.write_bytes(content[: len(content) // 2])
            self._copying = False
            self._copy(f"half of {path.name}")
            self._copying = True
            path.write_bytes(content)
            self._copying = False
            return result

        return wrapped

    def _copy(self, name: str) -> None:
        """Copy the folder, unless it is as it was: logs do not count, they come at any time."""
        self._copying = True
        content = tuple(
            (str(path.parent), path.name.startswith(TEMPORARY_PREFIX) or path.name, digest(path))
            for path in sorted(self._folder.rglob("*"))
            if "logs" not in path.parts
        )
        if content not in self._seen:
            self._seen.add(content)
            shutil.copytree(self._folder, self._copies / str(len(self.names)))
            self.names.append(name)
        self._copying = False


def digest(path: Path) -> int | None:
    return hash(path.read_bytes()) if path.is_file() else None


def test_a_kill_at_every_file_boundary_leaves_a_run_that_resumes(
    config: TrainConfig,
    longer_set: Any,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out_dir = tmp_path / "watched"
    out_dir.mkdir()
    boundaries = Boundaries(out_dir, tmp_path / "copies")
    with boundaries.watch():
        run(config, longer_set, out_dir)
    expected = result_hashes(undisturbed)
    assert result_hashes(out_dir) == expected
    assert len(boundaries.names) > 60
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time of what follows
    for name, folder in zip(boundaries.names, boundaries.folders(), strict=True):
        check_readable(folder, name)
        run(config, longer_set, folder)
        assert result_hashes(folder) == expected, name
        left = {path.name for path in folder.iterdir()}
        assert left == {path.name for path in undisturbed.iterdir()}, name
        shutil.rmtree(folder)


def check_readable(folder: Path, name: str) -> None:
    """Whatever has the name of an encoder can be read as one."""
    for path in [*folder.glob("checkpoint_epoch_*"), *folder.glob("*_model")]:
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            pytest.fail(f"{name}: {error}")


def test_a_damaged_state_costs_the_steps_since_the_one_before(
    config: TrainConfig,
    longer_set: Any,
    undisturbed: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with killed_in_step(5), pytest.raises(KilledError):
        run(config, longer_set, tmp_path)
    newest = max(tmp_path.glob("state/*/*.pt"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level("INFO", "mixprint"):
        run(config, longer_set, tmp_path)
    assert "goes on from the state before" in caplog.text
    assert "resumed after 1 whole epochs, at step 3" in caplog.text
    assert result_hashes(tmp_path) == result_hashes(undisturbed)


def test_a_training_of_other_parameters_removes_what_it_would_confuse(
    config: TrainConfig, make_config: Callable[..., TrainConfig], longer_set: Any, tmp_path: Path
) -> None:
    run(config, longer_set, tmp_path)
    assert (tmp_path / "checkpoint_epoch_2").is_dir()
    other = make_config(epochs=1, temperature=0.2, keep_checkpoints=2, **QUICK)
    with killed_in_step(2), pytest.raises(KilledError):
        run(other, longer_set, tmp_path)
    # The result of the older one stays until the newer one has its own.
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "config.json",
        "state",
        "logs",
    }
    assert load_checkpoint(tmp_path).metadata["train"]["temperature"] == 0.1
    run(other, longer_set, tmp_path)
    assert load_checkpoint(tmp_path).metadata["train"]["temperature"] == 0.2
    assert [path.name for path in tmp_path.glob("checkpoint_*")] == ["checkpoint_epoch_1"]


def test_the_last_checkpoints_are_kept_beside_the_best_and_the_final_one(
    make_config: Callable[..., TrainConfig], longer_set: Any, tmp_path: Path
) -> None:
    metrics = run(make_config(epochs=4, keep_checkpoints=2, **QUICK), longer_set, tmp_path)
    found = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert found == {
        "checkpoint_epoch_3",
        "checkpoint_epoch_4",
        "best_model",
        "final_model",
        "state",
        "logs",
    }
    history = json.loads((tmp_path / "history.json").read_text())
    last, final, best, result = (
        load_checkpoint(tmp_path / name)
        for name in ("checkpoint_epoch_4", "final_model", "best_model", ".")
    )
    assert last.fingerprint == final.fingerprint
    assert final.metadata["epoch"] == 4
    assert final.metadata["metrics"]["valid_loss"] == history[3]["valid_loss"]
    assert best.fingerprint == result.fingerprint
    assert best.metadata["epoch"] == metrics["best_epoch"]
    chosen = history[int(metrics["best_epoch"]) - 1]
    assert best.metadata["metrics"]["valid_recall_at_1"] == chosen["valid_recall_at_1"]


def test_no_checkpoints_are_written_if_none_are_kept(
    make_config: Callable[..., TrainConfig], tiny_set: Any, tmp_path: Path
) -> None:
    run(make_config(epochs=1, keep_checkpoints=0, **QUICK), tiny_set, tmp_path)
    assert not list(tmp_path.glob("checkpoint_*"))
    assert (tmp_path / "best_model").is_dir()


@contextmanager
def segments_noted(path: Path) -> Iterator[None]:
    """Note in a file what is read of songs to train on."""
    original = SegmentSource.stems

    def stems(source: SegmentSource, reference: Any, crop: float = 0.0) -> Any:
        if not reference.track_id.startswith("g"):  # the song for validation
            with path.open("a") as file:
                file.write(f"{reference.track_id} {reference.segment}\n")
        return original(source, reference, crop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentSource, "stems", stems)
        yield


def train_rank(rank: int, folder: str, config: TrainConfig, data: Any) -> None:
    with as_rank(rank, folder), quick_input(), segments_noted(Path(folder) / f"rank{rank}.txt"):
        run(config, data, Path(folder) / "out")


def test_two_processes_go_on_with_what_one_has_not_seen(
    make_config: Callable[..., TrainConfig],
    longer_set: Any,
    tmp_path: Path,
    start_ranks: Callable[..., None],
) -> None:
    config = make_config(epochs=1, film_dropout=0.0, save_steps=1, **QUICK)
    run(config, longer_set, tmp_path / "one")
    # The second step is lost: its samples come again, so that the state's are what counts.
    with (
        segments_noted(tmp_path / "before.txt"),
        killed_in_step(2),
        pytest.raises(KilledError),
    ):
        run(config, longer_set, tmp_path / "out")
    assert newest_state(tmp_path / "out")["step"] == 1
    start_ranks(train_rank, str(tmp_path), config, longer_set)
    before, *ranks = (
        (tmp_path / name).read_text().splitlines()
        for name in ("before.txt", "rank0.txt", "rank1.txt")
    )
    per_step = 8  # four pairs
    assert len(before) == 2 * per_step
    assert [len(rank) for rank in ranks] == [per_step, per_step]  # half of two steps each
    seen = Counter(before[:per_step]) + Counter(ranks[0]) + Counter(ranks[1])
    # An epoch shows two segments of each track, and here a track has two.
    assert seen == {f"{song}{mix} {s}": 1 for song in "abcdef" for mix in (0, 1) for s in (0, 1)}
    one, out = (
        json.loads((tmp_path / name / "history.json").read_text())[0] for name in ("one", "out")
    )
    assert out["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)


def test_workers_can_be_changed_in_the_middle_of_an_epoch(
    config: TrainConfig,
    make_config: Callable[..., TrainConfig],
    longer_set: Any,
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    with killed_in_step(3), pytest.raises(KilledError):
        run(config, longer_set, tmp_path)
    changed = {f: getattr(config, f) for f in ("epochs", "film_dropout", *QUICK)}
    run(
        make_config(**changed, save_steps=2, keep_checkpoints=1, log_steps=1, num_workers=1),
        longer_set,
        tmp_path,
    )
    assert result_hashes(tmp_path) == result_hashes(undisturbed)


def test_the_log_has_each_step_once_after_a_resumption(
    config: TrainConfig, longer_set: Any, undisturbed: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Killed in step 6: the steps 5 and 6 are lost and taken again.
    with killed_in_step(6), pytest.raises(KilledError):
        run(config, longer_set, tmp_path)
    run(config, longer_set, tmp_path)
    assert len(list((tmp_path / "logs").iterdir())) == 2
    logs = [EventAccumulator(str(folder / "logs")).Reload() for folder in (tmp_path, undisturbed)]
    losses, expected = (
        [(event.step, event.value) for event in log.Scalars("train/loss")] for log in logs
    )
    assert losses == expected
    assert [step for step, _ in losses] == list(range(1, NUM_STEPS + 1))
    for log in logs:
        steps = [event.step for event in log.Scalars("epoch/valid_recall_at_1")]
        assert steps == [3, 6]
