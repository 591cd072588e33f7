"""What the benchmark of the representation times, and one small run of what it starts."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from benchmarks import representation, representation_work
from benchmarks.representation_work import PARTS, READING, TRAINING, WORKS, Job, measure
from benchmarks.training_rank import NO_ROOM
from mixprint.errors import TrainingError
from mixprint.storage.atomic import read_json
from tests.benchmarks.conftest import NUM_TRAIN, SEGMENT_S

ROW: dict[str, Any] = {
    "work": "loader",
    "profile": "tiny",
    "device": "cpu",
    "processes": 1,
    "workers": 0,
    "threads": 1,
    "precision": "float32",
    "is_compiled": False,
    "batch_size": 4,
}


def small_job(work: str, data: Path) -> Job:
    """One epoch that warms up and one that is timed, of one batch each."""
    return Job(
        work=work,
        profile="tiny",
        batch_size=NUM_TRAIN,
        num_pairs=NUM_TRAIN,
        segment_s=SEGMENT_S,
        data=str(data),
        runs=1,
    )


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that this machine has so many cores."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)))

    return pretend


def test_a_trial_run_times_every_work_once() -> None:
    todo = representation.jobs(1, is_quick=True)
    assert sorted(job.work for job in todo) == sorted(WORKS)
    assert all(job.num_pairs >= job.batch_size for job in todo if job.work in READING)


def test_what_is_timed_needs_no_more_cores_than_there_are(cores: Callable[[int], None]) -> None:
    cores(2)
    assert {(job.threads, job.workers) for job in representation.loader_jobs(5)} == {
        (1, 0),
        (2, 0),
        (1, 1),
        (1, 2),
    }


def test_readers_read_an_epoch_in_whole_rounds(cores: Callable[[int], None]) -> None:
    cores(64)
    for job in representation.loader_jobs(5):
        steps, rest = divmod(job.num_pairs, job.batch_size)
        assert rest == 0
        assert job.workers == 0 or steps % job.workers == 0


def test_an_epoch_of_a_training_on_the_cpu_is_one_step() -> None:
    trainings = [job for job in representation.cpu_jobs(5) if job.work == TRAINING]
    assert {(job.processes, job.threads) for job in trainings} == {(1, 1), (1, 2), (2, 1)}
    assert all(job.num_pairs == job.batch_size for job in trainings)


@pytest.mark.parametrize(
    ("batch_size", "shared_gb", "expected"),
    # A batch of 24 pairs is 48 segments of 4 stems, 2 channels, 441,000 samples and 4 bytes: 0.68
    # GB; each reader holds two of them, and may take half of the room together with the others.
    [(24, 64.0, 4), (24, 6.0, 2), (384, 64.0, 1), (384, 0.064, 0)],
)
def test_readers_of_a_gpu_fit_into_shared_memory(
    batch_size: int,
    shared_gb: float,
    expected: int,
    cores: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores(16)
    room = SimpleNamespace(free=shared_gb * 1e9)
    monkeypatch.setattr(representation.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=128e9))
    assert representation.gpu_workers(batch_size, 1) == expected


def test_reading_is_timed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representation_work, "keep_freed_memory", lambda: None)
    job = small_job("loader, features measured", data)
    assert measure(job)["seconds"] > 0
    assert measure(replace(job, work="loader", workers=1))["seconds"] > 0


def test_a_training_on_two_processes_is_timed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is started finds the modules from anywhere.
    monkeypatch.setenv("PYTHONPATH", str(Path(representation.__file__).parents[1]))
    row = representation.run(replace(small_job(TRAINING, data), processes=2))
    assert row["seconds"] > 0
    # Two processes that have imported torch.
    assert row["peak_bytes"] > 2 * 150e6
    assert not {"data", "gpu_peak_bytes", "gpu_busy_percent"} & row.keys()


def test_a_part_of_the_works_leaves_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"processor": "one", "load_before": 0.5}
    monkeypatch.setattr("benchmarks.pipeline.machine", lambda: dict(about))
    asked: list[str] = []

    def run(job: Job) -> dict[str, Any]:
        asked.append(job.work)
        return ROW | {"work": job.work, "seconds": float(len(asked)), "peak_bytes": 1}

    def run_works(*works: str) -> dict[str, float]:
        arguments = ["--quick", "--out", str(tmp_path), "--works", *works]
        monkeypatch.setattr(sys, "argv", ["representation", *arguments])
        representation.main()
        rows = read_json(tmp_path / "representation.json")["speed"]
        return {row["work"]: row["seconds"] for row in rows}

    monkeypatch.setattr(representation, "run", run)
    assert run_works("encoder", "features") == {"features": 1.0, "encoder": 2.0}
    about["load_before"] = 0.9
    assert run_works("features") == {"features": 3.0, "encoder": 2.0}
    about["processor"] = "another"
    assert run_works("encoder") == {"encoder": 4.0}


def test_a_batch_that_does_not_fit_is_a_row_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(job: Job) -> representation_work.Forms:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fail(*_: object) -> None:
        raise TrainingError(NO_ROOM)

    monkeypatch.setitem(PARTS, "encoder", refuse)
    monkeypatch.setattr(representation_work, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(representation_work, "start_workers", fail)
    job = Job(work="encoder", profile="tiny", batch_size=4, num_pairs=4)
    for figures in (measure(job), measure(replace(job, work=TRAINING))):
        assert figures == {"is_too_large": True}
        text = representation.table({"machine": {}, "runs": 5, "speed": [ROW | figures]})
        header, row = text.splitlines()[2], text.splitlines()[4]
        assert row.count("|") == header.count("|")
        assert "out of memory" in row


def test_a_training_that_fails_otherwise_stops_the_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise TrainingError("step 1: expected a finite loss")

    monkeypatch.setattr(representation_work, "start_workers", fail)
    with pytest.raises(TrainingError, match="finite loss"):
        measure(Job(work=TRAINING, profile="tiny", batch_size=4, num_pairs=4))


def test_a_row_of_a_gpu_shows_both_memories_and_how_busy_it_is() -> None:
    figures = {"seconds": 0.0125, "peak_bytes": 2e9, "gpu_peak_bytes": 7e9}
    row = representation.line(ROW | figures | {"gpu_busy_percent": 87.4})
    assert row.endswith("| 12.5 | 80.0 |  | 87 | 2000 + 7000 |")
