"""docs/controller.md: its commands and its lines work as written, with a tiny controller."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.cli import app
from mixprint.console.settings import Settings
from mixprint.storage.atomic import read_json
from tests.api.tiny_controller import write_controller
from tests.console.test_files import write_noise
from tests.transfer.trials import reports_cut_short

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "controller.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("bass", "vocals")):
        write_noise(tmp_path / "song" / f"{name}.wav", 1.1, seed=seed)
    write_noise(tmp_path / "reference.wav", 1.1, seed=3)
    write_noise(tmp_path / "voice.wav", 0.6, seed=4)
    write_controller(tmp_path / "controller")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_work_as_written(folder: Path) -> None:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("mixprint ")]
    assert [words[0] for words in commands] == ["console", "console", "describe", "transfer"]
    with reports_cut_short():
        for words in commands:
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{words}: {result.output}"
    metrics = read_json(folder / "transferred" / "metrics.json")
    assert metrics["method"] == "controller"
    assert metrics["checkpoints"]["controller"]
    assert metrics["settings"] == Settings.load("transferred/settings.json").to_values()


@pytest.mark.usefixtures("folder")
def test_its_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    for lines in blocks("python"):
        exec(lines, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "controller"
    assert any("+-" in line for line in printed)
