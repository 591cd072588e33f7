"""Locks: one holder at a time, and none left behind by a process that was killed."""

import multiprocessing
import os
import signal
from pathlib import Path

from mixprint.locks import locked

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
