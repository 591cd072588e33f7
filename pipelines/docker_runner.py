"""Run the tasks of kfp.local in containers, through the API of Docker or Podman.

KFP's own runner lets the engine remove a container that has ended. Its exit code is then gone,
and a step that failed counts as done. Here a container is created, started, followed, waited for
and only then removed, and whatever hides its exit code is a failure.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, Self

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount
from kfp.local import docker_task_handler, status
from kfp.local.task_handler_interface import ITaskHandler
from requests import RequestException
from urllib3.exceptions import HTTPError

from mixprint.errors import ConfigError
from mixprint.machine.processes import SIGNAL_BASE

log = logging.getLogger("mixprint.pipelines")

RUN_LABEL, FOLDER_LABEL = "mixprint.run", "mixprint.folder"
# What of this process's environment the steps see. Values travel through the engine's API only.
# Those of the numerical libraries decide the last bits of results.
PASSED_ON = (
    "ATEN_",
    "GOOGLE_",
    "KMP_",
    "MIXPRINT_",
    "MKL_",
    "MLFLOW_",
    "OMP_",
    "OPENBLAS_",
    "PET_",
    "STORAGE_EMULATOR_HOST",
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CALL_TIMEOUT_S = 60
# How a call to the engine fails: refused by it, or not answered.
_FAULTS = (DockerException, RequestException, HTTPError)


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """Resources and rights of a step's container.

    Attributes:
        writable: folders that the steps write to; they exist.
        readable: folders and files that the steps read, by their paths inside.
        network: as `docker run --network`; `none` where no step needs one.
        shm_size: of /dev/shm, as `docker run --shm-size`.
        memory: limit as `docker run --memory`; empty for none.
        gpus: `all`, or how many; empty for none.
        environment: variables of the steps.
    """

    writable: tuple[Path, ...]
    readable: Mapping[Path, Path] = field(default_factory=dict)
    network: str = "bridge"
    shm_size: str = "1g"
    memory: str = ""
    gpus: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what the engine would refuse late, or in words of its own."""
        if missing := [
            str(path) for path in (*self.writable, *self.readable.values()) if not path.exists()
        ]:
            raise ConfigError(f"containers: expected existing files and folders, missing {missing}")
        if self.gpus not in {"", "all"} and not self.gpus.isdecimal():
            raise ConfigError(f"containers: expected gpus as a number or 'all', got {self.gpus!r}")

    def create_arguments(self) -> dict[str, Any]:
        """Return the arguments of a container's creation, in the words of docker-py.

        What is written has the same path inside as outside, and the working directory is this
        one, so that a step writes the same paths as it would without a container.
        """
        sources = {inside.absolute(): (path, True) for inside, path in self.readable.items()}
        sources |= {path.absolute(): (path, False) for path in self.writable}
        arguments: dict[str, Any] = {
            "mounts": [
                Mount(str(inside), str(path.resolve()), type="bind", read_only=read_only)
                for inside, (path, read_only) in sources.items()
            ],
            "working_dir": str(Path.cwd()),
            "environment": dict(self.environment),
            "network_mode": self.network,
            "shm_size": self.shm_size,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": "rw,nosuid,nodev,mode=1777"},
        }
        if self.memory:
            # Without swap: a step that outgrows its memory should end, not crawl.
            arguments |= {"mem_limit": self.memory, "memswap_limit": self.memory}
        if self.gpus:
            count = -1 if self.gpus == "all" else int(self.gpus)
            arguments["device_requests"] = [DeviceRequest(count=count, capabilities=[["gpu"]])]
        return arguments


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Pick the variables that the steps see."""
    return {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}


def connect() -> docker.DockerClient:
    """Connect to the engine that DOCKER_HOST names, by default Docker's own socket.

    Raises:
        ConfigError: no engine answers there.
    """
    try:
        client = docker.from_env(timeout=_CALL_TIMEOUT_S)
        client.ping()
    except _FAULTS as error:
        raise ConfigError(
            f"containers: expected an engine at {os.environ.get('DOCKER_HOST', 'its socket')}, "
            f"found: {error}; start Docker, or `podman system service` with DOCKER_HOST set"
        ) from error
    return client


class Containers:
    """The containers of one run; none of them outlives the `with` block.

    Where the process itself is killed, the next run in the same folder removes what it has left.

    Attributes:
        failures: what became of containers that failed, one text each.
    """

    def __init__(
        self,
        settings: ContainerSettings,
        image: str,
        folder: Path,
        client_factory: Callable[[], docker.DockerClient] = connect,
    ) -> None:
        """Look for the engine and the image, and decide who the steps run as.

        Nothing is pulled: a short name could be somebody else's in a public registry.

        Args:
            settings: of every container.
            image: that the steps run in.
            folder: of the run on this machine, where nobody else is at work.
            client_factory: connects to the engine.

        Raises:
            ConfigError: there is no engine or no such image.
        """
        self.failures: list[str] = []
        self._client_factory = client_factory
        self._client = client_factory()
        self._labels = {RUN_LABEL: uuid.uuid4().hex, FOLDER_LABEL: str(folder.resolve())}
        self._stopped = False
        self._old_handlers: dict[signal.Signals, Any] = {}
        try:
            image_user = self._client.images.get(image).attrs["Config"].get("User", "")
        except NotFound as error:
            raise ConfigError(
                f"containers: expected the image {image} in the engine, found none; "
                "build it with `make containers`, or pull the one that MIXPRINT_IMAGE names"
            ) from error
        self._arguments = settings.create_arguments()
        options = self._client.info().get("SecurityOptions") or []
        if any("selinux" in option for option in options):
            # Else the folders of this machine would have to be labelled anew.
            self._arguments["security_opt"].append("label=disable")
        self._arguments["user"] = _user(any("rootless" in option for option in options), image_user)
        if os.getuid() == 0:
            _give(settings.writable, self._arguments["user"])

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {number: signal.signal(number, self._end) for number in _SIGNALS}
        if num_left := self._remove_all(self._client, FOLDER_LABEL):
            log.info("removed %d containers of an earlier run that was killed", num_left)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._remove_all(self._client)
        self._client.close()

    @contextlib.contextmanager
    def as_kfp_runner(self) -> Iterator[None]:
        """Let kfp.local run its tasks here, where it would use its own handler for Docker.

        KFP has no place to name another handler, so the class is exchanged meanwhile.
        """
        original = docker_task_handler.DockerTaskHandler
        docker_task_handler.DockerTaskHandler = partial(_TaskHandler, self)
        try:
            yield
        finally:
            docker_task_handler.DockerTaskHandler = original

    def run(self, name: str, image: str, command: Sequence[str], env: Mapping[str, str]) -> bool:
        """Run a command in a container of its own and show its output.

        Args:
            name: the step, for messages.
            image: what it runs in.
            command: all of it: the image's entry point is not used, as on a cluster.
            env: variables besides those of the settings.

        Returns:
            whether it ended with exit code 0; if not, the reason is in `failures`.
        """
        reason = "the run was stopped" if self._stopped else self._run(image, command, env)
        if reason:
            self.failures.append(f"container of step {name}: {reason}")
            sys.stdout.write(self.failures[-1] + "\n")
        return not reason

    def _run(self, image: str, command: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a container from its creation to its removal; say why it failed, else nothing."""
        try:
            container = self._client.containers.create(
                image,
                entrypoint=list(command[:1]),
                command=list(command[1:]),
                labels=self._labels,
                **self._arguments | {"environment": {**self._arguments["environment"], **env}},
            )
            try:
                container.start()
                _show(container)
                code = container.wait()["StatusCode"]
                if code == 0:
                    return ""
                container.reload()
                return self._describe(code, container.attrs["State"])
            finally:
                _remove(container)
        except NotFound as error:
            return f"it is gone before it told its exit code: {error}"
        except _FAULTS as error:
            return f"the engine failed: {error}"

    def _describe(self, code: int, state: Mapping[str, Any]) -> str:
        limit = self._arguments.get("mem_limit", "the machine's")
        if state.get("OOMKilled"):
            return f"killed, out of memory (limit: {limit})"
        if code > SIGNAL_BASE:
            number = code - SIGNAL_BASE
            known = {int(one) for one in signal.Signals}
            name = signal.Signals(number).name if number in known else f"signal {number}"
            # Not every engine tells that it was for want of memory.
            hint = f", perhaps out of memory (limit: {limit})" if number == signal.SIGKILL else ""
            return f"killed by {name}{hint}"
        return f"exit code {code}"

    def _end(self, number: int, _: FrameType | None) -> None:
        """Remove all containers, then let this process end as the signal asks.

        Threads that wait for a container would else keep the process alive until it is done.
        The client in use may be in the middle of a call, so this takes one of its own.
        """
        self._stopped = True
        client = self._client_factory()
        self._remove_all(client)
        client.close()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(SIGNAL_BASE + number)

    def _remove_all(self, client: docker.DockerClient, label: str = RUN_LABEL) -> int:
        """Remove the containers that have the same label as this run's; count them."""
        labelled = {"label": f"{label}={self._labels[label]}"}
        found = client.containers.list(all=True, filters=labelled, ignore_removed=True)
        for container in found:
            _remove(container)
        return len(found)


class _TaskHandler(ITaskHandler):
    """Handler that kfp.local calls for a task; the arguments but the first are KFP's."""

    def __init__(
        self,
        containers: Containers,
        image: str,
        full_command: list[str],
        pipeline_root: str,  # noqa: ARG002  it is below the root of the run, which is mounted
        runner: object,  # noqa: ARG002
        env_vars: dict[str, str] | None = None,
    ) -> None:
        self._run = partial(
            containers.run, _function(full_command), image, full_command, env_vars or {}
        )

    def run(self) -> status.Status:
        """Run the task."""
        return status.Status.SUCCESS if self._run() else status.Status.FAILURE


def _function(full_command: Sequence[str]) -> str:
    """Name the step that a command of a lightweight component runs."""
    return full_command[full_command.index("--function_to_execute") + 1]


def _user(rootless: bool, image_user: str) -> str:
    """Decide who the steps run as: somebody who may write what the caller may, but never root.

    A rootless engine maps its root to the caller. Where the caller is root, the image's own user
    takes over.
    """
    if rootless:
        return "0:0"
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else image_user


def _give(folders: Sequence[Path], user: str) -> None:
    """Make a user, given in numbers, the owner of folders and what is in them."""
    uid, _, gid = user.partition(":")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise ConfigError(
            f"containers: expected an image with a user like 65532:65532, found {user!r}; "
            "another one cannot be given the folders of the results"
        )
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, int(uid), int(gid), follow_symlinks=False)


def _show(container: Container) -> None:
    """Print what a container prints, line by line, until it ends."""
    rest = b""
    for part in container.logs(stream=True, follow=True):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            sys.stdout.write(line.decode(errors="replace") + "\n")
    if rest:
        sys.stdout.write(rest.decode(errors="replace") + "\n")


def _remove(container: Container) -> None:
    """Remove a container, running or not; one that is gone, or about to be, is no matter."""
    try:
        container.remove(force=True, v=True)
    except APIError as error:
        if error.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            raise
