"""A stand-in for the API of Kubeflow Pipelines: it answers what `pipelines.submit` asks.

It keeps what it was sent, and nothing runs. What it cannot show is how a real cluster behaves.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stand_in_server import Handler, answering

API = "/apis/v2beta1"


@dataclass
class Received:
    method: str
    path: str
    query: dict[str, str]
    authorization: str | None
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeKfp:
    """Attributes say what it answers, `received` what it was asked.

    Attributes:
        token: what it lets in; empty: everybody.
        states: of the run, at one look after the other; a number is a status of HTTP.
        tasks: of the run.
    """

    token: str = ""
    states: list[str | int] = field(default_factory=lambda: ["SUCCEEDED"])
    tasks: list[dict[str, Any]] = field(default_factory=list)
    health: int = 200
    experiments: list[dict[str, str]] = field(default_factory=list)
    pipelines: list[dict[str, str]] = field(default_factory=list)
    versions: list[dict[str, str]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def posted(self, path: str) -> list[Received]:
        return [r for r in self.received if r.method == "POST" and r.path == API + path]

    def answer(self, asked: Received) -> tuple[int, Any]:
        if self.token and asked.authorization != f"Bearer {self.token}":
            return 401, {"message": "no"}
        path = asked.path.removeprefix(API)
        match asked.method, path:
            case "GET", "/healthz":
                return self.health, {"multi_user": False}
            case "GET", "/experiments":
                return 200, {"experiments": self.experiments}
            case "POST", "/experiments":
                self.experiments.append({**asked.json, "experiment_id": "e1"})
                return 200, self.experiments[-1]
            case "POST", "/runs":
                return 200, {"run_id": "r1", "experiment_id": "e1"}
            case "GET", "/runs/r1":
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                if isinstance(state, int):
                    return state, {"message": "not now"}
                return 200, {
                    "run_id": "r1",
                    "state": state,
                    "run_details": {"task_details": self.tasks},
                }
            case "GET", "/pipelines":
                return 200, {"pipelines": self.pipelines}
            case "POST", "/pipelines/upload":
                self.pipelines.append({"pipeline_id": "p1", "display_name": asked.query["name"]})
                return 200, self.pipelines[-1]
            case "GET", "/pipelines/p1/versions":
                return 200, {"pipeline_versions": self.versions}
            case "POST", "/pipelines/upload_version":
                new = {"pipeline_id": "p1", "pipeline_version_id": f"v{len(self.versions)}"}
                self.versions.append({**new, "display_name": asked.query["name"]})
                return 200, self.versions[-1]
            case "GET", "/recurringruns":
                wanted = json.loads(asked.query["filter"])["predicates"][0]["stringValue"]
                found = [each for each in self.recurring if each["display_name"] == wanted]
                return 200, {"recurringRuns": found}
            case "POST", "/recurringruns":
                self.recurring.append({**asked.json, "recurring_run_id": "s1"})
                return 200, self.recurring[-1]
        return 404, {"message": f"nothing at {asked.method} {asked.path}"}


@contextmanager
def serving(fake: FakeKfp) -> Iterator[FakeKfp]:
    """Serve on a free port of this machine."""

    class KfpHandler(Handler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            asked = Received(
                self.command,
                parts.path,
                {name: values[0] for name, values in parse_qs(parts.query).items()},
                self.headers.get("Authorization"),
                self.rfile.read(length),
            )
            fake.received.append(asked)
            self.send_json(*fake.answer(asked))

        do_GET = do_POST = handle_any

    with answering(KfpHandler) as fake.url:
        yield fake
