"""The client against a server that stands in for Kubeflow's API; see `kfp_server`."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.step import STEPS
from mixprint.config import load_params
from mixprint.errors import ConfigError
from pipelines.cluster import Cluster
from pipelines.compile import cluster_parser
from pipelines.mix_style import PARAMS_FILE
from pipelines.submit import ClusterError, Job, Server, read_job, schedule, start, upload, wait
from tests.pipelines.kfp_server import FakeKfp, serving

TOKEN = "a-token-that-nobody-may-see"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake() -> Iterator[FakeKfp]:
    with serving(FakeKfp(token=TOKEN)) as fake:
        yield fake


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return made(tmp_path_factory.mktemp("job") / "mixprint.yaml")


def made(path: Path, **options: Any) -> Job:
    args = cluster_parser(None).parse_args([])
    for name, value in {"source": "folder", "data": None, "root": "", "name": ""}.items():
        setattr(args, name, options.get(name, value))
    return read_job(args, Cluster.load(), load_params(PARAMS_FILE), path)


def to(fake: FakeKfp, **values: str) -> Server:
    return Server(**{"host": fake.url, "namespace": "", "token": TOKEN, **values})


def test_a_run_is_posted_with_its_pipeline_and_arguments(
    fake: FakeKfp, job: Job, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert start(to(fake), job) == "r1"
    [asked] = fake.posted("/experiments")
    assert asked.json["display_name"] == "mixprint"
    [asked] = fake.posted("/runs")
    body = asked.json
    assert body["experiment_id"] == "e1"
    assert body["display_name"] == "mixprint-folder"
    given = body["runtime_config"]["parameters"]
    assert given["root"] == "/mixprint/runs/folder"
    assert given["locations"] == ["/mixprint/songs"]
    assert json.loads(given["promote_params"])["model_name"] == "mixprint-encoder-folder"
    assert {name for name in given if name.endswith("_params")} == {f"{s}_params" for s in STEPS}
    pipeline, platform = yaml.safe_load_all(job.path.read_text())
    sent = body["pipeline_spec"]
    assert (
        sent["pipeline_spec"]["root"]["dag"]["tasks"].keys()
        == pipeline["root"]["dag"]["tasks"].keys()
    )
    assert (
        sent["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].keys()
        == platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].keys()
    )
    assert f"{fake.url}/#/runs/details/r1" in caplog.text
    # The token goes with every request, and nowhere else.
    assert {asked.authorization for asked in fake.received} == {f"Bearer {TOKEN}"}
    out = capsys.readouterr()
    assert not any(TOKEN.encode() in asked.body for asked in fake.received)
    assert TOKEN not in caplog.text + out.out + out.err + repr(to(fake))


def test_a_namespace_goes_with_the_experiment(fake: FakeKfp, job: Job) -> None:
    start(to(fake, namespace="ada"), job)
    [asked] = fake.posted("/experiments")
    assert asked.json["namespace"] == "ada"


def test_waiting_outlives_a_server_that_restarts(fake: FakeKfp) -> None:
    fake.states = ["PENDING", "RUNNING", 503, "RUNNING", "SUCCEEDED"]
    wait(to(fake), "r1", poll_s=0.0)
    assert sum(asked.path.endswith("/runs/r1") for asked in fake.received) == 5


def test_a_failed_run_names_its_step_and_not_what_kfp_has_around_it(fake: FakeKfp) -> None:
    fake.states = ["RUNNING", "FAILED"]
    names = {
        "root": "FAILED",
        "ingest": "SUCCEEDED",
        "train-driver": "SUCCEEDED",
        "train": "FAILED",
    }
    fake.tasks = [{"display_name": name, "state": state} for name, state in names.items()]
    with pytest.raises(ClusterError, match="has ended as FAILED, because of train: http") as error:
        wait(to(fake), "r1", poll_s=0.0)
    assert "/#/runs/details/r1" in str(error.value)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["CANCELED"], "has ended as CANCELED: http"),
        (["RUNNING", 401], "does not accept the TOKEN.*the run goes on: http"),
        (["RUNNING", 503], "status 503: not now; the run goes on"),
    ],
)
def test_what_waiting_cannot_outlive(
    fake: FakeKfp, states: list[str | int], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.submit.PATIENCE", 3)
    fake.states = states
    with pytest.raises(ClusterError, match=told):
        wait(to(fake), "r1", poll_s=0.0)


def test_a_version_is_registered_once(fake: FakeKfp, job: Job, tmp_path: Path) -> None:
    name = upload(to(fake), job)
    [asked] = fake.posted("/pipelines/upload")
    assert asked.query["name"] == "mixprint"
    assert job.path.read_bytes() in asked.body
    [asked] = fake.posted("/pipelines/upload_version")
    assert (asked.query["name"], asked.query["pipelineid"]) == (name, "p1")
    assert job.path.read_bytes() in asked.body
    assert upload(to(fake), job) == name
    assert len(fake.posted("/pipelines/upload_version")) == 1
    other = made(tmp_path / "mixprint.yaml", name="other")
    assert upload(to(fake), other) != name
    assert len(fake.posted("/pipelines/upload")) == 1
    assert len(fake.posted("/pipelines/upload_version")) == 2


@pytest.mark.parametrize("cron", ["0 3 * * 1", "0 0 3 * * 1"])
def test_a_schedule(fake: FakeKfp, job: Job, cron: str) -> None:
    assert schedule(to(fake), job, cron) == "s1"
    [asked] = fake.posted("/recurringruns")
    body = asked.json
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert body["max_concurrency"] == 1
    assert body["no_catchup"] is True
    assert body["mode"] == "ENABLE"
    assert body["runtime_config"]["parameters"] == job.arguments
    assert "platform_spec" in body["pipeline_spec"]
    with pytest.raises(ClusterError, match="expected no recurring run of this name"):
        schedule(to(fake), job, cron)
    assert len(fake.posted("/recurringruns")) == 1


@pytest.mark.parametrize("cron", ["", "daily", "0 3 * *"])
def test_a_cron_of_another_form_is_refused_before_anything_is_asked(
    fake: FakeKfp, job: Job, cron: str
) -> None:
    with pytest.raises(ConfigError, match="CRON: expected five fields"):
        schedule(to(fake), job, cron)
    assert not fake.received


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (302, "status 302: it does not accept the TOKEN"),
        (403, "status 403"),
        (404, "expected the API of Kubeflow Pipelines 2, got status 404"),
        (500, "expected success, got status 500"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should(
    fake: FakeKfp, job: Job, health: int, told: str
) -> None:
    fake.health = health
    with pytest.raises(ClusterError, match=told) as error:
        start(to(fake), job)
    assert TOKEN not in str(error.value)


def test_without_a_token_or_a_server(fake: FakeKfp, job: Job) -> None:
    with pytest.raises(ClusterError, match="there is no TOKEN; set the variable TOKEN"):
        start(to(fake, token=""), job)
    with pytest.raises(ClusterError, match=r"could not connect .*look at KFP_HOST"):
        start(to(fake, host="http://127.0.0.1:1"), job)
    with pytest.raises(ConfigError, match="KFP_HOST: expected http://"):
        start(to(fake, host="kubeflow"), job)


@pytest.mark.parametrize("option", [{"root": "results/x"}, {"data": ["data"]}, {"root": "/tmp/x"}])
def test_folders_that_no_pod_sees_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    name = "ROOT" if "root" in option else "DATA"
    with pytest.raises(ConfigError, match=f"{name}: expected a folder in a volume"):
        made(tmp_path / "x.yaml", **option)


def test_the_command_ends_with_an_error_when_the_run_fails(fake: FakeKfp) -> None:
    fake.states = ["FAILED"]
    fake.tasks = [{"display_name": "separate", "state": "FAILED"}]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.submit", "run", "--host", fake.url, "--wait"],
        env={**os.environ, "TOKEN": TOKEN},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: the run has ended as FAILED, because of separate" in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
