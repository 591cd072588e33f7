import errno
import os
from pathlib import Path

import pytest

from mixprint.errors import DataError
from mixprint.storage.atomic import (
    atomic_folder,
    atomic_path,
    read_json,
    remove_leftovers,
    write_json,
)


def test_error_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def die_halfway() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        die_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_and_creates_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.wav"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".wav"
        assert temporary.parent == path.parent
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_leftovers_of_one_file_are_told_from_those_of_another(tmp_path: Path) -> None:
    def leave_behind(path: Path) -> Path:
        """Write the name of a temporary file again, which a killed writer would not remove."""
        with atomic_path(path) as temporary:
            temporary.write_text("whole")
        path.unlink()
        temporary.write_text("half")
        return temporary

    mine = [leave_behind(tmp_path / "a.wav") for _ in range(2)]
    other = leave_behind(tmp_path / ("b" * 251 + ".wav"))
    assert remove_leftovers(tmp_path / "a.wav") == sorted(mine)
    assert list(tmp_path.iterdir()) == [other]
    assert remove_leftovers(tmp_path / "nowhere" / "a.wav") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"

    def fill_up() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, "full")

    with pytest.raises(DataError, match=rf"a\.txt.*disk full \({errno.errorcode[number]}\)"):
        fill_up()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO],
)
def test_what_the_system_says_against_writing_is_one_sentence(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"

    def refuse() -> None:
        with atomic_path(path):
            raise OSError(number, "no")

    with pytest.raises(DataError, match=rf"a\.txt: .*\({errno.errorcode[number]}\)$"):
        refuse()


def test_what_nobody_can_mend_passes(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "a.txt"):
            raise OSError(errno.EBADF, "our own mistake")

    with pytest.raises(OSError, match="our own mistake"):
        fail()


def test_a_folder_that_is_a_file_and_a_name_too_long_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"/file: .*File exists \(EEXIST\)$"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(DataError, match="File name too long"):
        write_json(tmp_path / ("b" * 300) / "a.json", {})


def test_names_that_are_no_text_survive_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write_json(tmp_path / "a.json", {"file": name, "title": "\ud800"})
    assert read_json(tmp_path / "a.json") == {"file": name, "title": "\ud800"}
    (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_round_trip_is_sorted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1.5, "a": ["é", None]})
    assert path.read_text() == '{\n  "a": [\n    "é",\n    null\n  ],\n  "b": 1.5\n}\n'
    assert read_json(path) == {"a": ["é", None], "b": 1.5}


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": Path("x")}])
def test_json_refuses_what_it_cannot_hold(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match=r"a\.json"):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"missing\.json"):
        read_json(tmp_path / "missing.json")


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "song"

    def break_off() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert not folder.exists()
    with atomic_folder(folder) as temporary:
        (temporary / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["song", "whole"]
