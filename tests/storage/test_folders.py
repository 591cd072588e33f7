"""Folders that are replaced: by one process, by several, and by one that is killed."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixprint.storage import folders
from mixprint.storage.folders import restore_folder, whole_folder


def put(folder: Path, text: str) -> None:
    with whole_folder(folder) as temporary:
        (temporary / "a.txt").write_text(text)


def content(folder: Path) -> str:
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    return (folder / "a.txt").read_text()


@pytest.mark.parametrize("name", ["song", "x" * 255])
def test_a_folder_is_made_and_replaced(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "new" / name
    for text in ("first", "second"):
        put(folder, text)
        assert content(folder) == text
        assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_and_one_behind_a_link_are_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for text in ("first", "second"):
        put(tmp_path / "link", text)
        assert content(tmp_path / "real") == text
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_an_error_keeps_the_older_one(tmp_path: Path) -> None:
    put(tmp_path / "song", "older")

    def fail() -> None:
        with whole_folder(tmp_path / "song") as temporary:
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert content(tmp_path / "song") == "older"
    assert list(tmp_path.iterdir()) == [tmp_path / "song"]


def test_an_error_between_the_renames_puts_the_older_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "song", "older")
    renamed = folders._renamed

    def interrupt(source: Path, target: Path) -> bool:
        done = renamed(source, target)
        if target.name.startswith(folders.OLDER_PREFIX):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(folders, "_renamed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "song", "newer")
    assert content(tmp_path / "song") == "older"
    assert list(tmp_path.iterdir()) == [tmp_path / "song"]


def put_and_die(folder: Path, fatal_call: int) -> None:
    """Replace a folder in a process that ends at its n-th call that renames or removes."""
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        return
    calls = itertools.count(1)

    def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == fatal_call:
                os._exit(9)
            return function(*arguments, **options)

        return call

    try:
        with whole_folder(folder) as temporary:
            (temporary / "a.txt").write_text("newer")
            Path.rename, shutil.rmtree = fatal(Path.rename), fatal(shutil.rmtree)
    finally:
        os._exit(1)  # a second pytest must not go on


# To its place, which is taken; the older one aside; to its place; the older one to be discarded.
@pytest.mark.parametrize(
    ("call", "expected"), [(1, "older"), (2, "older"), (3, "older"), (4, "newer"), (5, "newer")]
)
def test_whenever_a_run_is_killed_one_of_the_two_is_there_whole(
    tmp_path: Path, call: int, expected: str
) -> None:
    folder = tmp_path / "song"
    put(folder, "older")
    put_and_die(folder, call)
    assert folder.exists() == (call != 3)
    restore_folder(folder)
    assert content(folder) == expected
    assert not list(tmp_path.glob(f"{folders.OLDER_PREFIX}*"))
    put(folder, "newest")
    assert content(folder) == "newest"


def test_what_was_set_aside_is_not_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "ABANDONED_S", -1.0)
    put(tmp_path / "song", "older")
    (tmp_path / "song").rename(folders._older(tmp_path / "song"))
    put(tmp_path / "another", "text")
    restore_folder(tmp_path / "song")
    assert content(tmp_path / "song") == "older"


def _restored(folder: Path) -> None:
    restore_folder(folder)


def _made_anew(folder: Path) -> None:
    put(folder, "another's")


@pytest.mark.parametrize("meanwhile", [_restored, _made_anew])
def test_other_processes_may_interfere_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Path], None]
) -> None:
    folder = tmp_path / "song"
    put(folder, "older")
    renamed = folders._renamed

    def rename(source: Path, target: Path) -> bool:
        done = renamed(source, target)
        if done and target.name.startswith(folders.OLDER_PREFIX):
            monkeypatch.setattr(folders, "_renamed", renamed)
            meanwhile(folder)
        return done

    monkeypatch.setattr(folders, "_renamed", rename)
    put(folder, "newer")
    assert content(folder) == "newer"
    assert list(tmp_path.iterdir()) == [folder]


def test_there_is_nothing_to_restore(tmp_path: Path) -> None:
    restore_folder(tmp_path / "nowhere" / "song")
    restore_folder(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    restore_folder(tmp_path / "file" / "song")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def die_half_filled(folder: Path) -> None:
    """Begin to fill a folder in a process that is killed."""
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        return
    try:
        with whole_folder(folder) as temporary:
            (temporary / "a.txt").write_text("half")
            os._exit(9)
    finally:
        os._exit(1)  # a second pytest must not go on


@pytest.mark.parametrize("look", [restore_folder, _made_anew])
def test_what_a_killed_run_has_half_filled_goes_at_the_next_look(
    tmp_path: Path, look: Callable[[Path], None]
) -> None:
    folder = tmp_path / "song"
    put(folder, "older")
    die_half_filled(folder)
    assert len(list(tmp_path.iterdir())) == 2
    look(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_living_run_is_filling_stays(tmp_path: Path) -> None:
    folder = tmp_path / "song"
    with whole_folder(folder) as temporary:
        restore_folder(folder)
        put(folder, "another's")
        assert temporary.is_dir()
        (temporary / "a.txt").write_text("mine")
    assert content(folder) == "mine"
    assert list(tmp_path.iterdir()) == [folder]


def test_who_removes_a_folder_before_it_is_locked_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that has just been made looks like an abandoned one, until it is locked."""
    mkdir = Path.mkdir

    def made_and_removed(path: Path, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        if path.name.startswith(folders.TEMPORARY_PREFIX):
            monkeypatch.setattr(Path, "mkdir", mkdir)
            restore_folder(tmp_path / "song")
            assert not path.exists()

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    put(tmp_path / "song", "text")
    assert content(tmp_path / "song") == "text"
