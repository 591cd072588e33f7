"""The commands `styles add`, `styles list` and `styles find`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.api import models
from mixprint.cli import app
from mixprint.transfer.style import Style
from tests.cli.stand_ins import LevelEncoder

runner = CliRunner()


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = runner.invoke(app, ["styles", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_songs_are_saved_listed_and_found(
    tmp_path: Path, songs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_encoder", lambda *_: LevelEncoder())
    library = tmp_path / "lib"
    part = ["--library", library, "--segment_duration", 3]
    assert run("add", *songs, *part)[0] == "saved: a song\nsaved: b\n"
    style = Style.load(library / "a song.json")
    assert style.title == "a song"
    assert style.encoder == "level"
    listed = run("list", "--library", library)[0].splitlines()
    assert listed[0] == f"a song: {style.loudness_lufs:.1f} LUFS ({library / 'a song.json'})"
    for query in (songs[0], library / "a song.json"):
        first = run("find", query, *part, "--number", 1)[0]
        assert first == f"a song: likeness 1.00, distance 0.00 ({library / 'a song.json'})\n"
    assert len(run("find", songs[0], *part)[0].splitlines()) > 1
    run("add", songs[0], *part, "--name", "loud / clear")
    assert Style.load(library / "loud _ clear.json").title == "loud / clear"


def test_what_cannot_be_saved_is_named_and_the_others_are_saved(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path]
) -> None:
    library = tmp_path / "lib"
    twin = tmp_path / "folder" / "b.flac"
    twin.parent.mkdir()
    twin.write_bytes(songs[1].read_bytes())
    given = (songs[1], twin, unusable["page"], unusable["gone"], unusable["no_songs"])
    out, err = run("add", *given, "--library", library, "--segment_duration", 3, code=1)
    assert out == "saved: b\n"
    assert err.count("failed: ") == 4
    assert f"{twin}: expected another name than that of {songs[1]}, found the same" in err
    before = (library / "b.json").read_bytes()
    _, err = run("add", songs[1], "--library", library, "--segment_duration", 4, code=1)
    assert "--overwrite" in err
    assert (library / "b.json").read_bytes() == before
    run("add", songs[1], "--library", library, "--segment_duration", 4, "--overwrite")
    assert (library / "b.json").read_bytes() != before
    run("add", *songs, "--name", "x", "--library", library, code=2)


def test_a_broken_style_is_named_and_the_others_are_listed(
    tmp_path: Path, songs: tuple[Path, Path]
) -> None:
    library = tmp_path / "lib"
    run("add", songs[0], "--library", library, "--segment_duration", 3)
    (library / "b.json").write_text("{")
    for command in (["list"], ["find", library / "a song.json"]):
        out, err = run(*command, "--library", library, code=1)
        assert out.startswith("a song: ")
        assert f"{library / 'b.json'}: expected a readable JSON file" in err
    _, err = run("list", "--library", tmp_path / "none", code=1)
    assert "expected a folder of saved styles" in err
