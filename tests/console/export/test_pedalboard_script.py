"""The script for pedalboard: it runs, whatever names say, and does what it can do."""

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mixprint.console.export.pedalboard_script import to_pedalboard
from mixprint.console.settings import Settings
from tests.console.test_rendering import EVERYTHING

EFFECTS = (
    "Compressor",
    "Gain",
    "HighpassFilter",
    "HighShelfFilter",
    "LowpassFilter",
    "LowShelfFilter",
    "PeakFilter",
)
FILES = {"a": 'tracks/"a" 🎤.wav', "b": "tracks/b.wav", "c": "tracks/c.wav"}


@pytest.fixture
def opened() -> list[tuple[Path, str]]:
    """The files that the script opens, and for what."""
    return []


@pytest.fixture
def boards(
    monkeypatch: pytest.MonkeyPatch, opened: list[tuple[Path, str]]
) -> list[list[tuple[str, dict[str, float]]]]:
    """Stand in for pedalboard: say which boards are made, and pass the audio on."""
    made: list[Any] = []
    written: list[Any] = []

    class Board:
        def __init__(self, effects: list[tuple[str, dict[str, float]]]) -> None:
            made.append(effects)

        def __call__(self, audio: np.ndarray, _: int) -> np.ndarray:
            return audio

    class File:
        frames = 100

        def __init__(self, path: str, mode: str = "r", *_: Any, **__: Any) -> None:
            opened.append((Path(path), mode))

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *_: object) -> None: ...

        def resampled_to(self, _: int) -> "File":
            return self

        def read(self, frames: int) -> np.ndarray:
            return np.ones((1, frames), np.float32)

        def write(self, audio: np.ndarray) -> None:
            written.append(audio)

    module, io = ModuleType("pedalboard"), ModuleType("pedalboard.io")
    for name in EFFECTS:
        setattr(module, name, lambda name=name, **values: (name, values))
    module.Pedalboard, io.AudioFile = Board, File  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pedalboard", module)
    monkeypatch.setitem(sys.modules, "pedalboard.io", io)
    made.append(written)
    return made


def test_the_script_runs_and_sets_what_pedalboard_has(
    boards: list[Any],
    opened: list[tuple[Path, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings.neutral(("a", "b", "c")).edit(EVERYTHING)
    script = to_pedalboard(settings, FILES, 'song """\n\\ of "quotes"')
    assert "# saturation is left out" in script
    assert "# a room of 0.8 s is left out" in script
    assert "# expansion by 1:1.4 is left out" in script
    folder = tmp_path / "song"
    folder.mkdir()
    (folder / "mix.py").write_text(script, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # By a relative path, as a person starts it.
    runpy.run_path("../song/mix.py")
    assert opened == [
        *((folder / path, "r") for path in FILES.values()),
        (folder / "mix_pedalboard.wav", "w"),
    ]
    written, a, b, c, master = boards
    assert [name for name, _ in a] == [
        "Gain",
        "HighpassFilter",
        "LowShelfFilter",
        "PeakFilter",
        "Compressor",
    ]
    assert a[3][1] == {"cutoff_frequency_hz": 250.0, "gain_db": 5.0, "q": 1.0}
    assert a[4][1]["ratio"] == pytest.approx(2.5)
    assert a[4][1]["attack_ms"] == pytest.approx(62.83, abs=0.01)
    assert [name for name, _ in b] == ["LowpassFilter", "HighShelfFilter"]
    assert c == []
    assert [name for name, _ in master] == ["LowShelfFilter", "PeakFilter", "Compressor", "Gain"]
    # a as it is, b turned down on the right by half, c by 4 dB.
    (mix,) = written
    assert mix[:, 0] == pytest.approx([2 + 10**-0.2, 1.5 + 10**-0.2], abs=1e-5)


def test_the_library_does_without_pedalboard() -> None:
    sources = (Path(__file__).parents[3] / "mixprint").rglob("*.py")
    lines = [line for path in sources for line in path.read_text().splitlines()]
    outside = [line for line in lines if line.startswith(("import pedalboard", "from pedalboard"))]
    assert outside == ["from pedalboard import (", "from pedalboard.io import AudioFile"]
