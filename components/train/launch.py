"""Start the worker processes of a training by `torchrun`, and tell why one of them failed."""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixprint.atomic import read_json, write_json
from mixprint.cores import threads_each
from mixprint.errors import TrainingError

JOB_FILE = "job.json"
ERROR_FILE = "error.json"

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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num_processes), "-m", worker, str(job_path)]
    # torchrun gives each of several workers one thread; they can have their part of the cores.
    threads = threads_each(num_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    log.info(
        "starting %d worker processes, %s threads each",
        num_processes,
        environment["OMP_NUM_THREADS"],
    )
    code = subprocess.run(command, env=environment, check=False).returncode
    if code != 0:
        error_path = folder / ERROR_FILE
        reason = read_json(error_path)["error"] if error_path.exists() else "no message"
        raise TrainingError(f"a training worker ended with exit code {code}: {reason}")


@contextmanager
def rank_job(description: str | None) -> Iterator[dict[str, Any]]:
    """Read the job that the command line of a worker names; leave its error where it is looked for.

    Args:
        description: of the worker, for its command line.

    Yields:
        the job.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("job", type=Path)
    path = parser.parse_args().job
    try:
        yield read_json(path)
    except Exception as error:
        # torchrun shows only that a worker has failed; the step wants to say why. The first that
        # failed knows: the others lost it.
        if not (path.parent / ERROR_FILE).exists():
            message = f"{type(error).__name__}: {error}"
            write_json(path.parent / ERROR_FILE, {"error": message})
        raise
