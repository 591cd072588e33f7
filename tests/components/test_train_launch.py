"""How a training that fails looks to who has started it."""

import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from components.train import launch, watch
from components.train.launch import Node, errors_told, start_workers
from mixprint.errors import ConfigError, DataError, TrainingError
from mixprint.fingerprint import fingerprint
from mixprint.storage.atomic import write_json
from tests.components.workplace import REPOSITORY
from tests.processes import is_alive, wait_until

WORKER = "tests.components.failing_worker"


def test_an_error_of_the_user_is_all_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(TrainingError) as raised:
        start_workers(WORKER, {"rank": 1, "failure": "user"}, tmp_path, 2)
    assert str(raised.value) == "songs: expected some, found none"
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    assert "FAILED" not in shown
    assert "failed" not in shown


def test_a_bug_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    message = "a training worker ended with exit code 1: ZeroDivisionError: a bug"
    with pytest.raises(TrainingError, match=message):
        start_workers(WORKER, {"rank": 0, "failure": "bug"}, tmp_path, 1)
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1
    assert 'raise ZeroDivisionError("a bug")' in shown
    assert shown.rstrip().endswith("ZeroDivisionError: a bug")


def test_a_worker_that_was_killed_is_told_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    write_json(tmp_path / launch.ERROR_FILE, {"error": "of an earlier start", "is_users": True})
    with pytest.raises(TrainingError, match="ended with exit code 137: no message"):
        start_workers(WORKER, {"rank": 0, "failure": "killed"}, tmp_path, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nobody_trains_on_when_the_step_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    job = {"rank": 0, "failure": "hangs", "pid_file": str(pid_file)}
    start = f"start_workers({WORKER!r}, {job!r}, Path({str(tmp_path)!r}), 1)"
    code = f"from components.train.launch import *\n{start}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY) as step:
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        step.send_signal(number)
    worker = int(pid_file.read_text())
    wait_until(lambda: not is_alive(worker))


def test_nobody_trains_when_the_step_has_gone_before_torchrun_was_ready(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = {"rank": 0, "failure": "hangs", "pid_file": str(pid_file)}
    # A step that ends as soon as it has started `torchrun`, whose imports take seconds.
    code = f"""
import os, subprocess
from pathlib import Path
from components.train import launch, watch
Popen = subprocess.Popen
def start(command, env):
    child = Popen(command, env=env)
    Path({str(tmp_path / "torchrun")!r}).write_text(str(child.pid))
    os._exit(0)
launch.subprocess.Popen = start
launch.start_workers({WORKER!r}, {job!r}, Path({str(tmp_path)!r}), 1)
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
    torchrun = int((tmp_path / "torchrun").read_text())
    wait_until(lambda: pid_file.exists() or not is_alive(torchrun))
    if pid_file.exists():
        os.kill(torchrun, signal.SIGTERM)
        pytest.fail("a rank has started for a step that is gone")


@pytest.mark.parametrize(
    ("nodes", "number", "expected"),
    [
        (None, None, Node(0, is_alone=True)),
        ("1", "0", Node(0, is_alone=True)),
        ("1:1", None, Node(0, is_alone=True)),
        ("2", "0", Node(0, is_alone=False)),
        ("2", "1", Node(1, is_alone=False)),
        ("1:4", "3", Node(3, is_alone=False)),
        ("2", None, "PET_NODE_RANK: expected the number of this machine, 0..1"),
        ("2", "2", "beside PET_NNODES=2, found '2'"),
        ("two", "0", "PET_NNODES: expected a number of machines, found 'two'"),
    ],
)
def test_the_environment_names_the_machine(
    monkeypatch: pytest.MonkeyPatch, nodes: str | None, number: str | None, expected: Node | str
) -> None:
    for name, value in (("PET_NNODES", nodes), ("PET_NODE_RANK", number)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if isinstance(expected, Node):
        assert Node.from_environment() == expected
        return
    with pytest.raises(ConfigError, match=expected):
        Node.from_environment()


@dataclass(frozen=True)
class DeviceJob:
    device: str


def test_another_job_than_the_machines_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "job.json", {"device": "cuda"})
    arguments = [str(tmp_path / "job.json"), "--fingerprint", fingerprint({"device": "cpu"})]
    monkeypatch.setattr(sys, "argv", ["worker", *arguments])
    monkeypatch.setattr(launch, "end_with_starter", lambda: None)
    with pytest.raises(SystemExit), launch.rank_job(DeviceJob, None):
        pytest.fail("the job was given")
    told = launch._told(tmp_path)
    assert told is not None
    assert "job.json: expected the same job as this machine's own, found another" in told.error
    monkeypatch.setattr(sys, "argv", ["worker", arguments[0]])
    with launch.rank_job(DeviceJob, None) as job:
        assert job == DeviceJob(device="cuda")


def test_who_has_lost_another_rank_waits_for_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        with errors_told(tmp_path):
            raise error

    monkeypatch.setattr(launch, "REASON_PATIENCE_S", 0.2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="lost"):
        fail(RuntimeError("lost"))
    # The user's error, though later, is the one to tell; nothing covers it.
    for error in (DataError("first"), RuntimeError("lost"), DataError("second")):
        with pytest.raises(SystemExit) as ended:
            fail(error)
        assert ended.value.code == 1
    assert launch._told(tmp_path) == launch._Told(error="first", is_users=True)


def test_a_rank_that_hangs_ends_the_step_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv(watch.LIMIT_VARIABLE, "3")
    message = r"^rank 1 \(process \d+ on .*\) has not answered for \d s and is suspended: ended"
    with pytest.raises(TrainingError, match=message):
        start_workers(WORKER, {"rank": 1, "failure": "suspended"}, tmp_path, 2)


class Watched:
    """A process whose signs of life and whose watcher's clock are the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.beats = 0.0, 0
        self.path = folder / "1"
        self.path.write_text(str(os.getpid()))
        monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [])
        self.watch = watch.Watch(folder, os.getpid(), lambda: self.now_s)

    def silent(self, after_s: float = 1.0, *, beats: bool = False) -> list[str]:
        self.now_s += after_s
        self.beats += beats
        os.utime(self.path, (self.beats, self.beats))
        return [str(found) for found in self.watch.look(90)]


def test_a_silence_is_told_after_a_minute_and_ends_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("mixprint"), "propagate", True)
    process = Watched(tmp_path, monkeypatch)
    assert process.silent() == []
    for _ in range(59):
        assert process.silent() == []
    assert caplog.messages == []
    assert process.silent() == []
    told = f"rank 1 (process {os.getpid()} on {socket.gethostname()}) has not answered for 60 s; "
    assert [message.startswith(told) for message in caplog.messages] == [True]
    assert process.silent(beats=True) == []
    for _ in range(89):
        assert process.silent() == []
    (found,) = process.silent()
    assert "has not answered for 90 s" in found
    assert len(caplog.messages) == 2


def test_time_that_the_watcher_was_suspended_itself_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when all of a training is stopped on a terminal, or the machine sleeps."""
    process = Watched(tmp_path, monkeypatch)
    assert process.silent() == []
    assert process.silent(after_s=10_000) == []
    for _ in range(87):
        assert process.silent() == []
    assert process.silent() != []


def test_a_reader_that_is_suspended_is_silent_too(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as reader:
        try:
            reader.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, reader.pid, os.WSTOPPED | os.WNOWAIT)
            now_s = 0.0
            looks = watch.Watch(tmp_path, reader.pid, lambda: now_s)
            assert looks.look(1.5) == []
            now_s = 2.0
            (found,) = looks.look(1.5)
            assert (found.name, found.pid, found.is_suspended) == ("sleep", reader.pid, True)
            reader.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, reader.pid, os.WCONTINUED | os.WNOWAIT)
            now_s = 4.0
            assert looks.look(1.5) == []
        finally:
            reader.kill()


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(watch.LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match="MIXPRINT_RANK_SILENT_S: expected a number of seconds"):
        watch.silence_limit_s()
