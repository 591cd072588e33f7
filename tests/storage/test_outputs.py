"""Places that are written to: what is refused, what is kept, what is known to be mixprint's own."""

import os
import threading
from pathlib import Path

import pytest

from mixprint.errors import DataError
from mixprint.storage.atomic import write_json
from mixprint.storage.outputs import (
    UNFINISHED_NAME,
    Kind,
    check_file,
    check_folder,
    check_place,
    remove_result,
    reserved,
    result_in,
    temporary_folder,
)

KIND = Kind(
    noun="a result",
    marker="result.json",
    keys=frozenset({"fingerprint"}),
    names=("page.html", "sound_*.wav", "stems/bass.wav"),
)
OTHER = Kind(noun="another thing", marker="other.json", keys=frozenset({"x"}), names=("page.html",))


def write_result(folder: Path) -> None:
    with result_in(folder, KIND):
        (folder / "page.html").write_text("page")
        (folder / "stems").mkdir(exist_ok=True)
        (folder / "stems" / "bass.wav").write_text("bass")
        write_json(folder / "result.json", {"fingerprint": "1"})


@pytest.mark.parametrize("name", ["page.html", "sound_1.wav", "stems/bass.wav", "result.json"])
def test_a_persons_own_files_are_never_written_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("my own")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=f"other files there: {name}"):
            check_folder(tmp_path, KIND, overwrite=overwrite)


def test_a_link_that_leads_nowhere_is_a_persons_own(tmp_path: Path) -> None:
    (tmp_path / "page.html").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"other files there: page\.html"):
        check_folder(tmp_path, KIND, overwrite=True)


def test_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my own")
    check_folder(tmp_path, KIND)
    write_result(tmp_path)
    remove_result(tmp_path, KIND)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_earlier_result_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_result(tmp_path)
    assert not (tmp_path / UNFINISHED_NAME).exists()
    with pytest.raises(DataError, match=r"found a result of another call.*--overwrite"):
        check_folder(tmp_path, KIND)
    check_folder(tmp_path, KIND, overwrite=True)
    check_folder(tmp_path, KIND, updates=True)
    # Another kind of result shares a name with it.
    with pytest.raises(DataError, match=r"found a result of another call.*--overwrite"):
        check_folder(tmp_path, OTHER, also=(KIND,), updates=True)
    check_folder(tmp_path, OTHER, also=(KIND,), overwrite=True)
    with pytest.raises(DataError, match="other files"):
        check_folder(tmp_path, OTHER, overwrite=True)


def test_what_a_killed_run_has_left_is_known(tmp_path: Path) -> None:
    def killed() -> None:
        with result_in(tmp_path, KIND):
            (tmp_path / "sound_1.wav").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    check_folder(tmp_path, KIND)
    remove_result(tmp_path, KIND)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["path", "symbolic link", "hard link", "dots", "linked folder"])
def test_an_input_is_never_written_over_whatever_it_is_called(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "out"
    write_result(folder)
    song, place = folder / "stems" / "bass.wav", folder
    if way == "symbolic link":
        song = tmp_path / "song.wav"
        song.symlink_to(folder / "stems" / "bass.wav")
    elif way == "hard link":
        song = tmp_path / "song.wav"
        os.link(folder / "stems" / "bass.wav", song)
    elif way == "dots":
        song = folder / ".." / "out" / "stems" / "bass.wav"
    elif way == "linked folder":
        place = tmp_path / "link"
        place.symlink_to(folder)
    with pytest.raises(DataError, match=r"of an input.*written over"):
        check_folder(place, KIND, inputs=[tmp_path / "gone.wav", song], overwrite=True)
    with pytest.raises(DataError, match="found the same"):
        check_file(place / "stems" / "bass.wav", lambda _: True, inputs=[song], overwrite=True)


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, is_folder, message in (
        (tmp_path / "file", True, "expected a folder to write to, found a file"),
        (tmp_path, False, "expected a file to write to, found a folder"),
        (tmp_path / "file" / "deeper", True, "Not a directory"),
        (tmp_path / "file" / "x.json", False, "Not a directory"),
        (tmp_path / "loop", True, "symbolic links"),
        (tmp_path / ("x" * 300), True, "too long"),
        (tmp_path / ("x" * 300), False, "too long"),
    ):
        with pytest.raises(DataError, match=message):
            check_place(path, is_folder=is_folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="read-only"):
        check_place(tmp_path / "new" / "folder", is_folder=True)
    assert not (tmp_path / "new").exists()


def test_names_that_are_no_text_can_be_said(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_result(folder)
    with pytest.raises(DataError, match=r"caf\\xe9") as caught:
        check_folder(folder, KIND)
    str(caught.value).encode()


def test_a_file_is_replaced_only_where_it_is_ours_and_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "style.json"
    check_file(path, lambda _: False)
    write_json(path, {})
    with pytest.raises(DataError, match="one that mixprint has written, found another"):
        check_file(path, lambda _: False, overwrite=True)
    with pytest.raises(DataError, match="--overwrite"):
        check_file(path, lambda _: True)
    check_file(path, lambda _: True, overwrite=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with reserved(folder, "a transfer of a.wav"):
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(DataError, match=r"found a transfer of a\.wav"), reserved(folder, "b"):
        pass
    left.set()
    thread.join()
    # What was made for nothing is not left behind.
    assert not folder.exists()
    folder.mkdir()
    with reserved(folder, "b"):
        pass
    assert folder.is_dir()


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.mkdtemp", none_usable)
    with pytest.raises(DataError, match=r"TMPDIR.*No usable"), temporary_folder():
        pass
