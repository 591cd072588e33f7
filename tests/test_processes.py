"""Pools whose parent is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import is_alive, wait_until

CODE = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from mixprint.processes import end_with_parent

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
