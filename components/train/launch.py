"""Start the worker processes of a training by `torchrun`, and tell why one of them failed."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixprint.atomic import read_json, write_json
from mixprint.cores import threads_each
from mixprint.errors import DataError, MixprintError, TrainingError

TORCHRUN = "components.train.torchrun"
JOB_FILE = "job.json"
ERROR_FILE = "error.json"
# What a rank that has lost another one waits for that one's own reason.
REASON_PATIENCE_S, REASON_POLL_S = 3.0, 0.05
PARENT_POLL_S = 0.5
# Process id of the step, for the `torchrun` that it starts.
STEP_VARIABLE = "MIXPRINT_TRAINING_STEP"

log = logging.getLogger("mixprint.train")


def start_workers(worker: str, job: dict[str, Any], folder: Path, num_processes: int) -> None:
    """Start one worker per rank and wait for all of them.

    Args:
        worker: dotted name of the module that is one rank; it reads its job by `rank_job`.
        job: what the workers have to do, as JSON can hold it.
        folder: of what only the training itself needs.
        num_processes: number of ranks on this machine.

    Raises:
        TrainingError: a worker failed; the message is its own.
    """
    job_path = folder / JOB_FILE
    write_json(job_path, job)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", TORCHRUN, "--standalone"]
    command += ["--nproc-per-node", str(num_processes), "-m", worker, str(job_path)]
    # torchrun gives each of several workers one thread; they can have their part of the cores.
    threads = threads_each(num_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, STEP_VARIABLE: str(os.getpid())}
    log.info(
        "starting %d worker processes, %s threads each",
        num_processes,
        environment["OMP_NUM_THREADS"],
    )
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        told = _told(folder)
        if told is not None and told["is_users"]:
            raise TrainingError(told["error"])
        reason = "no message" if told is None else told["error"]
        raise TrainingError(f"a training worker ended with exit code {code}: {reason}")


@contextmanager
def rank_job(description: str | None) -> Iterator[dict[str, Any]]:
    """Read the job that the command line of a worker names; its errors end as in `errors_told`.

    Args:
        description: of the worker, for its command line.

    Yields:
        the job.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("job", type=Path)
    path = parser.parse_args().job
    end_with_parent()
    with errors_told(path.parent):
        yield read_json(path)


def end_with_parent(parent: int | None = None) -> None:
    """End this process, as SIGTERM does, when the one that started it is gone, however it ended.

    A step that is killed stops nobody: its ranks would train on, and hold the cores, the GPUs and
    the folder against the next start.

    Args:
        parent: process id of who started this one, where that is known; it may have gone while
            this one was importing. The present parent when None.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def errors_told(folder: Path) -> Iterator[None]:
    """Leave an error where `start_workers` looks for it.

    Used around the training itself, too: what encloses it may take seconds to end, for example the
    record in MLflow, and meanwhile `torchrun` may end this rank because another has failed.

    Args:
        folder: of the job.

    Raises:
        SystemExit: in place of an error that the user can mend, so that no traceback is shown; and
            of what a rank suffers from another one's.
    """
    try:
        yield
    except MixprintError as error:
        if not _is_users_told(folder):
            _tell(folder, str(error), is_users=True)
        raise SystemExit(1) from error
    except Exception as error:
        # A rank that loses another one learns it from the connection, maybe before the other has
        # told why it ends.
        deadline_s = time.monotonic() + REASON_PATIENCE_S
        while int(os.environ.get("WORLD_SIZE", "1")) > 1 and time.monotonic() < deadline_s:
            if _is_users_told(folder):
                raise SystemExit(1) from error
            time.sleep(REASON_POLL_S)
        # The first that failed knows: the others lost it.
        if _told(folder) is None:
            _tell(folder, f"{type(error).__name__}: {error}", is_users=False)
        raise


def _tell(folder: Path, message: str, *, is_users: bool) -> None:
    try:
        write_json(folder / ERROR_FILE, {"error": message, "is_users": is_users})
    except (DataError, OSError) as error:
        log.error("%s (it could not be told to the step: %s)", message, error)


def _told(folder: Path) -> dict[str, Any] | None:
    path = folder / ERROR_FILE
    return read_json(path) if path.exists() else None


def _is_users_told(folder: Path) -> bool:
    told = _told(folder)
    return told is not None and told["is_users"]
