"""Start the worker processes of a training by `torchrun`, and tell why one of them failed.

Several machines train together when each of them starts the step, with the same parameters and the
same folders, in an environment that names the others, as Kubeflow's PyTorchJob and TrainJob set it
and `torchrun` reads it: PET_NNODES and PET_NODE_RANK, with PET_MASTER_ADDR and PET_MASTER_PORT or
with PET_RDZV_BACKEND and PET_RDZV_ENDPOINT. The number of processes on each machine is the step's
own parameter. Where cluster.yaml names several nodes, the step has them start by itself; see
`components.train.trainjob`.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from components.run_folder import RunFolder
from components.train.trainjob import Nodes, run_on_nodes
from components.train.watch import (
    FOLDER_VARIABLE,
    LOOK_S,
    Watch,
    end_silent,
    signs_of_life,
    silence_limit_s,
)
from mixprint.errors import ConfigError, DataError, MixprintError, TrainingError
from mixprint.fingerprint import fingerprint
from mixprint.machine.processes import end_with_starter, threads_each
from mixprint.schema import as_record, read_record
from mixprint.storage.atomic import read_json, write_json

TORCHRUN = "components.train.torchrun"
JOB_FILE = "job.json"
ERROR_FILE = "error.json"
# What a rank that has lost another one waits for that one's own reason.
REASON_PATIENCE_S, REASON_POLL_S = 3.0, 0.05
# How long `torchrun` may take to end when this program is told to end.
END_PATIENCE_S = 10.0
# What `torchrun` takes for its arguments --nnodes and --node-rank.
NODES_VARIABLE, NODE_VARIABLE = "PET_NNODES", "PET_NODE_RANK"
# Process id of the step, for the `torchrun` that it starts.
STEP_VARIABLE = "MIXPRINT_TRAINING_STEP"

_Job = TypeVar("_Job")

log = logging.getLogger("mixprint.train")


@dataclass(frozen=True)
class Node:
    """This machine among those that train together.

    Attributes:
        number: from 0; that one writes for all what lies in the shared folder, but for the
            results, which are the first rank's, on whichever machine that is.
        is_alone: whether there is no other.
    """

    number: int
    is_alone: bool

    @classmethod
    def from_environment(cls) -> Self:
        """Read which machine this is; alone where the environment names no others.

        Raises:
            ConfigError: there are several, and this one has no number among them.
        """
        nodes = os.environ.get(NODES_VARIABLE, "1")
        # Either their number, or the least and the most of them.
        if (match := re.fullmatch(r"(?:\d+:)?(\d+)", nodes)) is None:
            raise ConfigError(f"{NODES_VARIABLE}: expected a number of machines, found {nodes!r}")
        most = int(match[1])
        if most <= 1:
            return cls(0, is_alone=True)
        number = os.environ.get(NODE_VARIABLE, "")
        if not (number.isdecimal() and int(number) < most):
            raise ConfigError(
                f"{NODE_VARIABLE}: expected the number of this machine, 0..{most - 1}, beside "
                f"{NODES_VARIABLE}={nodes}, found {number!r}"
            )
        return cls(int(number), is_alone=False)

    @property
    def is_first(self) -> bool:
        """Tell whether this is the machine that writes for all."""
        return self.number == 0


def start_workers(
    worker: str,
    job: Mapping[str, Any],
    folder: Path,
    num_processes: int,
    run: RunFolder | None = None,
) -> None:
    """Start the ranks of this machine, or of the nodes of a TrainJob, and wait for all of them.

    Of several machines the first one writes the job. No rank starts before all machines have
    joined, so every rank finds it, and none finds the error of an earlier start.

    Args:
        worker: dotted name of the module that is one rank; it reads its job by `rank_job`.
        job: what the workers have to do, as JSON can hold it; folders of the run by their URIs.
        folder: of what only the training itself needs.
        num_processes: number of ranks on this machine.
        run: that the folder belongs to; None: nothing but the folder.

    Raises:
        TrainingError: a worker failed; the message is its own.
        ConfigError: see `Node.from_environment` and `run_on_nodes`.
    """
    nodes = _nodes()
    run = run or RunFolder(folder)
    error_name = run.name_of(folder / ERROR_FILE)
    run.refresh(error_name)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    if nodes is not None:
        failure = run_on_nodes(nodes, worker, job, folder, num_processes, run)
    else:
        failure = _run_here(worker, job, folder, num_processes, run)
    if failure:
        run.refresh(error_name)
        told = _told(folder)
        if told is not None and told.is_users:
            raise TrainingError(told.error)
        raise TrainingError(f"{failure}: {'no message' if told is None else told.error}")


def ranks_device(name: str) -> str:
    """Say where the ranks compute; each takes the GPU of its own number.

    Args:
        name: see `mixprint.machine.device.training_device`.

    Returns:
        cpu, cuda or xla; the name itself if a TrainJob's nodes will see what they have.
    """
    if _nodes() is not None or name == "cpu":
        return name
    # What looks for GPUs takes seconds to import, and this process needs it for nothing else.
    from mixprint.machine.device import training_device

    return training_device(name).type


def _nodes() -> Nodes | None:
    """Return the nodes that this step is to have started; one of them has none to start."""
    return Nodes.from_environment() if Node.from_environment().is_alone else None


def _run_here(
    worker: str, job: Mapping[str, Any], folder: Path, num_processes: int, run: RunFolder
) -> str:
    """Run `torchrun`; say what has failed, if anything."""
    node = Node.from_environment()
    job_path = folder / JOB_FILE
    job = run.localised(job)
    if node.is_first or run.is_mirror:
        write_json(job_path, job)
    command = [sys.executable, "-m", TORCHRUN, *(["--standalone"] if node.is_alone else [])]
    command += ["--nproc-per-node", str(num_processes)]
    command += ["-m", worker, str(job_path), "--fingerprint", fingerprint(job)]
    # torchrun gives each of several workers one thread; they can have their part of the cores.
    threads = threads_each(num_processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, STEP_VARIABLE: str(os.getpid())}
    log.info(
        "worker processes to start: %d, with %s threads each",
        num_processes,
        environment["OMP_NUM_THREADS"],
    )
    limit_s = silence_limit_s()
    with tempfile.TemporaryDirectory() as signs:
        environment[FOLDER_VARIABLE] = signs
        with subprocess.Popen(command, env=environment) as torchrun:
            try:
                code = _watched(torchrun, Watch(Path(signs), torchrun.pid), limit_s, folder)
            except (KeyboardInterrupt, SystemExit):
                _end(torchrun)
                raise
    return f"a training worker ended with exit code {code}" if code != 0 else ""


def _watched(torchrun: subprocess.Popen[bytes], watch: Watch, limit_s: float, folder: Path) -> int:
    """Wait for `torchrun`, and end it if a process of the training is silent for too long."""
    while True:
        try:
            return torchrun.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            if found := watch.look(limit_s):
                # The others, which lose it, leave this reason alone.
                tell_error(folder, end_silent(found), is_users=True)
                _end(torchrun)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def rank_job(kind: type[_Job], description: str | None) -> Iterator[_Job]:
    """Read the job that the command line of a worker names; its errors end as in `errors_told`.

    Args:
        kind: of the job.
        description: of the worker, for its command line.

    Yields:
        the job.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("job", type=Path)
    parser.add_argument("--fingerprint", help="of the job that this machine expects")
    args = parser.parse_args()
    path: Path = args.job
    end_with_starter()
    with signs_of_life(), errors_told(path.parent):
        values = read_json(path)
        if args.fingerprint not in (None, fingerprint(values)):
            raise TrainingError(
                f"{path}: expected the same job as this machine's own, found another: all machines "
                "must have the same parameters and devices, and see the same folder"
            )
        yield as_record(values, path, kind)


@dataclass(frozen=True, kw_only=True)
class _Told:
    """An error that a worker has left."""

    error: str
    is_users: bool


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
            tell_error(folder, str(error), is_users=True)
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
            tell_error(folder, f"{type(error).__name__}: {error}", is_users=False)
        raise


def tell_error(folder: Path, message: str, *, is_users: bool) -> None:
    """Leave an error where `start_workers` looks for it, if it can be written.

    Args:
        folder: of the job.
        message: what has failed.
        is_users: whether the user can mend it, so that nothing else need be said.
    """
    try:
        write_json(folder / ERROR_FILE, {"error": message, "is_users": is_users})
    except (DataError, OSError) as error:
        log.error("%s (it could not be told to the step: %s)", message, error)


def _told(folder: Path) -> _Told | None:
    path = folder / ERROR_FILE
    try:
        return read_record(path, _Told) if path.exists() else None
    except DataError as error:
        log.warning("%s", error)
        return None


def _is_users_told(folder: Path) -> bool:
    told = _told(folder)
    return told is not None and told.is_users
