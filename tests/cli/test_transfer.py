import csv
import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor
from typer.testing import CliRunner

import mixprint.cli
import mixprint.separation
from mixprint.audio import files as audio
from mixprint.audio.files import stream_audio
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.separation import batch
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import read_json
from tests.transfer.methods.test_fitting import LevelEncoder as UnstandardisedEncoder

runner = CliRunner()


class QuarterSeparator:
    """Stands for a trained separator: every stem is a quarter of the mix."""

    fingerprint = {"model": "quarter", "checkpoint_sha256": "0"}  # noqa: RUF012 (read only)

    sample_rate_hz = SAMPLE_RATE_HZ
    window_s = 4.0
    precision = "float32"
    compiled = False

    def separate(self, audio_CT: Tensor) -> Tensor:
        return torch.stack([audio_CT / 4] * len(STEMS))

    def stream_file(self, path: Path, **_: object) -> Iterator[tuple[Tensor, Tensor]]:
        for block_CT in stream_audio(path):
            yield block_CT, self.separate(block_CT)


class LevelEncoder(UnstandardisedEncoder):
    """Stands for an encoder with all that belongs to it."""

    standardisation = Standardisation(
        torch.full((len(FEATURE_NAMES),), -20.0), torch.full((len(FEATURE_NAMES),), 5.0)
    )


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(checkpoint: object, config_path: object, device: object) -> QuarterSeparator:
        return QuarterSeparator()

    # Its handler would outlive the stream that the runner lends it.
    monkeypatch.setattr(mixprint.cli, "setup_logging", lambda: None)
    monkeypatch.setattr(mixprint.separation, "load_separator", load, raising=False)
    monkeypatch.setattr(batch, "load_separator", load)
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
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == exit_code
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_all_combinations_of_targets_and_rates(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixprint.cli, "_load_encoder", lambda *_: LevelEncoder())
    arguments = ["--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "features,embeddings", "--optimize_target", "features"]
    arguments += ["--lr", "0.0005,0.002", "--method", "console", "--num_steps", "1"]
    arguments += ["--segment_duration", "3", "--output_dir", str(tmp_path / "out")]
    result = runner.invoke(mixprint.cli.app, ["transfer", *arguments])
    assert result.exit_code == 0, result.output
    names = [f"{t}-lr-{lr}" for t in ("features", "embeddings") for lr in ("0.0005", "0.002")]
    rows = read_json(tmp_path / "out" / "summary.json")["transfers"]
    assert [row["folder"] for row in rows] == names
    assert all(f"{name}:" in result.output for name in names)
    found = read_json(tmp_path / "out" / "embeddings-lr-0.002" / "metrics.json")
    assert found["hyperparameters"]["lr"] == 0.002
    assert found["optimize_target"] == "embeddings"


def test_a_batch_of_pairs(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    (tmp_path / "pairs.csv").write_text(
        "input,target,method,keep\na song.wav,b.flac,,\nb.flac,a song.wav,tcn,drums\n"
        "x.wav,b.flac,,\n"
    )
    arguments = ["transfer-batch", str(tmp_path / "pairs.csv"), "--jobs", "1", "--num_steps", "1"]
    arguments += ["--output_dir", str(tmp_path / "out"), "--segment-duration", "3"]
    arguments += ["--method", "console", "--loudness", "keep", "--receptive-field", "0.01"]
    result = runner.invoke(mixprint.cli.app, arguments)
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
    result = runner.invoke(mixprint.cli.app, arguments)
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
    result = runner.invoke(mixprint.cli.app, [*arguments, "--num_steps", "2"])
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert (folder / "metrics.json").read_bytes() == before
    result = runner.invoke(mixprint.cli.app, [*arguments, "--method", "magic"])
    assert result.exit_code == 2


def test_a_style_is_saved_and_used_with_all_controls(
    tmp_path: Path, songs: tuple[Path, Path]
) -> None:
    common = ["--optimize_target", "features", "--method", "console", "--num_steps", "1"]
    common += ["--input_audio", str(songs[0]), "--segment_duration", "3"]
    style = tmp_path / "style.json"
    first = [*common, "--target_audio", str(songs[1]), "--save_style", str(style)]
    result = runner.invoke(
        mixprint.cli.app, ["transfer", *first, "--output_dir", str(tmp_path / "1")]
    )
    assert result.exit_code == 0, result.output
    more = ["--style", str(style), "--amount", "drums=0.5,0.8", "--keep", "vocals"]
    more += ["--loudness", "keep", "--apply-to", "song", "--segments", "1", "--seed", "2"]
    result = runner.invoke(
        mixprint.cli.app, ["transfer", *common, *more, "--output_dir", str(tmp_path / "2")]
    )
    assert result.exit_code == 0, result.output
    metrics = read_json(tmp_path / "2" / "metrics.json")
    assert metrics["amount"] == {"vocals": 0.0, "bass": 0.8, "drums": 0.5, "other": 0.8}
    assert metrics["applied_to"] == "song"
    assert metrics["target_audio"] is None
    assert metrics["targets"][0]["style"] == str(style)
    assert metrics["output"]["loudness"] == "keep"
    assert audio.probe(tmp_path / "2" / "output_transferred.wav").duration_s == 4.0
    assert audio.probe(tmp_path / "1" / "output_transferred.wav").duration_s == 3.0


def test_a_zero_shot_model_is_looked_for(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixprint.cli, "_load_encoder", lambda *_: LevelEncoder())
    arguments = ["--input_audio", str(songs[0]), "--target_audio", str(songs[1])]
    arguments += ["--optimize_target", "embeddings", "--method", "zero-shot"]
    arguments += ["--zero_shot_checkpoint", str(tmp_path / "none")]
    result = runner.invoke(mixprint.cli.app, ["transfer", *arguments])
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.output


def test_separate_writes_a_folder_per_song(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    arguments = ["separate", *map(str, songs), "--out", str(tmp_path / "stems")]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = {str(p.relative_to(tmp_path / "stems")) for p in (tmp_path / "stems").rglob("*.*")}
    names = [*(f"{stem}.wav" for stem in STEMS), "separation.json"]
    assert found == {f"{song}/{name}" for song in ("a song", "b") for name in names}
    assert result.stdout.splitlines() == [str(tmp_path / "stems" / s) for s in ("a song", "b")]
    assert "2 separated, 0 there already, 0 failed" in result.stderr
    again = runner.invoke(mixprint.cli.app, arguments)
    assert again.exit_code == 0
    assert again.stdout.count("(was there already)") == 2
    assert "0 separated, 2 there already, 0 failed" in again.stderr


def test_separate_goes_on_after_a_bad_file(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    arguments = [str(songs[0]), str(tmp_path / "bad.wav"), str(tmp_path / "no.mp3"), str(songs[1])]
    result = runner.invoke(
        mixprint.cli.app, ["separate", *arguments, "--out", str(tmp_path / "stems")]
    )
    assert result.exit_code == 1
    assert "bad.wav: expected audio" in result.stderr
    assert "no.mp3: expected audio" in result.stderr
    assert "2 separated, 0 there already, 2 failed" in result.stderr
    assert sorted(path.name for path in (tmp_path / "stems").iterdir()) == ["a song", "b"]


def test_an_input_of_separate_is_never_replaced(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    out = ["--out", str(tmp_path / "stems")]
    runner.invoke(mixprint.cli.app, ["separate", str(songs[1]), *out])
    stem = tmp_path / "stems" / "b" / "vocals.wav"
    again = tmp_path / "stems" / "b" / "b.wav"
    again.symlink_to(stem)
    before = stem.read_bytes()
    result = runner.invoke(mixprint.cli.app, ["separate", str(songs[1]), *out, "--overwrite"])
    assert "found also ['b.wav']" in result.stderr
    again.unlink()
    link = tmp_path / "b.wav"
    link.symlink_to(stem)
    result = runner.invoke(mixprint.cli.app, ["separate", str(link), *out, "--overwrite"])
    assert result.exit_code == 1
    assert "of an input" in result.stderr
    assert stem.read_bytes() == before


def test_separate_says_which_songs_it_has_resampled(
    tmp_path: Path, songs: tuple[Path, Path], make_audio: Callable[..., Tensor]
) -> None:
    audio.write_audio(tmp_path / "c.wav", make_audio(2.0), 48_000)
    arguments = ["separate", str(songs[1]), str(tmp_path / "c.wav"), "--out", str(tmp_path / "s")]
    result = runner.invoke(mixprint.cli.app, arguments)
    note = "c.wav: resampled from 48000 Hz to 44100 Hz"
    assert [line for line in result.stderr.splitlines() if "Hz" in line] == [f"note: {note}"]
    assert read_json(tmp_path / "s" / "c" / "separation.json")["notes"] == [note]
    assert read_json(tmp_path / "s" / "b" / "separation.json")["notes"] == []


def test_separate_needs_a_folder(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    result = runner.invoke(mixprint.cli.app, ["separate", str(songs[0]), "--out", str(songs[1])])
    assert result.exit_code == 1
    assert "expected a folder to write to, found a file" in result.stderr


@pytest.mark.parametrize("separator", ["_", "-"])
def test_options_of_separate(tmp_path: Path, songs: tuple[Path, Path], separator: str) -> None:
    options = {
        "out": tmp_path / "stems",
        "checkpoint": "default",
        "format": "flac",
        "bit_depth": "16",
        "two_stems": "vocals",
        "residual": "distribute",
        "window": 2.0,
        "overlap": 0.5,
        "batch_size": 2,
        "precision": "bfloat16",
        "device": "cpu",
        "jobs": 1,
    }
    arguments = [
        part for k, v in options.items() for part in (f"--{k.replace('_', separator)}", str(v))
    ]
    result = runner.invoke(mixprint.cli.app, ["separate", str(songs[1]), *arguments])
    assert result.exit_code == 0, result.output
    report = read_json(tmp_path / "stems" / "b" / "separation.json")
    assert report["files"] == ["vocals.flac", "no_vocals.flac"]
    assert report["settings"] == {
        "container": "flac",
        "bit_depth": "16",
        "stems": list(STEMS),
        "two_stems": "vocals",
        "residual": "distribute",
        "window_s": 2.0,
        "overlap": 0.5,
        "precision": "bfloat16",
    }


@pytest.mark.parametrize("options", [[], ["--compile"]])
def test_separate_compiles_where_asked(
    tmp_path: Path,
    songs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    separator = QuarterSeparator()
    monkeypatch.setattr(batch, "load_separator", lambda *_: separator)
    arguments = ["separate", str(songs[0]), "--out", str(tmp_path / "stems"), *options]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert separator.compiled is bool(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "flac", "--bit-depth", "float32"], "16 or 24 with flac"),
        (["--stems", "vocals,piano"], "'piano'"),
        (["--format", "mp3"], "--format"),
        (["--jobs", "0"], "--jobs"),
        (["--overlap", "1"], "overlap"),
    ],
)
def test_wrong_options_of_separate_exit_with_2(
    tmp_path: Path, songs: tuple[Path, Path], options: list[str], message: str
) -> None:
    result = runner.invoke(
        mixprint.cli.app, ["separate", str(songs[0]), "--out", str(tmp_path / "stems"), *options]
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "stems").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segment_duration", "0"),
        ("segment_duration", "2"),
        ("segment_duration", "nan"),
        ("segment_duration", "inf"),
        ("segment_offset", "-1"),
        ("segment_offset", "nan"),
    ],
)
def test_parts_that_cannot_be_measured_are_refused_by_features(
    songs: tuple[Path, Path], name: str, value: str
) -> None:
    result = runner.invoke(mixprint.cli.app, ["features", str(songs[0]), f"--{name}", value])
    assert result.exit_code == 2
    assert f"error: {name}: expected" in result.stderr


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


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_features_go_on_after_songs_that_cannot_be_used(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path], kind: str
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/folder/caf\xe9.wav"))
    odd.parent.mkdir()
    odd.write_bytes(songs[0].read_bytes())
    arguments = [str(songs[0]), *map(str, unusable.values()), str(odd.parent), str(songs[1])]
    arguments += ["--segment_duration", "3", "--format", kind]
    result = runner.invoke(mixprint.cli.app, ["features", *arguments])
    assert result.exit_code == 1
    expected = [str(songs[0]), str(tmp_path / "folder" / r"caf\xe9.wav"), str(songs[1])]
    if kind == "json":
        assert list(json.loads(result.stdout)["songs"]) == expected
    else:
        rows = list(csv.reader(io.StringIO(result.stdout)))
        assert rows[0] == ["feature", "unit", *expected]
        assert {len(row) for row in rows} == {5}
    for path in unusable.values():
        assert result.stderr.count(f"failed: {path}") == 1


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_features_of_nothing_but_unusable_songs_are_an_empty_table(
    unusable: dict[str, Path], kind: str
) -> None:
    arguments = ["features", *map(str, unusable.values()), "--format", kind]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 1
    if kind == "json":
        assert json.loads(result.stdout)["songs"] == {}
    else:
        rows = list(csv.reader(io.StringIO(result.stdout)))
        assert [row[0] for row in rows] == ["feature", *FEATURE_NAMES]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--segment_duration", value) for value in ("0", "2", "-1", "nan", "inf")),
        *(("--segment_offset", value) for value in ("-1", "nan", "inf")),
    ],
)
def test_features_of_no_segment_are_refused_before_the_work(
    songs: tuple[Path, Path], option: str, value: str
) -> None:
    result = runner.invoke(mixprint.cli.app, ["features", str(songs[0]), f"{option}={value}"])
    assert result.exit_code == 2
    assert f"{option.removeprefix('--')}: expected" in result.stderr
    assert result.stdout == ""


def test_separate_does_the_others_where_one_song_breaks_off_or_may_not_be_read(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path]
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    good = Path(os.fsdecode(os.fsencode(folder) + b"/good\xff.wav"))
    good.write_bytes(songs[0].read_bytes())
    flac = songs[1].read_bytes()
    (folder / "damaged.flac").write_bytes(flac[: len(flac) // 2] + bytes(5_000))
    (folder / "to nothing.wav").symlink_to("gone.wav")
    out = tmp_path / "stems"
    arguments = ["separate", str(folder), *map(str, unusable.values()), "--out", str(out)]
    result = runner.invoke(mixprint.cli.app, arguments)
    assert result.exit_code == 1
    # The short one can be separated, if not measured.
    assert sorted(result.stdout.splitlines()) == [str(out / r"good\xff"), str(out / "short")]
    failed = [folder / "damaged.flac", folder / "to nothing.wav", *unusable.values()]
    failed.remove(unusable["short"])
    for path in failed:
        assert result.stderr.count(f"failed: {path}") == 1, path
    assert f"2 separated, 0 there already, {len(failed)} failed" in result.stderr
    assert len(list(out.iterdir())) == 2


def _features_that_raise(
    monkeypatch: pytest.MonkeyPatch, song: Path, error: BaseException
) -> Result:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(mixprint.cli, "_load_separator", fail)
    return runner.invoke(mixprint.cli.app, ["features", str(song)])


def test_a_fault_of_our_own_says_how_to_report_it(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = _features_that_raise(monkeypatch, songs[0], ZeroDivisionError("by nothing"))
    assert result.exit_code == 70
    (line,) = result.stderr.splitlines()
    (file,) = tmp_path.glob("mixprint-traceback-*.txt")
    assert line.startswith("error: features of mixprint ")
    assert "ZeroDivisionError: by nothing; please report it" in line
    assert str(file) in line
    assert "in fail\n    raise error\n" in file.read_text()


def test_a_fault_without_a_temporary_folder_has_its_traceback_on_standard_error(
    songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    result = _features_that_raise(monkeypatch, songs[0], ZeroDivisionError("by nothing"))
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "please report it with the traceback" in result.stderr


def test_a_fault_is_raised_where_debugging_is_asked_for(
    songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPRINT_DEBUG", "1")
    result = _features_that_raise(monkeypatch, songs[0], ZeroDivisionError("by nothing"))
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "message", "exit_code"),
    [
        (PermissionError(errno.EACCES, "", "/x/stems"), "error: /x/stems: expected", 1),
        (OSError(errno.EROFS, "", "/x/stems"), "Read-only file system", 1),
        (OSError(errno.ENOSPC, ""), "disk full", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (BrokenPipeError(errno.EPIPE, ""), "", 141),
    ],
    ids=["permission", "read-only", "full", "interrupt", "pipe"],
)
def test_what_the_system_or_a_person_ends_is_a_sentence(
    songs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    message: str,
    exit_code: int,
) -> None:
    result = _features_that_raise(monkeypatch, songs[0], error)
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_version_is_told_by_the_command_and_by_the_module() -> None:
    expected = f"mixprint {mixprint.__version__}\n"
    assert runner.invoke(mixprint.cli.app, ["--version"]).stdout == expected
    command = [sys.executable, "-m", "mixprint", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected
