"""Locks: one holder at a time, and none left behind by a process that was killed."""

import errno
import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from mixprint.errors import DataError
from mixprint.storage import locks
from mixprint.storage.locks import IN_USE_NAME, locked, sole_use

ROUNDS = 50


def _count_up(folder: Path) -> None:
    for _ in range(ROUNDS):
        with locked(folder / "lock"):
            count = int((folder / "count").read_text())
            (folder / "count").write_text(str(count + 1))


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count_up, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert int((tmp_path / "count").read_text()) == 4 * ROUNDS


def _die(folder: Path) -> None:
    with locked(folder / "lock"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_holds_none(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with locked(tmp_path / "lock"):
        pass


def test_patience_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.01)
    with locked(tmp_path / "lock"), pytest.raises(TimeoutError), locked(tmp_path / "lock", 0.05):
        pass
    with locked(tmp_path / "lock", 0.0):
        pass


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
@pytest.mark.parametrize("patience_s", [{}, {"patience_s": 1.0}], ids=["for ever", "a second"])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: dict[str, float], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    message = r"lock: expected a file system with locks \(flock\), found: .*Operation not supported"
    with pytest.raises(DataError, match=message), locked(tmp_path / "lock", **patience_s):
        pass


def test_a_folder_in_use_names_the_other_run_and_is_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with sole_use(folder, "transfer of a.wav"):
        message = rf"out: .*only run at work.*transfer of a\.wav \(process {os.getpid()} on "
        with pytest.raises(DataError, match=message), sole_use(folder, "transfer of b.wav"):
            pass
    assert list(folder.iterdir()) == []
    with sole_use(folder, "transfer of b.wav"):
        pass


def _die_in_use(folder: Path) -> None:
    with sole_use(folder, "a run that is killed"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_keeps_nobody_out_of_its_folder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_in_use, args=(tmp_path,))
    process.start()
    process.join()
    assert (tmp_path / IN_USE_NAME).exists()
    with sole_use(tmp_path, "the next run"):
        pass
    assert not (tmp_path / IN_USE_NAME).exists()


def _use_and_count(folder: Path) -> None:
    done = 0
    while done < ROUNDS:
        try:
            with sole_use(folder / "out", "counting"):
                count = int((folder / "count").read_text())
                (folder / "count").write_text(str(count + 1))
                done += 1
        except DataError:
            continue


def test_removing_the_lock_lets_no_two_in(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_use_and_count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert int((tmp_path / "count").read_text()) == 3 * ROUNDS
