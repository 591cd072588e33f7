"""The command `features`."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.cli import app
from mixprint.features import FEATURE_NAMES

runner = CliRunner()


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
    result = runner.invoke(app, ["features", str(songs[0]), f"--{name}", value])
    assert result.exit_code == 2
    assert f"error: {name}: expected" in result.stderr


def test_features_as_json_and_csv(songs: tuple[Path, Path]) -> None:
    arguments = ["features", *map(str, songs), "--segment_duration", "3"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert set(values["songs"]) == {str(song) for song in songs}
    assert values["units"]["vocals_loudness_lufs"] == "LUFS"
    assert set(values["songs"][str(songs[0])]) == set(FEATURE_NAMES)
    result = runner.invoke(app, [*arguments, "--format", "csv"])
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0] == ["feature", "unit", *map(str, songs)]
    assert [row[0] for row in rows[1:]] == list(FEATURE_NAMES)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_features_go_on_after_songs_that_cannot_be_used(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path], kind: str
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/folder/caf\xe9.wav"))
    odd.parent.mkdir()
    odd.write_bytes(songs[0].read_bytes())
    arguments = [str(songs[0]), *map(str, unusable.values()), str(odd.parent), str(songs[1])]
    arguments += ["--segment_duration", "3", "--format", kind]
    result = runner.invoke(app, ["features", *arguments])
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
    result = runner.invoke(app, arguments)
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
    result = runner.invoke(app, ["features", str(songs[0]), f"{option}={value}"])
    assert result.exit_code == 2
    assert f"{option.removeprefix('--')}: expected" in result.stderr
    assert result.stdout == ""
