"""Four stems that have something to transfer, a standardisation for them, and short pages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, Standardisation
from mixprint.transfer import pair as songs_module

RATE_HZ = 44_100


def write_short_report(path: Path, metrics: Mapping[str, Any]) -> None:
    """The page takes longer than all the rest of a transfer, and has tests of its own."""
    path.write_text(metrics["method"])


@pytest.fixture
def short_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transfers of this process write hardly anything for a page."""
    monkeypatch.setattr(songs_module, "write_report", write_short_report)


@pytest.fixture(scope="session")
def make_stems() -> Callable[..., Tensor]:
    """Make stems_SCT: filtered noise that swells, a different level per stem."""

    def make(duration_s: float = 3.0, *, seed: int = 0, gain: float = 1.0) -> Tensor:
        num_samples = round(duration_s * RATE_HZ)
        generator = torch.Generator().manual_seed(seed)
        noise_SCT = torch.randn(4, 2, num_samples, generator=generator)
        smooth_SCT = 0.7 * noise_SCT.roll(1, -1) + 0.3 * noise_SCT
        time_T = torch.arange(num_samples) / RATE_HZ
        swell_T = 0.6 + 0.4 * torch.sin(2 * torch.pi * (1.5 + 0.3 * seed) * time_T)
        levels_S = torch.tensor([0.1, 0.05, 0.08, 0.03]).view(-1, 1, 1)
        return gain * levels_S * swell_T * smooth_SCT

    return make


@pytest.fixture(scope="session")
def standardisation() -> Standardisation:
    """Typical spreads by unit, so that no test depends on a data set."""
    spread = {"dBFS": 6.0, "dB": 4.0, "LUFS": 6.0, "LU": 3.0, "dB/octave": 1.5, "1": 0.2}
    return Standardisation(
        torch.zeros(len(FEATURE_NAMES)), torch.tensor([spread[unit] for unit in FEATURE_UNITS])
    )
