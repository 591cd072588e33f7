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
from mixprint.storage.atomic import read_json
from mixprint.transfer.settings import Hyperparameters

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
    (lines,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    exec(lines, {})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"vocals at -\d+\.\d LUFS, likeness [01]\.\d\d", printed[0])
    metrics = read_json(tmp_path / "results/a-like-b/metrics.json")
    distances = [metrics[f"{when}_feature_distance"] for when in ("initial", "final")]
    assert re.findall(r"\d+\.\d\d", printed[1]) == [f"{value:.2f}" for value in distances]
    assert printed[2] == "results/a-like-b/output_transferred.wav: 10.0 s"
    assert (tmp_path / "results/a-like-b/output_transferred.wav").is_file()
