"""Models and songs for all commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mixprint.separation
from mixprint.api import models
from mixprint.cli import exits
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.separation import source
from tests.cli.stand_ins import QuarterSeparator


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(checkpoint: object, config_path: object, device: object) -> QuarterSeparator:
        return QuarterSeparator()

    # Its handler would outlive the stream that the runner lends it.
    monkeypatch.setattr(exits, "setup_logging", lambda: None)
    for module in (mixprint.separation, source, models):
        monkeypatch.setattr(module, "load_separator", load)
    ones_D = torch.ones(len(FEATURE_NAMES))
    path = tmp_path / "shipped" / "standardisation.json"
    Standardisation(-20 * ones_D, 5 * ones_D).save(path)
    monkeypatch.setattr(models, "SHIPPED_STANDARDISATION", path)
    monkeypatch.setattr(models, "SHIPPED_ENCODER", tmp_path / "shipped" / "encoder")


@pytest.fixture
def songs(tmp_path: Path, write_song: Callable[..., Path]) -> tuple[Path, Path]:
    return (
        write_song(tmp_path / "a song.wav", 4.0, seed=1),
        write_song(tmp_path / "b.flac", 4.0, seed=2),
    )


@pytest.fixture
def unusable(tmp_path: Path, write_song: Callable[..., Path]) -> dict[str, Path]:
    """Songs that cannot be measured, by what is wrong with them."""
    folder = tmp_path / "unusable"
    found = {
        "short": write_song(folder / "short.wav", 2.0),
        "page": folder / "page.mp3",
        "empty": folder / "empty.flac",
        "gone": folder / "gone.wav",
        "no_songs": folder / "no songs",
        "foreign": folder / "foreign.m4a",
    }
    found["page"].write_text("<html>")
    found["empty"].touch()
    found["no_songs"].mkdir()
    found["foreign"].write_bytes(b"x")
    return found
