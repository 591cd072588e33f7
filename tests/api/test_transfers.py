"""Transfers for programs."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mixprint import transfer_style
from mixprint.audio.files import read_audio
from mixprint.cli import app
from mixprint.cli.transfer import TransferOptions
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.transfer.settings import Hyperparameters


@pytest.fixture
def pair(tmp_path: Path, write_song: Callable[..., Path], loaded: list[Any]) -> tuple[Path, Path]:
    return (
        write_song(tmp_path / "a.wav", 3.0, seed=1),
        write_song(tmp_path / "b.wav", 3.0, seed=2),
    )


@pytest.mark.usefixtures("short_reports")
def test_a_transfer_is_that_of_the_command(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    first, second = pair
    out = tmp_path / "out"
    done = transfer_style(
        first, [second, first], out, amount={"drums": 0.5}, num_steps=1, segment_duration=3.0
    )
    np.testing.assert_array_equal(done.audio, read_audio(out / "output_transferred.wav").numpy())
    assert (done.folder, done.sample_rate_hz) == (out, 44_100)
    assert done.metrics["amount"] == {"vocals": 1.0, "bass": 1.0, "drums": 0.5, "other": 1.0}
    # With the same options and defaults the command finds it finished.
    arguments = [f"--input_audio={first}", f"--target_audio={second}", f"--target_audio={first}"]
    arguments += [f"--output_dir={out}", "--optimize_target=features", "--amount=drums=0.5"]
    arguments += ["--num_steps=1", "--segment_duration=3"]
    result = CliRunner().invoke(app, ["transfer", *arguments])
    assert result.stdout.startswith("was there already\n"), result.output


def test_the_command_has_the_defaults_of_the_library() -> None:
    options = TransferOptions()
    known = {field.name: field.default for field in fields(Hyperparameters)}
    shared = known.keys() & vars(options).keys() - {"method"}
    assert len(shared) == 8
    for name in shared:
        value = getattr(options, name)
        assert (float(value[0]) if name == "lr" else value) == known[name], name


def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="amount"):
        transfer_style(*pair, out, amount={"piano": 1.0})
    with pytest.raises(ConfigError, match="magic"):
        transfer_style(*pair, out, method="magic")  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"from 2\.9 s on"):
        transfer_style(*pair, out, segment_offset=2.9, segment_duration=3.0)
    assert not out.exists()
    out.mkdir()
    (out / "report.html").write_text("a person's own")
    with pytest.raises(DataError, match=r"report\.html"):
        transfer_style(*pair, out)
    assert [path.name for path in out.iterdir()] == ["report.html"]
