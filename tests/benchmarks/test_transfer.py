"""The tables of the benchmark of transfer, and one small run of what it times."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import transfer
from benchmarks.transfer import TCN_STEP, WAYS, Job, measure, table
from mixprint.audio.levels import true_peak_dbtp


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


def test_a_method_gets_the_target_and_its_output_a_safe_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As what the command writes."""
    noise_SCT = 0.1 * torch.randn(4, 2, 44_100, generator=torch.Generator().manual_seed(0))
    target_SCT = 0.5 * noise_SCT.flip(-1)

    def louder(segments_SCT: list[Tensor], *_: Any, **more: Any) -> Any:
        assert torch.equal(more["reference_SCT"], target_SCT)
        return SimpleNamespace(stems_SCT=10 * segments_SCT[0])

    monkeypatch.setattr(transfer, "fit_style", louder)
    monkeypatch.setattr(transfer.Style, "of", lambda *_, **__: None)
    encoder: Any = SimpleNamespace(standardisation=None)
    method = transfer.as_method(WAYS["console"], encoder, 1)
    # The input's true peak is kept where it is below -1 dBTP.
    for gain, peak_dbtp in ((0.5, true_peak_dbtp(0.5 * noise_SCT.sum(0))), (20.0, -1.0)):
        output_SCT = method(gain * noise_SCT, target_SCT)
        assert true_peak_dbtp(output_SCT.sum(0)) == pytest.approx(peak_dbtp, abs=1e-3)


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
