"""A stand-in for a container engine: the few calls of Docker's API that the runner makes."""

import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import docker

from tests.stand_in_server import Handler, answering

IMAGE = "mixprint:test"
IMAGE_USER = "65532:65532"
PATIENCE_S = 60.0


@dataclass
class FakeContainer:
    """A container as the engine knows it."""

    body: dict[str, Any]
    removed: threading.Event = field(default_factory=threading.Event)


@dataclass
class FakeEngine:
    """What its containers do, and what was asked of it.

    Attributes:
        output: parts of what a container prints, as they are sent.
        exit_code: how it ends.
        oom_killed: what the engine tells of its end.
        vanishes: it is gone when it is waited for.
        runs_on: it prints nothing more and ends when it is removed.
        security_options: what the engine says of itself.
        containers: those that are there, by their ids.
        created: the bodies of all that were created.
        address: where it listens.
    """

    output: list[bytes] = field(default_factory=list)
    exit_code: int = 0
    oom_killed: bool = False
    vanishes: bool = False
    runs_on: bool = False
    security_options: list[str] = field(default_factory=list)
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    printed: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def client(self) -> docker.DockerClient:
        """Connect to it."""
        return docker.DockerClient(base_url=self.address, version="1.41")


@contextmanager
def serving(engine: FakeEngine) -> Iterator[FakeEngine]:
    """Listen on a free port of this machine."""
    with answering(type("OneEngine", (_Handler,), {"engine": engine})) as url:
        engine.address = url.replace("http:", "tcp:")
        yield engine


class _Handler(Handler):
    engine: FakeEngine

    def do_GET(self) -> None:
        path, query = self._path()
        if path == "/info":
            self.send_json(200, {"SecurityOptions": self.engine.security_options})
        elif path == f"/images/{IMAGE}/json":
            self.send_json(200, {"Id": "sha256:0", "Config": {"User": IMAGE_USER}})
        elif path == "/containers/json":
            [label] = json.loads(query["filters"][0])["label"]
            name, _, value = label.partition("=")
            self.send_json(
                200,
                [
                    {"Id": key}
                    for key, one in list(self.engine.containers.items())
                    if one.body["Labels"].get(name) == value
                ],
            )
        elif (container := self._container(path)) is None:
            self.send_json(404, {"message": f"no such object: {path}"})
        elif path.endswith("/logs"):
            self._stream(container)
        else:
            state = {"OOMKilled": self.engine.oom_killed}
            self.send_json(200, {"Id": self._id(path), "Config": {"Tty": False}, "State": state})

    def do_POST(self) -> None:
        path, _ = self._path()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if path == "/containers/create":
            key = f"{len(self.engine.created):064x}"
            self.engine.created.append(body)
            self.engine.containers[key] = FakeContainer(body)
            self.send_json(201, {"Id": key})
        elif self._container(path) is None or (path.endswith("/wait") and self.engine.vanishes):
            self.send_json(404, {"message": "no such container"})
        elif path.endswith("/wait"):
            self.send_json(200, {"StatusCode": self.engine.exit_code})
        else:
            self.send_body(204, b"")

    def do_DELETE(self) -> None:
        path, _ = self._path()
        container = self.engine.containers.pop(self._id(path), None)
        if container is not None:
            container.removed.set()
        self.send_body(404 if container is None else 204, b"")

    def _path(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return re.sub(r"^/v[\d.]+", "", parts.path), parse_qs(parts.query)

    def _id(self, path: str) -> str:
        return path.split("/")[2]

    def _container(self, path: str) -> FakeContainer | None:
        return self.engine.containers.get(self._id(path))

    def _stream(self, container: FakeContainer) -> None:
        """Send the output in Docker's frames: stream, three zeros, length, content."""
        self.send_response(200)
        self.end_headers()
        for part in self.engine.output:
            self.wfile.write(struct.pack(">BxxxL", 1, len(part)) + part)
        self.wfile.flush()
        self.engine.printed.set()
        if self.engine.runs_on:
            container.removed.wait(PATIENCE_S)
