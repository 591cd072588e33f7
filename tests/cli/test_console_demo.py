"""The command `mixprint console demo`: all parts of it, on two seconds and two steps."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.audio.files import probe
from mixprint.cli import app
from mixprint.cli.console_demo import TRUTH
from mixprint.console.settings import Settings
from mixprint.storage.atomic import read_json

runner = CliRunner()


def test_a_song_is_mixed_taken_apart_compared_and_mixed_anew(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    short = ["--output_dir", str(out), "--num_steps", "2", "--duration", "2"]
    result = runner.invoke(app, ["console", "demo", *short])
    assert result.exit_code == 0, result.output
    true, found, changed = (
        Settings.load(out / part / "settings.json") for part in ("true", "found", "changed")
    )
    assert true == Settings.neutral(list(true.tracks)).edit(TRUTH)
    assert changed["vocals.fader_db"] == pytest.approx(found["vocals.fader_db"] + 3.0)
    assert changed["drums.room.time_s"] == 1.8
    for part in ("true", "found", "changed"):
        assert str(out / part / "mix.wav") in result.stdout
        assert probe(out / part / "mix.wav").duration_s == 2.0
    comparison = read_json(out / "comparison.json")
    assert comparison["distance"] < comparison["plain_distance"]
    assert comparison["tracks"]["other"]["pan"]["true"] == -0.3
    assert comparison["tracks"]["other"]["pan"]["found"] == pytest.approx(found["other.pan"])
    assert "| other | pan | -0.3" in (out / "comparison.md").read_text()
    again = runner.invoke(app, ["console", "demo", *short])
    assert again.exit_code == 1
    assert "found a demo of the console of another call" in again.stderr


def test_a_folder_with_other_files_is_refused_before_the_work(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "changed").mkdir(parents=True)
    (out / "changed" / "mix.wav").write_text("mine")
    result = runner.invoke(app, ["console", "demo", "--output_dir", str(out)])
    assert result.exit_code == 1
    assert "found other files there: mix.wav" in result.stderr
    assert [path.name for path in out.iterdir()] == ["changed"]
