"""The commands `transfer` and `transfer-batch`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.api import models
from mixprint.audio.files import probe
from mixprint.cli import app
from mixprint.storage.atomic import read_json
from tests.cli.stand_ins import LevelEncoder, QuarterSeparator
from tests.transfer.trials import reports_cut_short

runner = CliRunner()


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("separator", ["_", "-"])
def test_transfer_accepts_hyphens_and_underscores(
    tmp_path: Path, songs: tuple[Path, Path], separator: str
) -> None:
    options = {
        "input_audio": songs[0],
        "target_audio": songs[1],
        "optimize_target": "features",
        "output_dir": tmp_path / "out",
        "num_steps": 0,
        "receptive_field": 0.01,
        "segment_duration": 3.0,
        "segment_offset": 0.5,
        "device": "cpu",
        "seed": 3,
    }
    arguments = [
        part for k, v in options.items() for part in (f"--{k.replace('_', separator)}", str(v))
    ]
    result = runner.invoke(app, ["transfer", *arguments])
    assert result.exit_code == 0, result.output
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert metrics["input_audio"] == str(songs[0])
    assert metrics["hyperparameters"]["segment_offset"] == 0.5
    assert metrics["checkpoints"]["separator"] == QuarterSeparator.fingerprint
    assert "feature distance:" in result.output


@pytest.mark.parametrize(
    ("more", "message", "exit_code"),
    [
        (["--mixing_checkpoint", "nothing:/mixprint-encoder@champion"], "nothing:/", 2),
        (["--mixing_checkpoint", "nowhere"], "nowhere", 1),
        (["--optimize_target", "embeddings"], "--mixing_checkpoint", 2),
        (["--optimize_target", "loudness"], "loudness", 2),
        (["--method", "zero-shot"], "--mixing_checkpoint", 2),
        (["--method", "magic"], "magic", 2),
        (["--lr", "fast"], "--lr: expected numbers", 2),
        (["--weights", "1,2"], "expected 1", 2),
        (["--sweep", "3"], "two targets", 2),
        (["--amount", "piano=1"], "piano", 2),
        (["--keep", "piano"], "piano", 2),
        (["--style", "nowhere.json"], "nowhere.json", 1),
        (["--segment_offset", "3.5"], "at least 1", 1),
        (["--device", "tpu"], "tpu", 2),
        (["--segment_duration", "1"], "segment_duration", 2),
        (["--segment_duration", "nan"], "segment_duration", 2),
        (["--segment_offset", "-1"], "segment_offset", 2),
        (["--lr", "nan"], "--lr: expected finite", 2),
        (["--lr", "0,001"], "decimal point", 2),
        (["--lr", ""], "--lr: expected numbers", 2),
        (["--amount", "1,5"], "decimal point", 2),
        (["--weights", "0"], "weights", 2),
        (["--weights", ""], "--weights: expected numbers", 2),
        (["--receptive_field", "-1"], "receptive_field", 2),
        (["--num_steps", "1000000000000"], "num_steps", 2),
        (["--segments", "1000000000000"], "segments", 2),
        (["--seed", "-1"], "seed", 2),
        (["--optimize_target", ""], "--optimize_target: expected names", 2),
        (["--method", ","], "--method: expected names", 2),
        (["--keep", ""], "--keep: expected names", 2),
    ],
)
def test_what_a_person_can_mend_is_a_sentence(
    songs: tuple[Path, Path], tmp_path: Path, more: list[str], message: str, exit_code: int
) -> None:
    arguments = ["transfer", "--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "features", "--output_dir", str(tmp_path / "out"), *more]
    result = runner.invoke(app, arguments)
    assert result.exit_code == exit_code
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("short_reports")
def test_all_combinations_of_targets_and_rates(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_encoder", lambda *_: LevelEncoder())
    arguments = ["--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "features,embeddings", "--optimize_target", "features"]
    arguments += ["--lr", "0.0005,0.002", "--method", "console", "--num_steps", "1"]
    arguments += ["--segment_duration", "3", "--output_dir", str(tmp_path / "out")]
    result = runner.invoke(app, ["transfer", *arguments])
    assert result.exit_code == 0, result.output
    names = [f"{t}-lr-{lr}" for t in ("features", "embeddings") for lr in ("0.0005", "0.002")]
    rows = read_json(tmp_path / "out" / "summary.json")["transfers"]
    assert [row["folder"] for row in rows] == names
    assert all(f"{name}:" in result.output for name in names)
    found = read_json(tmp_path / "out" / "embeddings-lr-0.002" / "metrics.json")
    assert found["hyperparameters"]["lr"] == 0.002
    assert found["optimize_target"] == "embeddings"


@pytest.mark.usefixtures("short_reports")
def test_a_batch_of_pairs(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    (tmp_path / "pairs.csv").write_text(
        "input,target,method,keep\na song.wav,b.flac,,\nb.flac,a song.wav,tcn,drums\n"
        "x.wav,b.flac,,\n"
    )
    arguments = ["transfer-batch", str(tmp_path / "pairs.csv"), "--jobs", "1", "--num_steps", "1"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--segment-duration", "3"]
    arguments += ["--method", "console", "--loudness", "keep", "--receptive-field", "0.01"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "failed: " in result.stderr
    assert "x.wav" in result.stderr
    assert "2 there, 1 failed" in result.stderr
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [row["method"] for row in summary["transfers"]] == ["console", "tcn"]
    kept = read_json(tmp_path / "out" / summary["transfers"][1]["folder"] / "metrics.json")
    assert kept["amount"]["drums"] == 0
    assert kept["output"]["loudness"] == "keep"
    (tmp_path / "pairs.csv").write_text("input,target\na song.wav,b.flac\n")
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    # What the first table has made is still there, and told apart.
    again = read_json(tmp_path / "out" / "summary.json")
    assert [row["is_asked_for"] for row in again["transfers"]] == [True, False]
    assert again["transfers"] == [
        row | {"is_asked_for": index == 0} for index, row in enumerate(summary["transfers"])
    ]
    assert again["num_failed"] == 0
    assert "from another call" in (tmp_path / "out" / "report.html").read_text()
    folder = tmp_path / "out" / summary["transfers"][0]["folder"]
    before = (folder / "metrics.json").read_bytes()
    result = runner.invoke(app, [*arguments, "--num_steps", "2"])
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert (folder / "metrics.json").read_bytes() == before
    result = runner.invoke(app, [*arguments, "--method", "magic"])
    assert result.exit_code == 2


def test_a_style_is_saved_and_used_with_all_controls(
    tmp_path: Path, songs: tuple[Path, Path]
) -> None:
    common = ["--optimize_target", "features", "--method", "console", "--num_steps", "1"]
    common += ["--input_audio", str(songs[0]), "--segment_duration", "3"]
    style = tmp_path / "style.json"
    first = [*common, "--target_audio", str(songs[1]), "--save_style", str(style)]
    with reports_cut_short():
        result = runner.invoke(app, ["transfer", *first, "--output_dir", str(tmp_path / "1")])
    assert result.exit_code == 0, result.output
    more = ["--style", str(style), "--amount", "drums=0.5,0.8", "--keep", "vocals"]
    more += ["--loudness", "keep", "--apply-to", "song", "--segments", "1", "--seed", "2"]
    result = runner.invoke(app, ["transfer", *common, *more, "--output_dir", str(tmp_path / "2")])
    assert result.exit_code == 0, result.output
    metrics = read_json(tmp_path / "2" / "metrics.json")
    assert metrics["amount"] == {"vocals": 0.0, "bass": 0.8, "drums": 0.5, "other": 0.8}
    assert metrics["applied_to"] == "song"
    assert metrics["target_audio"] is None
    assert metrics["targets"][0]["style"] == str(style)
    assert metrics["output"]["loudness"] == "keep"
    assert probe(tmp_path / "2" / "output_transferred.wav").duration_s == 4.0
    assert probe(tmp_path / "1" / "output_transferred.wav").duration_s == 3.0


def test_a_zero_shot_model_is_looked_for(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_encoder", lambda *_: LevelEncoder())
    arguments = ["--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "embeddings", "--method", "zero-shot"]
    arguments += ["--zero_shot_checkpoint", str(tmp_path / "none")]
    result = runner.invoke(app, ["transfer", *arguments])
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.output
