"""Pools: whose parent is killed, and of whose processes one is."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mixprint.cli.exits import clear_exits
from mixprint.errors import AudioError
from mixprint.machine.processes import ProcessEnded, side_by_side
from mixprint.storage.atomic import atomic_path
from tests.processes import is_alive, wait_until

CODE = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from mixprint.machine.processes import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, context, initializer=end_with_parent) as pool:
        tasks = [pool.submit(time.sleep, 0.1) for _ in range(4)]
        [task.result() for task in tasks]
        print(*pool._processes, flush=True)
        os._exit(9)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_processes_of_a_pool_end_with_a_killed_parent(tmp_path: Path, method: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), method]
    parent = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert parent.returncode == 9
    children = parent.stdout.split()
    assert len(children) == 2
    wait_until(lambda: not any(is_alive(int(child)) for child in children))


def start(folder: Path) -> Callable[[int], int]:
    if not folder.is_dir():
        raise AudioError("unreadable", f"{folder}: expected a folder, found none")

    def work(task: int) -> int:
        (folder / f"{task} {os.getpid()}").touch()
        if task < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 0:
            sys.exit(3)
        return task * task

    return work


def test_a_killed_process_takes_one_task_with_it(tmp_path: Path) -> None:
    tasks = [3, -1, 4, -2, 5]
    found = dict(side_by_side(tasks, 2, partial(start, tmp_path)))
    ended = ProcessEnded(signal.SIGKILL)
    assert found == {0: 9, 1: ended, 2: 16, 3: ended, 4: 25}
    began = [path.name.split() for path in tmp_path.iterdir()]
    assert sorted(int(task) for task, _ in began) == sorted(tasks)
    pids = {int(pid) for _, pid in began}
    # Two at first, and one in the place of each that was killed while there was work.
    assert 3 <= len(pids) <= 4
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_temporary_files_may_lie_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too deep for the path of a socket."""
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert list(side_by_side([2], 1, partial(start, tmp_path))) == [(0, 4)]
    assert list(deep.iterdir()) == []


def test_no_process_is_left_when_nobody_asks_on(tmp_path: Path) -> None:
    results = side_by_side([2, 3, 4], 1, partial(start, tmp_path))
    assert next(results) == (0, 4)
    results.close()
    pids = {int(path.name.split()[1]) for path in tmp_path.iterdir()}
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def start_slow(folder: Path) -> Callable[[int], int]:
    def work(task: int) -> int:
        path = folder / f"half {task}"
        path.touch()
        try:
            time.sleep(60)
        finally:
            path.unlink()
        return task

    return work


def test_tasks_that_are_given_up_put_their_things_in_order(tmp_path: Path) -> None:
    num_looks = 0

    def give_up() -> None:
        nonlocal num_looks
        num_looks += len(list(tmp_path.glob("half *"))) == 2
        if num_looks == 2:
            raise KeyboardInterrupt

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(side_by_side([1, 2], 2, partial(start_slow, tmp_path), meanwhile=give_up, every_s=0.1))
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started_s < 60


def test_what_is_wrong_reaches_who_asked(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="expected a folder") as caught:
        list(side_by_side([1], 1, partial(start, tmp_path / "nowhere")))
    assert caught.value.reason == "unreadable"
    with pytest.raises(RuntimeError, match="code 3"):
        list(side_by_side([0, 1], 1, partial(start, tmp_path)))


def test_a_command_that_is_told_to_end_leaves_no_half_file(tmp_path: Path) -> None:
    @clear_exits
    def write() -> None:
        with atomic_path(tmp_path / "out.wav") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        write()
    assert ended.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
