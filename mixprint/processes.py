"""Processes that do not outlive the one that started them."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """End this process of a pool when its parent is gone: a killed parent stops nobody.

    Without it the processes of a pool would wait for their next task for ever. Made to be the
    initialiser of a pool.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
