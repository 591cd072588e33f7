"""The ends of commands."""

import errno
import tempfile
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import mixprint.separation
from mixprint.cli import app

runner = CliRunner()


def _features_that_raise(
    monkeypatch: pytest.MonkeyPatch, song: Path, error: BaseException
) -> Result:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(mixprint.separation, "load_separator", fail)
    return runner.invoke(app, ["features", str(song)])


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
