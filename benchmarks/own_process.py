"""Measure in a process of its own, so that its peak of resident memory is its own."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def run_in_own_process(module: str, job: "DataclassInstance", num_threads: int) -> dict[str, Any]:
    """Run `python -m <module> --job <the job as JSON>`.

    Args:
        module: prints its figures as JSON.
        job: what is measured.
        num_threads: of OpenMP.

    Returns:
        the job's values and the figures.
    """
    command = [sys.executable, "-m", module, "--job", json.dumps(asdict(job))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return {**asdict(job), **json.loads(done.stdout)}
