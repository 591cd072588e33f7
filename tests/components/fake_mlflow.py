"""A stand-in for MLflow's server that can be lost: it knows one experiment and one run.

A real one needs a quarter of a minute to start.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.stand_in_server import Handler, answering

API = "/api/2.0/mlflow/"


@dataclass
class FakeMlflow:
    """Attributes say what it answers, `received` what it was sent.

    Attributes:
        artifacts: where the run's artifacts go.
        lasts: it answers so many requests, and then with status 503; negative: all.
    """

    artifacts: Path
    lasts: int = -1
    received: list[tuple[str, Any]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    address: str = ""

    def figures(self) -> list[int]:
        """Return the steps of the losses that have come."""
        batches = [body for name, body in self.received if name == "runs/log-batch"]
        return [
            int(metric["step"])
            for batch in batches
            for metric in batch.get("metrics", [])
            if metric["key"] == "loss"
        ]

    def answer(self, name: str, body: Any) -> tuple[int, Any]:
        if self.lasts == 0:
            return 503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "not now"}
        self.lasts -= 1
        self.received.append((name, body))
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "experiment_id": "1",
            "status": "RUNNING",
            "start_time": 1_700_000_000_000,
            "lifecycle_stage": "active",
            "artifact_uri": str(self.artifacts),
        }
        batches = [one for known, one in self.received if known == "runs/log-batch"]
        params = [param for batch in batches for param in batch.get("params", [])]
        run = {"info": info, "data": {"params": params}}
        match name:
            case "experiments/get-by-name":
                experiment = {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}
                return 200, {"experiment": experiment}
            case "runs/create" | "runs/get":
                return 200, {"run": run}
            case "runs/update":
                return 200, {"run_info": info}
            case "runs/log-batch" | "runs/set-tag":
                return 200, {}
            case "runs/search":
                is_made = "runs/create" in {known for known, _ in self.received}
                return 200, {"runs": [run] if is_made else []}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": name}


@contextmanager
def serving(fake: FakeMlflow) -> Iterator[FakeMlflow]:
    """Serve on a free port; its address is known then."""

    class MlflowHandler(Handler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            fake.authorizations.add(self.headers.get("Authorization"))
            name = urlsplit(self.path).path.removeprefix(API)
            self.send_json(*fake.answer(name, body))

    with answering(MlflowHandler) as url:
        fake.address = urlsplit(url).netloc
        yield fake
