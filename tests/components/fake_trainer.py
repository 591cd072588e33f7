"""A stand-in for a cluster with Kubeflow's Trainer: it answers what Kubeflow's SDK asks.

Nodes of a TrainJob are processes of this machine, with the variables that Trainer sets. What it
cannot show is how a real cluster behaves: it has no pods, volumes, quotas or admission.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubernetes.client import Configuration

from components.train.trainjob import VARIABLE
from tests.components.workplace import REPOSITORY
from tests.stand_in_server import Handler, answering

NAMESPACE = "songs"
API = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
# How long pods that are told to end may take for it.
GRACE_S = 30.0
COMPLETE, FAILED = "Complete", "Failed"
LABELS = "jobset.sigs.k8s.io"


@dataclass
class Job:
    """A TrainJob, and what came of it.

    Attributes:
        body: as it was posted.
        nodes: its processes; none: its state is given.
        state: as Trainer calls it; empty: at work.
    """

    body: dict[str, Any]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    state: str = ""

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    def look(self) -> str:
        """Fail with the first node that fails, and end the others, as a job without retries."""
        codes = [node.poll() for node in self.nodes]
        if self.nodes and not self.state:
            if any(codes):
                self.state = FAILED
                self.end()
            elif None not in codes:
                self.state = COMPLETE
        return self.state

    def end(self) -> None:
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.wait(GRACE_S)
            lose(node)


def lose(node: subprocess.Popen[bytes]) -> None:
    """End all processes of a node at once, as when a machine is lost."""
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@dataclass
class FakeTrainer:
    """Attributes say what it answers, `jobs` and `deleted` what it was asked for.

    Attributes:
        folder: receives the logs of the nodes.
        runs_nodes: whether jobs really run; else a test gives their state.
        faults: so many questions after a job has been made are answered by a status 503.
        forbids_deletion: whether the account lacks that right.
        runtimes: what the cluster has, by name.
    """

    folder: Path
    runs_nodes: bool = True
    faults: int = 0
    forbids_deletion: bool = False
    runtimes: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    url: str = ""

    def client(self) -> TrainerClient:
        configuration = Configuration(host=self.url)
        configuration.retries = False
        return TrainerClient(
            KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=configuration)
        )

    def get(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, Any]:
        kind, _, name = path.removeprefix(API).strip("/").partition("/")
        if path.startswith(API) and kind == "trainingruntimes" and name in self.runtimes:
            return 200, self.runtimes[name]
        if path.startswith(API) and kind == "trainjobs" and name in self.jobs:
            if self.faults:
                self.faults -= 1
                return 503, {}
            return 200, self._described(self.jobs[name])
        if path == f"{CORE}/pods":
            [selector] = query["labelSelector"]
            wanted = [job for job in self.jobs.values() if f"jobset-name={job.name}," in selector]
            pods = [_pod(job, number) for job in wanted for number in range(len(job.nodes))]
            return 200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods}
        if path.endswith("/configmaps/kubeflow-trainer-public"):
            return 200, {"data": {"kubeflow_trainer_version": "2.3.0"}}
        return 404, {"message": f"{path} not found"}

    def post(self, body: dict[str, Any]) -> tuple[int, Any]:
        job = Job(body)
        self.jobs[job.name] = job
        if self.runs_nodes:
            self._start(job)
        return 201, body

    def delete(self, name: str) -> tuple[int, Any]:
        if self.forbids_deletion:
            return 403, {"message": "not yours"}
        if name not in self.jobs:
            return 404, {}
        self.jobs.pop(name).end()
        self.deleted.append(name)
        return 200, {}

    def log(self, pod: str) -> Iterator[bytes]:
        """Return a node's log while it grows."""
        name, _, number = pod.rpartition("-node-0-")
        job = self.jobs[name]
        node = job.nodes[int(number)]
        with self.log_file(name, int(number)).open("rb") as file:
            while True:
                has_ended = node.poll() is not None
                yield file.read()
                if has_ended:
                    return
                time.sleep(0.05)

    def log_file(self, job: str, number: int) -> Path:
        return self.folder / f"{job}-node-0-{number}"

    def _start(self, job: Job) -> None:
        trainer = job.body["spec"]["trainer"]
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        own = {name: value for name, value in os.environ.items() if name != VARIABLE}
        for number in range(trainer["numNodes"]):
            env = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": "auto",
                "PET_NODE_RANK": str(number),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            assert trainer["command"][0] == "python3"
            with self.log_file(job.name, number).open("wb") as file:
                job.nodes.append(
                    subprocess.Popen(
                        [sys.executable, *trainer["command"][1:]],
                        cwd=REPOSITORY,
                        env={**own, **env},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def _described(self, job: Job) -> dict[str, Any]:
        state = job.look()
        conditions = [{"type": state, "status": "True", **_CONDITION}] if state else []
        metadata = {**job.body["metadata"], "namespace": NAMESPACE, "creationTimestamp": _TIME}
        return {**job.body, "metadata": metadata, "status": {"conditions": conditions}}


_TIME = "2026-01-01T00:00:00Z"
_CONDITION = {"reason": "x", "message": "x", "lastTransitionTime": _TIME}


def _pod(job: Job, number: int) -> dict[str, Any]:
    code = job.nodes[number].poll()
    phase = "Running" if code is None else "Failed" if code else "Succeeded"
    return {
        "metadata": {
            "name": f"{job.name}-node-0-{number}",
            "namespace": NAMESPACE,
            "creationTimestamp": _TIME,
            "labels": {
                f"{LABELS}/jobset-name": job.name,
                f"{LABELS}/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(number),
            },
        },
        "spec": {"containers": [{"name": "node", "image": "x", "resources": {}}]},
        "status": {"phase": phase},
    }


@contextmanager
def fake_trainer(folder: Path) -> Iterator[FakeTrainer]:
    """Serve until the end; then no node is left."""
    runtime = yaml.safe_load((REPOSITORY / "pipelines" / "mixprint-trainer.yaml").read_text())
    fake = FakeTrainer(folder, runtimes={runtime["metadata"]["name"]: runtime})

    class TrainerHandler(Handler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if not path.endswith("/log"):
                self.send_json(*fake.get(path, parse_qs(urlsplit(self.path).query)))
                return
            self.send_response(200)
            self.end_headers()
            for part in fake.log(path.split("/")[-2]):
                self.wfile.write(part)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == f"{API}/trainjobs"
            self.send_json(*fake.post(json.loads(body)))

        def do_DELETE(self) -> None:
            self.send_json(*fake.delete(urlsplit(self.path).path.rpartition("/")[2]))

    with answering(TrainerHandler) as fake.url:
        try:
            yield fake
        finally:
            for job in fake.jobs.values():
                job.end()
