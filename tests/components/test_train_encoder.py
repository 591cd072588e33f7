"""Training an encoder through its component: machines, tracking."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.layout import ENCODER_FILES, catalogue_manifest, features_manifest, stems_manifest
from components.mlflow.client import EXPERIMENT
from components.mlflow.registry import run_of_encoder
from components.mlflow.runs import BackgroundRun
from components.train import main as encoder
from components.train import worker
from components.train.job import Job
from mixprint.collection.catalogue import write_catalogue
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.encoder.settings import TrainConfig
from mixprint.storage.atomic import read_json
from tests.components.workplace import REPOSITORY
from tests.encoder.conftest import make_set, tiny_config

PATIENCE_S = 600.0
# Without views that would have to be augmented and measured, and without dropout, whose masks are
# each process's own.
CONFIG = tiny_config(
    epochs=2,
    film_dropout=0.0,
    negatives=("songs", "siblings"),
    shared_chain_weight=0.0,
    device="cpu",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a run with what the steps before leave."""
    root = tmp_path_factory.mktemp("inputs")
    made = make_set(root, {"a": "train", "b": "train", "c": "valid"})
    write_catalogue(root / "catalogue", made.tracks, [])
    return root


def run(root: Path, config: TrainConfig) -> Any:
    return encoder.run(
        root=str(root),
        config=config,
        catalogue=catalogue_manifest(root),
        stems=stems_manifest(root),
        features=features_manifest(root),
    )


def runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_two_machines_learn_what_one_learns(
    tmp_path: Path,
    inputs: Path,
    client: MlflowClient,
    rank_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roots = {name: tmp_path / name for name in ("one", "two")}
    for root in roots.values():
        shutil.copytree(inputs, root)
    values = CONFIG.to_values()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"train": values | {"num_processes": 1}}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    machines = [
        {
            "PET_NNODES": "2",
            "PET_NODE_RANK": str(number),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        for number in range(2)
    ]
    command = [sys.executable, "-m", "components.train", "--task", "encoder"]
    command += ["--root", str(roots["two"]), "--params", str(tmp_path / "params.yaml")]
    steps = [
        subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **machine})
        for machine in machines
    ]
    try:
        assert [step.wait(PATIENCE_S) for step in steps] == [0, 0]
    finally:
        for step in steps:  # machines that do not find each other would wait for ever
            step.kill()
    assert len(runs(client)) == 1
    run(roots["one"], CONFIG)
    one, two = (read_json(root / "encoder" / "history.json") for root in roots.values())
    for by_one, by_two in zip(one, two, strict=True):
        assert by_two["train.loss"] == pytest.approx(by_one["train.loss"], abs=1e-4)
    names = {path.name for path in (roots["two"] / "steps").iterdir()}
    assert names == {"train.json", "train-1.json", "train.done.json"}
    # One that starts again, for example because it was told to, finds that all is done.
    made = [roots["two"] / "encoder" / name for name in ENCODER_FILES]
    before = {path: path.stat().st_mtime_ns for path in made}
    for machine in machines:
        for name, value in machine.items():
            monkeypatch.setenv(name, value)
        run(roots["two"], CONFIG)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def make_job(root: Path) -> Job:
    return Job(
        task=encoder.TASK.module,
        sections={"train": CONFIG.to_values()},
        inputs={name: str(root / name) for name in ("catalogue", "stems", "features")},
        out_dir=str(root / "encoder"),
        data_fingerprint="data",
        recipe="recipe",
        device="cpu",
    )


def test_a_run_holds_what_the_training_was_and_gave(
    tmp_path: Path, inputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(inputs, tmp_path / "root")
    monkeypatch.setenv("RANK", "0")
    job = make_job(root)
    worker.work(job)
    worker.work(job)  # as after a kill: nothing is left to do, and the run is the same
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train"
    assert found.data.params == {name: str(value) for name, value in asdict(CONFIG).items()}
    trained = load_checkpoint(root / "encoder")
    tags = found.data.tags
    assert tags["mixprint.data"] == "data"
    assert tags["mixprint.recipe"] == "recipe"
    assert tags["mixprint.encoder"] == trained.fingerprint
    assert "mlflow.source.name" in tags
    history = read_json(root / "encoder" / "history.json")
    for name in ("epoch", "valid.recall_at_1", "valid.time_s"):
        logged = client.get_metric_history(found.info.run_id, name)
        assert [(m.step, m.value) for m in logged] == [(row["step"], row[name]) for row in history]
    best = found.data.metrics
    assert best["best.epoch"] == trained.metadata["epoch"]
    assert best["best.valid.loss"] == trained.metadata["metrics"]["valid.loss"]

    def artifacts(folder: str) -> set[str]:
        return {file.path for file in client.list_artifacts(found.info.run_id, folder)}

    assert artifacts("") == {"data_fingerprint.txt", "environment", "model"}
    assert artifacts("environment") == {"environment/packages.txt"}
    model = {f"model/{name}" for name in (*ENCODER_FILES, "history.json")}
    assert artifacts("model") == model
    # Evaluation and promotion find it.
    found_id = run_of_encoder(trained.fingerprint, root / "encoder")
    assert found_id == found.info.run_id


def test_a_server_that_is_away_costs_nothing_but_the_entries(
    tmp_path: Path,
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = shutil.copytree(inputs, tmp_path / "root")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    impatient = partial(BackgroundRun, retry_s=0.01, patience_s=0.5)
    monkeypatch.setattr("components.mlflow.runs.BackgroundRun", impatient)
    with caplog.at_level("WARNING", "mixprint"):
        worker.work(make_job(root))
    load_checkpoint(root / "encoder")
    last = caplog.records[-1].getMessage()
    assert "lacks 8 entries of this training's run: the run, figures of step 1, figures of " in last
    assert "the encoder" in last
