"""The runner of containers, against a stand-in for the engine; the real one is below."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from kfp import dsl, local

from components.image import IMAGE as REAL_IMAGE
from mixprint.errors import ConfigError
from pipelines.docker_runner import Containers, ContainerSettings, connect, passed_on
from tests.pipelines.fake_engine import IMAGE, IMAGE_USER, PATIENCE_S, FakeEngine, serving
from tests.processes import wait_until

COMMAND = ("sh", "-ec", "something")
FOLDER = Path("/somewhere/run")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with serving(FakeEngine()) as fake:
        yield fake


@pytest.fixture(autouse=True)
def not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Folders change their owner only where the caller is root; pytest asks, too, for tmp_path."""
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 5678)


def containers(engine: FakeEngine, **settings: object) -> Containers:
    values = {"writable": (), **settings}
    return Containers(ContainerSettings(**values), IMAGE, FOLDER, engine.client)  # type: ignore[arg-type]


def run(engine: FakeEngine) -> tuple[bool, list[str]]:
    with containers(engine) as some:
        return some.run("train", IMAGE, COMMAND, {}), some.failures


def test_success_shows_whole_lines_and_leaves_nothing(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    # The engine sends what it gets; a line, and a letter, may come in two parts.
    engine.output = [b"first\nsec", "ond \u00e4\n".encode()[:-2], "\u00e4\n".encode()[1:], b"last"]
    assert run(engine) == (True, [])
    assert capsys.readouterr().out == "first\nsecond \u00e4\nlast\n"
    assert len(engine.created) == 1
    assert engine.containers == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"exit_code": 3}, "exit code 3"),
        ({"exit_code": 137}, "killed by SIGKILL, perhaps out of memory (limit: the machine's)"),
        ({"exit_code": 143}, "killed by SIGTERM"),
        ({"exit_code": 137, "oom_killed": True}, "killed, out of memory (limit: the machine's)"),
        ({"vanishes": True}, "it is gone before it told its exit code"),
    ],
)
def test_every_other_end_is_a_failure_that_says_so(
    engine: FakeEngine, values: dict[str, object], reason: str
) -> None:
    for name, value in values.items():
        setattr(engine, name, value)
    done, [told] = run(engine)
    assert not done
    assert told.startswith(f"container of step train: {reason}")
    assert engine.containers == {}


def test_a_lost_engine_is_a_failure() -> None:
    with serving(FakeEngine()) as engine:
        some = containers(engine)
    assert not some.run("train", IMAGE, COMMAND, {})
    assert "container of step train: the engine failed" in some.failures[0]


def test_a_container_may_do_next_to_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    some = containers(
        engine,
        writable=(tmp_path,),
        readable={tmp_path / "link": tmp_path / "link", Path("/models"): tmp_path / "data"},
        network="none",
        shm_size="64m",
        memory="2g",
        gpus="2",
        environment={"A": "1", "B": "1"},
    )
    with some:
        assert some.run("train", IMAGE, COMMAND, {"B": "2"})
    [body] = engine.created
    host = body["HostConfig"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert host["ReadonlyRootfs"]
    assert set(host["Tmpfs"]) == {"/tmp"}
    assert "Privileged" not in host
    assert (host["NetworkMode"], host["ShmSize"]) == ("none", 64 << 20)
    assert (host["Memory"], host["MemorySwap"]) == (2 << 30, 2 << 30)
    assert host["DeviceRequests"][0]["Count"] == 2
    mounts = {mount["Target"]: (mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]}
    assert mounts == {
        str(tmp_path): (str(tmp_path), False),
        str(tmp_path / "link"): (str(tmp_path / "data"), True),
        "/models": (str(tmp_path / "data"), True),
    }
    assert (body["User"], body["WorkingDir"]) == ("1234:5678", str(Path.cwd()))
    assert (body["Entrypoint"], body["Cmd"]) == (["sh"], ["-ec", "something"])
    assert sorted(body["Env"]) == ["A=1", "B=2"]


def test_root_of_a_rootless_engine_is_the_caller(engine: FakeEngine) -> None:
    engine.security_options = ["name=seccomp,profile=default", "name=rootless"]
    assert run(engine) == (True, [])
    assert engine.created[0]["User"] == "0:0"


def test_root_gives_the_folders_to_the_user_of_the_image(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(
        os, "chown", lambda path, uid, gid, *, follow_symlinks: given.update({path: (uid, gid)})
    )
    (tmp_path / "steps").mkdir()
    with containers(engine, writable=(tmp_path,)) as some:
        assert some.run("ingest", IMAGE, COMMAND, {})
    assert engine.created[0]["User"] == IMAGE_USER
    assert given == {tmp_path: (65532, 65532), tmp_path / "steps": (65532, 65532)}


def test_an_image_that_is_missing_is_named_before_anything_starts(engine: FakeEngine) -> None:
    with pytest.raises(ConfigError, match="expected the image other:1 in the engine"):
        Containers(ContainerSettings(writable=()), "other:1", FOLDER, engine.client)


def test_an_engine_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ConfigError, match=r"expected an engine at unix://.*none\.sock"):
        connect()


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing .*absent"):
        ContainerSettings(writable=(tmp_path / "absent",))
    with pytest.raises(ConfigError, match="gpus as a number or 'all', got 'two'"):
        ContainerSettings(writable=(), gpus="two")


def test_only_what_the_steps_need_of_the_environment_is_passed_on() -> None:
    environment = {"MLFLOW_TRACKING_URI": "u", "AWS_SECRET": "s", "PATH": "p", "PET_NNODES": "2"}
    assert passed_on(environment) == {"MLFLOW_TRACKING_URI": "u", "PET_NNODES": "2"}


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_removes_the_containers_of_this_run_only(
    engine: FakeEngine, number: signal.Signals, raised: type[BaseException]
) -> None:
    engine.runs_on = True
    done: list[bool] = []
    foreign = engine.client().containers.create(IMAGE, labels={"mixprint.run": "another"})
    some = containers(engine)
    # A task of a fan-out runs in a thread, which no exception of the main thread ends.
    thread = threading.Thread(target=lambda: done.append(some.run("a", IMAGE, COMMAND, {})))

    def interrupted() -> None:
        with some:
            thread.start()
            assert engine.printed.wait(PATIENCE_S)
            os.kill(os.getpid(), number)
            pytest.fail("the signal did not end the run")

    with pytest.raises(raised):
        interrupted()
    thread.join(PATIENCE_S)
    assert done == [False]
    assert set(engine.containers) == {foreign.id}
    assert not some.run("b", IMAGE, COMMAND, {})
    assert some.failures[-1] == "container of step b: the run was stopped"


def test_what_a_run_that_was_killed_has_left_is_removed_by_the_next_in_its_folder(
    engine: FakeEngine,
) -> None:
    def left_in(folder: str) -> str:
        labels = {"mixprint.run": "dead", "mixprint.folder": folder}
        return str(engine.client().containers.create(IMAGE, labels=labels).id)

    left_in(str(FOLDER))
    other = left_in(f"{FOLDER}-2")
    with containers(engine):
        assert set(engine.containers) == {other}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def some_step() -> None:
    pass


@pytest.mark.parametrize("values", [{"exit_code": 1}, {"vanishes": True}])
def test_kfp_hears_of_a_failure(
    engine: FakeEngine, tmp_path: Path, values: dict[str, object]
) -> None:
    for name, value in values.items():
        setattr(engine, name, value)
    with containers(engine) as some, some.as_kfp_runner():
        local.init(local.DockerRunner(), pipeline_root=str(tmp_path))
        with pytest.raises(RuntimeError, match="some-step"):
            some_step()
    assert some.failures[0].startswith("container of step some_step: ")
    command = engine.created[0]
    assert "kfp.dsl.executor_main" in " ".join([*command["Entrypoint"], *command["Cmd"]])


# ---- with a real engine, where one answers and has the image ----

ShowRun = Callable[..., tuple[bool, list[str], str]]


@pytest.fixture
def real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> ShowRun:
    """Run Python code in a container; give whether it ended well, the failures and the output."""
    monkeypatch.undo()  # the user is the real one
    network = os.environ.get("NETWORK") or "none"
    try:
        Containers(ContainerSettings(writable=()), REAL_IMAGE, FOLDER)
    except ConfigError as error:
        pytest.skip(f"needs an engine with the image: {error}")

    def show_run(code: str, **settings: object) -> tuple[bool, list[str], str]:
        values = {"writable": (tmp_path,), "network": network, **settings}
        with Containers(ContainerSettings(**values), REAL_IMAGE, FOLDER) as some:  # type: ignore[arg-type]
            done = some.run("train", REAL_IMAGE, ("python3", "-c", code), {})
            return done, some.failures, capsys.readouterr().out

    return show_run


def test_real_ends(real: ShowRun) -> None:
    assert real("print('heard')") == (True, [], "heard\n")
    assert real("raise SystemExit(3)")[1] == ["container of step train: exit code 3"]


def test_real_kill(real: ShowRun, tmp_path: Path) -> None:
    code = f"import time; time.sleep(60)  # {tmp_path}"
    client = connect()

    def those() -> list[Container]:
        return [one for one in client.containers.list() if code in one.attrs["Config"]["Cmd"]]

    def kill() -> None:
        wait_until(lambda: bool(those()))
        those()[0].kill("SIGKILL")

    killer = threading.Thread(target=kill)
    killer.start()
    done, [told], _ = real(code)
    killer.join()
    assert not done
    assert "killed by SIGKILL" in told


def test_real_limit_of_memory(real: ShowRun) -> None:
    done, [told], _ = real("bytearray(400 << 20)", memory="100m")
    assert not done
    assert re.search(r": killed.* out of memory \(limit: 100m\)", told)


def test_real_containers_are_locked_down(real: ShowRun, tmp_path: Path) -> None:
    code = f"""
import os, pathlib
lines = open("/proc/self/status").read().splitlines()
words = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
assert os.getuid() != 0, os.getuid()
assert int(words["CapEff"], 16) == int(words["CapBnd"], 16) == 0, words
assert words["NoNewPrivs"] == "1", words
assert words["Seccomp"] == "2", words
pathlib.Path({str(tmp_path)!r}, "written").write_text("x")
pathlib.Path("/tmp/written").write_text("x")
for place in ("/opt/venv", "/app", "/", os.getcwd()):
    try:
        pathlib.Path(place, "written").write_text("x")
    except OSError:
        continue
    raise SystemExit(f"{{place}} can be written")
import shutil
assert not any(map(shutil.which, ("gcc", "cc", "g++", "clang"))), "a compiler"
"""
    assert real(code) == (True, [], "")
    assert (tmp_path / "written").read_text() == "x"
