import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import mixprint.cli
import mixprint.separation
from mixprint.atomic import read_json
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.stems import STEMS

runner = CliRunner()


class QuarterSeparator:
    """Stands for a trained separator: every stem is a quarter of the mix."""

    fingerprint = {"model": "quarter", "checkpoint_sha256": "0"}  # noqa: RUF012 (read only)

    def separate(self, audio_CT: Tensor) -> Tensor:
        return torch.stack([audio_CT / 4] * len(STEMS))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(checkpoint: object, config_path: object, device: object) -> QuarterSeparator:
        return QuarterSeparator()

    # Its handler would outlive the stream that the runner lends it.
    monkeypatch.setattr(mixprint.cli, "setup_logging", lambda: None)
    monkeypatch.setattr(mixprint.separation, "load_separator", load, raising=False)
    ones_D = torch.ones(len(FEATURE_NAMES))
    path = tmp_path / "shipped" / "standardisation.json"
    Standardisation(-20 * ones_D, 5 * ones_D).save(path)
    monkeypatch.setattr(mixprint.cli, "SHIPPED_STANDARDISATION", path)
    monkeypatch.setattr(mixprint.cli, "SHIPPED_ENCODER", tmp_path / "shipped" / "encoder")


@pytest.fixture
def songs(tmp_path: Path, write_song: Callable[..., Path]) -> tuple[Path, Path]:
    return (
        write_song(tmp_path / "a song.wav", 4.0, seed=1),
        write_song(tmp_path / "b.flac", 4.0, seed=2),
    )


@pytest.mark.parametrize("separator", ["_", "-"])
def test_transfer_accepts_hyphens_and_underscores(
    tmp_path: Path, songs: tuple[Path, Path], separator: str
) -> None:
    options = {
        "input_audio": songs[0],
        "target_audio": songs[1],
        "optimize_target": "features",
        "output_dir": tmp_path / "out",
        "num_steps": 1,
        "receptive_field": 0.01,
        "segment_duration": 3.0,
        "segment_offset": 0.5,
        "device": "cpu",
        "seed": 3,
    }
    arguments = [
        part for k, v in options.items() for part in (f"--{k.replace('_', separator)}", str(v))
    ]
    result = runner.invoke(mixprint.cli.app, ["transfer", *arguments])
    assert result.exit_code == 0, result.output
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert metrics["input_audio"] == str(songs[0])
    assert metrics["hyperparameters"]["segment_offset"] == 0.5
    assert metrics["checkpoints"]["separator"] == QuarterSeparator.fingerprint
    assert "feature distance:" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mixing_checkpoint", "models:/mixprint-encoder@champion"], "component"),
        (["--mixing_checkpoint", "nowhere"], "nowhere"),
        (["--optimize_target", "embeddings"], "--mixing_checkpoint"),
        (["--segment_offset", "2"], "at least 3"),
        (["--device", "tpu"], "tpu"),
        (["--segment_duration", "1"], "segment_duration"),
    ],
)
def test_what_a_person_can_mend_is_a_sentence(
    songs: tuple[Path, Path], tmp_path: Path, more: list[str], message: str
) -> None:
    arguments = ["transfer", "--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "features", "--output_dir", str(tmp_path / "out"), *more]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_separate_writes_a_folder_per_song(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    result = runner.invoke(
        mixprint.cli.app, ["separate", *map(str, songs), "--out", str(tmp_path / "stems")]
    )
    assert result.exit_code == 0, result.output
    found = {str(p.relative_to(tmp_path / "stems")) for p in (tmp_path / "stems").rglob("*.wav")}
    assert found == {f"{song}/{stem}.wav" for song in ("a song", "b") for stem in STEMS}


def test_separate_refuses_names_that_collide(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    result = runner.invoke(
        mixprint.cli.app, ["separate", str(songs[0]), str(songs[0]), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 1
    assert "different names" in result.output


def test_features_as_json_and_csv(songs: tuple[Path, Path]) -> None:
    arguments = ["features", *map(str, songs), "--segment_duration", "3"]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert set(values["songs"]) == {str(song) for song in songs}
    assert values["units"]["vocals_loudness_lufs"] == "LUFS"
    assert set(values["songs"][str(songs[0])]) == set(FEATURE_NAMES)
    result = runner.invoke(mixprint.cli.app, [*arguments, "--format", "csv"])
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0] == ["feature", "unit", *map(str, songs)]
    assert [row[0] for row in rows[1:]] == list(FEATURE_NAMES)
