"""Processes that a test starts, and whether they are still there."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE_S = 60.0


def start_ranks(function: Callable[..., None], *arguments: object) -> None:
    """Run `function(rank, *arguments)` in two processes and wait for both."""
    # Not above: processes that tests start import this module, and not all of them need torch.
    from torch import multiprocessing

    multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def fork_program(main: Callable[[], None], arguments: list[str], log: Path) -> BaseProcess:
    """Start a program in a process that has imported torch already; a file gets its errors.

    Its command line would take seconds to import the same.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run_program, args=(main, arguments, log))
    process.start()
    return process


def _run_program(main: Callable[[], None], arguments: list[str], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = [main.__module__, *arguments]
    main()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and whose code nobody asked for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


def wait_until(happened: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for something that must happen soon."""
    deadline_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
