"""Settings for transfers that take seconds, and short pages."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mixprint.transfer.settings import Hyperparameters


def settings(**more: object) -> Hyperparameters:
    """Return settings of one step on 3 s, with changes laid over them."""
    values: dict[str, object] = {
        "optimize_target": "features",
        "num_steps": 1,
        "lr": 1e-3,
        "receptive_field": 0.01,
        "segment_duration": 3.0,
        "segment_offset": 0.0,
        "seed": 1,
    }
    return Hyperparameters(**(values | more))  # type: ignore[arg-type]


def write_short_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write hardly anything for a page, which takes longer than all the rest of a transfer."""
    path.write_text(metrics["method"])


def quick_null_db(*_: object) -> float:
    """Stand for how far a stem is from a filter, which takes half a second to measure."""
    return -60.0


@contextmanager
def reports_cut_short() -> Iterator[None]:
    """Have transfers of this process write hardly anything for a page; it has tests of its own.

    What each stem is away from a filter, which pages show and which has tests too, is not measured.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixprint.transfer.pair.write_report", write_short_report)
        patch.setattr("mixprint.transfer.report.artefacts._null_db", quick_null_db)
        yield
