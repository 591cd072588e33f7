"""How busy a GPU is, as its driver says it."""

import os
from pathlib import Path

import pytest

from benchmarks import busy
from benchmarks.busy import BusyMeter
from tests.processes import wait_until


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 40", 40.0), ("echo '[N/A]'", None), ("echo no devices; exit 6", None)],
)
def test_how_busy_a_gpu_is_comes_from_its_driver(
    script: str, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(busy, "BUSY_EVERY_S", 0.01)
    meter = BusyMeter("GPU-1234")
    meter.start()
    # The second question comes when the first answer is taken.
    wait_until(lambda: asked.exists() and len(asked.read_text().splitlines()) > 1)
    assert meter.stop() == expected
    assert "--id=GPU-1234 --query-gpu=utilization.gpu" in asked.read_text()


def test_without_the_driver_nothing_is_known_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    meter = BusyMeter("GPU-1234")
    meter.start()
    assert meter.stop() is None
