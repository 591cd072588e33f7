"""Processes that share the cores, and do not outlive the one that started them."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from mixprint.errors import MixprintError

STARTER_POLL_S = 0.5
# A shell's convention, and the engines', for the exit code of a program that a signal has ended.
SIGNAL_BASE = 128
MAX_SOCKET_PATH = 108

Task = TypeVar("Task")
Result = TypeVar("Result")


def threads_each(num_processes: int) -> int:
    """Return the threads that each of several processes gets of the shared cores; at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // num_processes)


def end_with_parent() -> None:
    """End this process of a pool when its parent is gone: a killed parent stops nobody.

    Without it the processes of a pool would wait for their next task for ever. Made to be the
    initialiser of a pool.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    _end_after(parent.join, signal.SIGKILL)


def end_with_starter(starter: int | None = None) -> None:
    """End this program, as SIGTERM does, when the one that started it is gone, however it ended.

    A step that is killed stops nobody: its training would go on, and hold the cores, the GPUs and
    the folder against the next start. SIGTERM lets a program end those that it has started itself.

    Args:
        starter: process id of who started this one, where that is known; it may have gone while
            this one was importing. The present parent when None.
    """
    starter = os.getppid() if starter is None else starter

    # Who started a program by its command line shares nothing with it that would tell of its end.
    def wait() -> None:
        while os.getppid() == starter:
            time.sleep(STARTER_POLL_S)

    _end_after(wait, signal.SIGTERM)


def end_with(pid: int) -> None:
    """End this program, as SIGTERM does, when another one is gone that need not be its parent.

    Args:
        pid: process id of the other one.
    """
    started_ticks = process_state(pid)[1]

    def wait() -> None:
        while runs(pid, started_ticks):
            time.sleep(STARTER_POLL_S)

    _end_after(wait, signal.SIGTERM)


def runs(pid: int, started_ticks: int) -> bool:
    """Tell whether a process of this machine is alive, and not another one of the same id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    state, started = process_state(pid)
    return state not in ("Z", "X") and started in (started_ticks, 0)


def process_state(pid: int) -> tuple[str, int]:
    """Read a process's state and its start in clock ticks since boot; ("", 0) if hidden.

    Source: proc_pid_stat(5): fields 3 and 22; the name in field 2 may hold spaces and brackets.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end what is inside as `SystemExit`, so that it can put its things in order.

    A program that is the first of its container would else not end at all. Only for the main
    thread; elsewhere it changes nothing.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(SIGNAL_BASE + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_after(wait: Callable[[], None], number: signal.Signals) -> None:
    def watch() -> None:
        wait()
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@dataclass(frozen=True)
class ProcessEnded:
    """Stands for the result of a task whose process was ended by a signal."""

    signal: int

    @property
    def reason(self) -> str:
        """Return the most likely cause, and what helps."""
        return (
            f"its process was ended by signal {self.signal}, most likely for want of memory; try "
            "fewer jobs at a time"
        )


def side_by_side(
    tasks: Sequence[Task],
    num_processes: int,
    start: Callable[[], Callable[[Task], Result]],
    *,
    meanwhile: Callable[[], None] | None = None,
    every_s: float = 1.0,
) -> Generator[tuple[int, Result | ProcessEnded], None, None]:
    """Do tasks in several processes; one that is killed takes no other task with it.

    A new process takes the place of one that is killed. Those of concurrent.futures would all be
    given up then.

    Args:
        tasks: each travels to a process.
        num_processes: how many work at a time.
        start: called once in each process; gives what does a task there.
        meanwhile: called here while tasks are done, to show how far they are.
        every_s: time between two such calls.

    Yields:
        the index of a task and its result, as they finish.

    Raises:
        MixprintError: `start` failed.
        RuntimeError: a process ended by itself; its traceback is on standard error.
    """
    # Forking a process whose torch has started threads can lock up; one that only waits to be
    # forked has imported once for all what the tasks need.
    context = (
        multiprocessing.get_context("forkserver")
        if _sockets_fit()
        else multiprocessing.get_context("spawn")
    )
    context.set_forkserver_preload([_module(start)])
    left = deque(range(len(tasks)))
    # Where each process that is at work is reached, and at which task it is.
    busy: dict[Connection, tuple[BaseProcess, int]] = {}
    try:
        while left or busy:
            while left and len(busy) < num_processes:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, start), daemon=True)
                process.start()
                # With the only other end gone, the end of the process is the end of the pipe.
                there.close()
                busy[here] = process, left.popleft()
                _send(here, tasks[busy[here][1]])
            ended = wait(list(busy), None if meanwhile is None else every_s)
            if meanwhile is not None:
                meanwhile()
            for connection in ended:
                assert isinstance(connection, Connection)
                worker, index = busy[connection]
                try:
                    is_result, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    del busy[connection]
                    yield index, _ended(worker)
                    continue
                if not is_result:
                    raise value
                if left:
                    busy[connection] = worker, left.popleft()
                    _send(connection, tasks[busy[connection][1]])
                else:
                    del busy[connection]
                    connection.close()
                    worker.join()
                yield index, value
    finally:
        for worker, _ in busy.values():
            worker.terminate()
        for worker, _ in busy.values():
            worker.join()


def _sockets_fit() -> bool:
    """Tell whether the path of a socket among the temporary files is short enough; see unix(7)."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return len(os.fsencode(folder)) + len("/pymp-12345678/listener-12345678") < MAX_SOCKET_PATH


def _module(function: Callable[..., object]) -> str:
    """Name the module of a function, or of what a partial calls."""
    return _module(function.func) if isinstance(function, partial) else function.__module__


def _send(connection: Connection, task: object) -> None:
    """Send a task; that the process has ended meanwhile is noticed where its result is awaited."""
    with suppress(BrokenPipeError):
        connection.send(task)


def _ended(process: BaseProcess) -> ProcessEnded:
    process.join()
    code = process.exitcode
    assert code is not None
    if 0 <= code <= SIGNAL_BASE:
        raise RuntimeError(f"a process ended with code {code} while it was at work")
    return ProcessEnded(-code if code < 0 else code - SIGNAL_BASE)


def _serve(connection: Connection, start: Callable[[], Callable[[Task], Result]]) -> None:
    end_with_parent()
    # Ctrl-C reaches all processes; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = start()
    except MixprintError as error:
        connection.send((False, error))
        return
    # What a task has begun to write goes when it is ended.
    with sigterm_exits():
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            connection.send((True, work(task)))
