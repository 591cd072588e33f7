"""`from mixprint import ...`: light, complete, and as the README shows it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mixprint
from mixprint.api import transfers
from mixprint.audio.files import write_audio
from mixprint.console import recovery
from mixprint.console.recovery import Recovery, recover_excerpt
from mixprint.console.settings import Settings
from mixprint.storage.atomic import read_json
from mixprint.transfer.settings import Hyperparameters
from tests.console.test_files import RATE_HZ, write_noise

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, mixprint; dir(mixprint); print(*sorted({'torch', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_every_name_is_there_with_its_documentation() -> None:
    for name in set(mixprint.__all__) - {"__version__"}:
        assert len(getattr(mixprint, name).__doc__.splitlines()) > 5, name
        assert name in dir(mixprint)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mixprint.nothing


def lines_of_the_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


def test_the_lines_of_the_readme_run(
    tmp_path: Path,
    write_song: Callable[..., Path],
    loaded: list[Any],
    short_reports: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exactly those; a stand-in separates, and the fit ends after a step."""

    def short_fit(**values: Any) -> Hyperparameters:
        return Hyperparameters(**values | {"num_steps": 1})

    monkeypatch.setattr(transfers, "Hyperparameters", short_fit)
    write_song(tmp_path / "a.wav", 10.0, seed=1)
    write_song(tmp_path / "b.wav", 10.0, seed=2)
    monkeypatch.chdir(tmp_path)
    exec(lines_of_the_readme()[0], {})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"vocals at -\d+\.\d LUFS, likeness [01]\.\d\d", printed[0])
    metrics = read_json(tmp_path / "results/a-like-b/metrics.json")
    distances = [metrics[f"{when}_feature_distance"] for when in ("initial", "final")]
    assert re.findall(r"\d+\.\d\d", printed[1]) == [f"{value:.2f}" for value in distances]
    assert printed[2] == "results/a-like-b/output_transferred.wav: 10.0 s"
    assert (tmp_path / "results/a-like-b/output_transferred.wav").is_file()


def test_the_lines_on_the_console_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly those; the search ends after a step."""

    def short_search(*values: Any, num_steps: int, **others: Any) -> Recovery:
        return recover_excerpt(*values, num_steps=1, **others)

    monkeypatch.setattr(recovery, "recover_excerpt", short_search)
    parts = [
        write_noise(tmp_path / "song" / f"{name}.wav", 2.5, seed=seed)
        for seed, name in enumerate(("drums", "vocals"))
    ]
    write_audio(tmp_path / "mix.wav", parts[0] + 0.5 * parts[1], RATE_HZ, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    exec(lines_of_the_readme()[1], {})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"vocals at [+-]\d+\.\d dB, distance \d\.\d\d", printed[0])
    assert re.fullmatch(r"2\.5 s, peak \d\.\d\d", printed[1])
    assert Settings.load("settings.json")["drums.room.send_db"] > -60.0


def test_the_lines_on_a_voice_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "voice.wav", 0.6)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(lines_of_the_readme()[2], found)
    assert "fader at" in capsys.readouterr().out.splitlines()[-1]
    assert found["voice"].shape == (round(0.6 * RATE_HZ),)
    assert (tmp_path / "voice" / "console.html").is_file()
