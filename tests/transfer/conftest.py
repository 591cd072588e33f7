"""A standardisation for stems that are generated, and short pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, Standardisation
from mixprint.transfer import pair as songs_module


def write_short_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """The page takes longer than all the rest of a transfer, and has tests of its own."""
    path.write_text(metrics["method"])


@pytest.fixture
def short_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transfers of this process write hardly anything for a page."""
    monkeypatch.setattr(songs_module, "write_report", write_short_report)


@pytest.fixture(scope="session")
def standardisation() -> Standardisation:
    """Typical spreads by unit, so that no test depends on a data set."""
    spread = {"dBFS": 6.0, "dB": 4.0, "LUFS": 6.0, "LU": 3.0, "dB/octave": 1.5, "1": 0.2}
    return Standardisation(
        torch.zeros(len(FEATURE_NAMES)), torch.tensor([spread[unit] for unit in FEATURE_UNITS])
    )
