"""The tables of the benchmark of the console, and one small run of what it times."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import console, console_exports, console_speed
from benchmarks.console import TABLES, parse, rivals, table
from benchmarks.console_speed import CONSOLE, PASSES, RENDERING, STEP, Job, jobs, measure
from mixprint.evaluation.mix_distances import MEASURES
from mixprint.evaluation.objective import TERMS
from mixprint.evaluation.recovery_benchmark import PAIR_MEASURES
from mixprint.evaluation.transfer_benchmark import KINDS, NEARER_BY
from mixprint.transfer.methods.registry import shipped_methods
from mixprint.transfer.settings import Hyperparameters

INTERVAL = {"value": -0.5, "low": -0.6, "high": 0.4}


def test_the_defaults_are_those_of_the_command() -> None:
    args = parse([])
    assert args.cases == 96
    assert args.ways == shipped_methods()
    assert set(args.ways) >= {"console", "zero-shot"}
    assert args.kinds == list(KINDS)
    assert args.num_steps == Hyperparameters.num_steps
    assert args.tables == list(TABLES)


@pytest.mark.parametrize("work", [*PASSES, CONSOLE, STEP, RENDERING])
def test_every_work_is_timed(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests in this process expect the threads that they began with.
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(console_speed, "keep_freed_memory", lambda: None)
    found = measure(Job(work=work, has_backward=work != RENDERING, runs=1, duration_s=0.3))
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 0


def test_all_that_is_timed_is_timed_on_one_thread_and_two() -> None:
    todo = jobs(3)
    assert {job.work for job in todo} >= {*PASSES, CONSOLE, STEP, RENDERING}
    for job in todo:
        assert {other.threads for other in todo if other.work == job.work} == {1, 2}


def test_exports_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_exports, "DURATION_S", 0.5)
    monkeypatch.setattr(console_exports, "NUM_STYLES", 1)
    found = {row["export"]: row["deviation_db"] for row in console_exports.measure()}
    # Text has hundredths of a dB, and responses end 120 dB below their loudest tap.
    assert -100 < found["Equalizer APO: equalisers"] < -55
    assert found["impulse responses: equalisers and rooms"] < -80


def test_rivals_that_are_not_there_are_said_to_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = parse(["--rivals", str(tmp_path / "none"), "--finished", str(tmp_path)])
    with caplog.at_level(logging.WARNING):
        assert rivals(args) == []
    assert "the clips of the rivals are not here" in caplog.text
    text = console.MARKDOWN["rivals"]({"rows": [], "num_steps": 5})
    assert text == ["The clips of the rivals were not at hand."]


def test_tables() -> None:
    about = {"machine": {"processor": "some"}, "num_steps": 60, "recovery_steps": 7, "runs": 2}
    own = {"kind": "raw-to-mix", "stems": "true", "method": "console", "cases": 3}
    medians = own | {"seconds": 1.25} | dict.fromkeys(MEASURES, INTERVAL)
    rows: dict[str, Any] = {
        "quality": {
            "medians": [medians | {"nearer": dict.fromkeys(NEARER_BY, 0.75)}],
            "differences": {"nothing": [own | dict.fromkeys(MEASURES, INTERVAL)], "tcn": []},
        },
        "pairs": [
            {"method": "recovery", "pairs": 4}
            | dict.fromkeys(PAIR_MEASURES, INTERVAL)
            | {"time_percent": None}
        ],
        "rivals": [{"method": "StemFX", "clips": {"01": 1.18}, "mean": 1.18}],
        "real": [
            {"method": "controller", "sections": 3}
            | {kind: dict.fromkeys(TERMS, 0.02) for kind in ("published", "corrected")}
        ],
        "speed": [
            {"work": CONSOLE, "has_backward": True, "threads": 2, "seconds": 0.5}
            | {"peak_bytes": 1e9}
        ],
        "exports": [{"export": "text", "deviation_db": -71.2}],
    }
    text = table({name: {**about, "rows": rows[name]} for name in TABLES})
    cells = " -0.50 |" * len(MEASURES)
    assert f"| raw-to-mix | true | console | 3 |{cells} 75, 75 | 1.2 |" in text
    assert "| raw-to-mix | true | console | 3 | -0.50 [-0.60, +0.40] |" in text
    assert "`tcn`" not in text
    assert "| recovery | 4 | -0.50 [-0.60, 0.40] |" in text
    assert "| -0.50 [-0.60, 0.40] |  | -0.50 [-0.60, 0.40] |" in text
    assert "| StemFX | 1.18 | 1.18 |" in text
    assert "| controller | 3 | 20.00 | 0.20 | 2.00 | 2.00 | 0.02 | 0.100 | 0.0 |" in text
    assert f"| {CONSOLE} | yes | 2 | 0.500 | 1000 |" in text
    assert "| text | -71 |" in text
