"""Processes that do not outlive the one that started them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

STARTER_POLL_S = 0.5


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


def _end_after(wait: Callable[[], None], number: signal.Signals) -> None:
    def watch() -> None:
        wait()
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent", daemon=True).start()
