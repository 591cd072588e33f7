"""A rank for `test_train_launch`: the one that the job names fails, the others wait for it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from components.train.launch import rank_job
from mixprint.errors import DataError
from mixprint.training.ranks import barrier, process_group


@dataclass(frozen=True, kw_only=True)
class FailingJob:
    """Job of these ranks: which one fails, and how."""

    rank: int
    failure: str
    pid_file: str = ""
    device: str = ""


def main() -> None:
    with rank_job(FailingJob, __doc__) as job, process_group(torch.device("cpu")):
        barrier()
        if int(os.environ["RANK"]) == job.rank:
            if job.failure == "suspended":
                os.kill(os.getpid(), signal.SIGSTOP)
            if job.failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if job.failure == "bug":
                raise ZeroDivisionError("a bug")
            if job.failure == "hangs":
                Path(job.pid_file).write_text(str(os.getpid()))
                time.sleep(600)
            raise DataError("songs: expected some, found none")
        barrier()


if __name__ == "__main__":
    main()
