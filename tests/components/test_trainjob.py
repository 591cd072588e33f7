"""Trainings on several nodes, by Kubeflow's SDK and a stand-in for the cluster."""

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from components.layout import catalogue_manifest, features_manifest, stems_manifest
from components.mlflow.client import connect
from components.train import launch, node, trainjob
from components.train import main as encoder
from components.train.launch import JOB_FILE, start_workers
from components.train.trainjob import VARIABLE, Nodes
from mixprint.collection.catalogue import write_catalogue
from mixprint.collection.remote_shards import point_to_bucket
from mixprint.collection.shard_upload import Replaced, publish_shard
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.errors import ConfigError, DataError, TrainingError
from mixprint.machine.device import resolve_device
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import open_bucket
from tests.bucket import Bucket
from tests.components.fake_trainer import COMPLETE, FAILED, FakeTrainer, fake_trainer, lose
from tests.encoder.conftest import make_set, tiny_config
from tests.processes import wait_until

WORKER = "tests.components.failing_worker"
ROOT = "gs://bucket/run"
# Of a fifth of a second each, so that a node is lost in the middle.
EPOCHS = 12
# Kubeflow's SDK takes a hundredth of a second for each look, and nodes take many to start.
POLL_S, IDLE_POLL_S = 0.5, 0.1
TRAINJOB = """
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  labels: {app.kubernetes.io/name: mixprint}
  name: NAME
spec:
  runtimeRef: {kind: TrainingRuntime, name: mixprint}
  trainer:
    command: [python3, -m, components.train.node, FOLDER, nodes.json]
    image: registry/mixprint:1
    numNodes: 2
    resourcesPerNode:
      limits: {cpu: '8', memory: 32Gi, nvidia.com/gpu: '4'}
      requests: {cpu: '8', memory: 32Gi, nvidia.com/gpu: '4'}
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTrainer]:
    """Return a cluster, to the step, too."""
    logs = tmp_path / "logs"
    logs.mkdir()
    nodes = Nodes(
        image="registry/mixprint:1",
        runtime="mixprint",
        num_nodes=2,
        resources={"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"},
        shared=(str(tmp_path),),
    )
    monkeypatch.setenv(VARIABLE, json.dumps(asdict(nodes)))
    with fake_trainer(logs) as fake:
        run_on_nodes = partial(trainjob.run_on_nodes, client=fake.client(), poll_s=POLL_S)
        monkeypatch.setattr(launch, "run_on_nodes", run_on_nodes)
        yield fake


@pytest.fixture
def idle(cluster: FakeTrainer, monkeypatch: pytest.MonkeyPatch) -> FakeTrainer:
    """Return a cluster whose jobs do nothing."""
    cluster.runs_nodes = False
    run_on_nodes = partial(launch.run_on_nodes, poll_s=IDLE_POLL_S)
    monkeypatch.setattr(launch, "run_on_nodes", run_on_nodes)
    return cluster


def start(folder: Path, job: dict[str, Any] | None = None) -> None:
    start_workers(WORKER, job or {"device": "cpu"}, folder, 1)


def ended_later(idle: FakeTrainer, state: str) -> threading.Timer:
    """End every job that comes in the next seconds."""

    def end() -> None:
        wait_until(lambda: bool(idle.jobs))
        _end_all(idle, state)

    timer = threading.Timer(0.3, end)
    timer.start()
    return timer


def test_a_lost_node_ends_the_step_and_the_next_attempt_goes_on(
    tmp_path: Path,
    cluster: FakeTrainer,
    bucket: Bucket,
    client: MlflowClient,
    capfd: pytest.CaptureFixture[str],
) -> None:
    upload_set(tmp_path / "local", {"a": "train", "b": "train", "c": "valid"})
    config = tiny_config(
        epochs=EPOCHS,
        negatives=("songs", "siblings"),
        shared_chain_weight=0.0,
        save_steps=1,
        device="cpu",
    )
    run = partial(
        encoder.run,
        root=ROOT,
        config=config,
        catalogue=catalogue_manifest(ROOT),
        stems=stems_manifest(ROOT),
        features=features_manifest(ROOT),
    )

    def lose_second_node() -> None:
        wait_until(lambda: bool(cluster.jobs))
        [job] = cluster.jobs.values()
        log = cluster.log_file(job.name, 0)
        # Two nodes start, each with imports and processes of its own.
        wait_until(lambda: log.exists() and "epoch 1, step" in log.read_text(), patience_s=300)
        lose(job.nodes[1])

    thread = threading.Thread(target=lose_second_node)
    thread.start()
    with pytest.raises(TrainingError, match=r"TrainJob mixprint-\w+-0 has failed \(node-0: \w+, "):
        run()
    thread.join()
    assert "run/encoder/config.json" not in bucket.objects
    assert any("encoder/state/" in name and name.endswith(".pt") for name in bucket.objects)
    assert not cluster.deleted, "its pods may tell why"
    run()
    copy = tmp_path / "copy"
    open_bucket(ROOT).download_all(open_bucket(ROOT).list("encoder/"), copy)
    assert len(load_checkpoint(copy / "encoder").metadata["metrics"]) > 0
    assert len(read_json(copy / "encoder" / "history.json")) == EPOCHS
    [deleted] = cluster.deleted
    assert deleted.endswith("-1")
    for number in (0, 1):
        assert "resumed after" in cluster.log_file(deleted, number).read_text()
    assert "resumed after" in capfd.readouterr().err, "the log of the first node is shown"
    assert len(client.search_runs([connect()])) == 1


def upload_set(folder: Path, splits: dict[str, str]) -> None:
    """Put a run up to its features into the bucket."""
    made = make_set(folder, splits)
    write_catalogue(folder / "catalogue", made.tracks, [])
    point_to_bucket(made.stems_dir, f"{ROOT}/stems")
    for shard in sorted(made.stems_dir.glob("shard-?????-of-?????.parquet")):
        publish_shard(shard, Replaced())
    names = [path for name in ("catalogue", "features") for path in (folder / name).iterdir()]
    open_bucket(ROOT).upload_all({str(path.relative_to(folder)): path for path in names})


def test_an_error_of_the_user_on_a_node_is_all_that_is_said(
    tmp_path: Path, cluster: FakeTrainer
) -> None:
    folder = tmp_path / "state"
    job = {"rank": 1, "failure": "user", "device": "auto"}
    with pytest.raises(TrainingError) as raised:
        start(folder, job)
    assert str(raised.value) == "songs: expected some, found none"
    [(name, posted)] = cluster.jobs.items()
    text = TRAINJOB.replace("NAME", name).replace("FOLDER", str(folder))
    assert posted.body == yaml.safe_load(text)
    assert read_json(folder / "nodes.json") == {"worker": WORKER, "job": job, "num_processes": 1}
    # Each node looks for GPUs of its own.
    assert read_json(folder / JOB_FILE) == job | {"device": resolve_device("auto").type}


def test_a_node_that_cannot_begin_tells_why(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_NODE_RANK", "1")
    plan = {
        "worker": WORKER,
        "job": {"device": "cpu", "features_dir": f"{ROOT}/features"},
        "num_processes": 1,
    }
    bucket.put("run/encoder/state/nodes.json", json.dumps(plan).encode())
    bucket.put("run/features/large", bytes(20_000))
    monkeypatch.setenv("MIXPRINT_SCRATCH_LIMIT", "15K")
    with pytest.raises(DataError, match=r"features/large.*MIXPRINT_SCRATCH_LIMIT"):
        node.main([ROOT, "encoder/state/nodes.json"])
    told = json.loads(bucket.content()["run/encoder/state/error.json"])
    assert "features/large" in told["error"]
    assert told["is_users"]


def test_the_job_of_an_attempt_that_was_killed_is_followed(
    tmp_path: Path, idle: FakeTrainer
) -> None:
    timer = ended_later(idle, FAILED)
    with pytest.raises(TrainingError, match=r"has failed \(its pods are gone\): no message"):
        start(tmp_path)
    timer.join()
    [first] = idle.jobs
    # One that is at work, which the stand-in makes of the one that has failed.
    idle.jobs[first].state = ""
    timer = ended_later(idle, COMPLETE)
    start(tmp_path)
    timer.join()
    assert idle.deleted == [first]
    assert not idle.jobs


def test_another_training_has_another_job(tmp_path: Path, idle: FakeTrainer) -> None:
    names = set()
    for job, folder in (({"device": "cpu"}, "a"), ({"device": "cuda"}, "a"), ({}, "b")):
        timer = ended_later(idle, COMPLETE)
        start(tmp_path / folder, job)
        timer.join()
        names.add(idle.deleted[-1])
    assert len(names) == 3


def test_a_step_that_is_told_to_end_ends_its_job(tmp_path: Path, idle: FakeTrainer) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        # Not a moment before the step is ready for it, or it would end the tests.
        wait_until(lambda: bool(idle.jobs) and signal.getsignal(signal.SIGTERM) != before)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        start(tmp_path)
    thread.join()
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(idle.deleted) == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_that_does_not_answer_for_a_while(
    tmp_path: Path, idle: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainjob, "PATIENCE", 4)

    def fail(count: int) -> threading.Timer:
        timer = threading.Timer(0.3, partial(setattr, idle, "faults", count))
        timer.start()
        return timer

    timer = fail(3)
    end = threading.Timer(1.0, partial(_end_all, idle, COMPLETE))
    end.start()
    start(tmp_path / "a")
    timer.join()
    end.join()
    timer = fail(1000)
    with pytest.raises(TrainingError, match="the job goes on, and the next attempt follows it"):
        start(tmp_path / "b")
    timer.join()
    assert len(idle.jobs) == 1
    with pytest.raises(TrainingError, match="the cluster does not answer"):
        start(tmp_path / "b")


def _end_all(idle: FakeTrainer, state: str) -> None:
    for job in idle.jobs.values():
        job.state = job.state or state


def test_what_is_missing_is_named(
    tmp_path: Path, idle: FakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"/elsewhere/state: several nodes train only where all"):
        start(Path("/elsewhere/state"))
    idle.runtimes.clear()
    with pytest.raises(ConfigError, match="expected the training runtime mixprint on the cluster"):
        start(tmp_path)
    monkeypatch.setenv(VARIABLE, "{}")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: missing keys"):
        start(tmp_path)
    monkeypatch.setenv(VARIABLE, "two")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: expected a readable JSON file"):
        start(tmp_path)


def test_what_is_trained_does_not_depend_on_the_right_to_delete(
    tmp_path: Path, idle: FakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    idle.forbids_deletion = True
    timer = ended_later(idle, COMPLETE)
    with caplog.at_level(logging.WARNING, "mixprint.train"):
        start(tmp_path)
    timer.join()
    assert "it could not be deleted: (403)" in caplog.text


def test_a_job_that_somebody_deletes(tmp_path: Path, idle: FakeTrainer) -> None:
    timer = threading.Timer(0.5, idle.jobs.clear)
    timer.start()
    with pytest.raises(TrainingError, match="somebody has deleted it"):
        start(tmp_path)
    timer.join()


def test_a_node_starts_nothing_on_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "never read")
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_NODE_RANK", "1")
    assert launch.ranks_device("auto") == resolve_device("auto").type
    assert launch._nodes() is None
