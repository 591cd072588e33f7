"""The tables of the benchmark of transfer, and one small run of what it times."""

from typing import Any

import pytest
import torch

from benchmarks import transfer
from benchmarks.transfer import TCN_STEP, WAYS, Job, measure, table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SEGMENT_S", 3.0)
    monkeypatch.setattr(transfer, "TCN_DILATIONS", (1, 4))
    # Other tests in this process expect the threads that they began with.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.mark.parametrize("work", [TCN_STEP, "console", "tcn", "zero-shot"])
def test_a_step_is_timed(work: str) -> None:
    found = measure(Job(work=work, runs=1))
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 0
    assert ("plain_seconds" in found) == (work == TCN_STEP)


def test_tables() -> None:
    values: dict[str, Any] = {
        "machine": {"processor": "some"},
        "steps": [
            {"work": TCN_STEP, "device": "cpu", "threads": 2, "seconds": 0.5}
            | {"plain_seconds": 6.0, "peak_bytes": 1e9}
        ],
        "pairs": [
            {"way": "console", "seconds": 61.2, "num_steps_run": 60, "device": "cpu"}
            | {"timings": {"separation_s": 2.4, "optimisation_s": 40.0}}
        ],
    }
    text = table(values)
    assert f"| {TCN_STEP} | cpu | 2 | 0.50 | 12.0 | 1000 |" in text
    assert "| console | 61 | 2 | 40 | 60 | cpu |" in text


def test_every_way_is_known() -> None:
    assert set(WAYS) >= {"console", "tcn", "zero-shot"}
