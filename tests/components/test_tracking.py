"""Runs in MLflow that a thread writes: what is tried again, what is left out, what is said."""

import logging
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.util import CommandError
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    NOT_IMPLEMENTED,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.tracking import MlflowClient
from requests import HTTPError, Response
from sqlalchemy.exc import OperationalError

from components.mlflow import runs
from components.mlflow.client import connect, may_pass, own_experiment
from components.mlflow.registry import ENCODER_TAG
from components.mlflow.runs import NOTE_FILE, RECIPE_TAG, BackgroundRun
from tests.processes import wait_until

LOCKED = OperationalError("INSERT", {}, Exception("database is locked"))
MIGRATION = CommandError("Online migration expected to match one row when updating")


def _background_run(tmp_path: Path, recipe: str = "a", **changes: float) -> BackgroundRun:
    return BackgroundRun(
        own_experiment("separator"),
        "test",
        note=tmp_path / NOTE_FILE,
        recipe=recipe,
        params={"batch_size": 3},
        **changes,
    )


def test_how_busy_the_machine_was_outlives_a_fault(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _background_run(tmp_path, retry_s=0.01, sample_s=0.02) as run:
        wait_until(lambda: run._run_id is not None)
        _fail_first(monkeypatch, MlflowClient, "log_batch", LOCKED)
        wait_until(lambda: bool(_loads(client)))
    first = _loads(client)
    with _background_run(tmp_path, sample_s=0.02) as run:
        wait_until(lambda: len(_loads(client)) > len(first))
    (found,) = _runs(client)
    assert found.info.status == "FINISHED"
    began_s = found.info.start_time / 1000
    for load in _loads(client):
        assert 0 <= load.value <= 100
        # Each by the seconds since the run began, before the resumption and after it.
        assert load.step == pytest.approx(load.timestamp / 1000 - began_s, abs=1.01)


def _loads(client: MlflowClient) -> list[Metric]:
    name = "system/cpu_utilization_percentage"
    return [
        load for run in _runs(client) for load in client.get_metric_history(run.info.run_id, name)
    ]


def test_the_tag_of_an_encoder_means_that_its_files_are_there(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    for name in ("config.json", "weights.safetensors", "notes.txt"):
        (folder / name).write_text(name)
    log_artifact = MlflowClient.log_artifact

    def too_large(client: MlflowClient, run_id: str, path: str, folder: str) -> None:
        if path.endswith("weights.safetensors"):
            raise _http_error(413)
        log_artifact(client, run_id, path, folder)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", too_large)
        with _background_run(tmp_path) as run:
            run.log_encoder("x", folder)
    (found,) = _runs(client)
    assert ENCODER_TAG not in found.data.tags
    with _background_run(tmp_path) as run:
        run.log_encoder("x", folder)
    (found,) = _runs(client)
    assert found.data.tags[ENCODER_TAG] == "x"
    paths = {file.path for file in client.list_artifacts(found.info.run_id, "model")}
    assert paths == {"model/config.json", "model/weights.safetensors"}


def _runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(own_experiment("separator"))
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_a_resumed_training_goes_on_with_its_run(tmp_path: Path, client: MlflowClient) -> None:
    def fail() -> None:
        with _background_run(tmp_path) as run:
            run.log_metrics(1, {"loss": 1.0})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    (found,) = _runs(client)
    assert found.info.status == "FAILED"
    assert found.data.params == {"batch_size": "3"}
    assert found.data.tags[RECIPE_TAG] == "a"
    with _background_run(tmp_path) as run:
        run.log_metrics(2, {"loss": 0.5})
    (found,) = _runs(client)
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    with _background_run(tmp_path, recipe="another"):
        pass
    assert len(_runs(client)) == 2
    # One that was deleted takes nothing: the next training has a new one.
    client.delete_run(found.info.run_id)
    with _background_run(tmp_path):
        pass
    assert found.info.run_id not in {run.info.run_id for run in _runs(client)}
    assert len(_runs(client)) == 2


@pytest.mark.parametrize("is_made", [False, True], ids=["before the run", "after the run"])
def test_a_start_that_was_killed_as_its_run_was_made_leaves_no_other_run(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    create_run = MlflowClient.create_run

    def killed(*arguments: Any) -> None:
        if is_made:
            create_run(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", killed)
        with pytest.raises(KeyboardInterrupt):
            _background_run(tmp_path)._open()
    assert len(_runs(client)) == is_made
    with _background_run(tmp_path) as run:
        run.log_metrics(1, {"loss": 1.0})
    (found,) = _runs(client)
    assert found.data.params == {"batch_size": "3"}
    assert found.data.metrics["loss"] == 1.0


def test_a_server_that_is_lost_costs_nothing_but_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        caplog.at_level(logging.WARNING, "mixprint.tracking"),
        _background_run(tmp_path, retry_s=0.01, patience_s=0.5) as run,
    ):
        run.log_metrics(1, {"loss": 1.0})
    assert caplog.text.count("tries again") == 1
    assert "lacks 3 entries of this training's run" in caplog.text
    assert "the run, figures of step 1, status FINISHED" in caplog.text
    assert not (tmp_path / NOTE_FILE).exists()


@pytest.mark.parametrize(
    "fault",
    [MlflowException("the server is away"), OSError(28, "No space left"), LOCKED, MIGRATION],
    ids=["server", "system", "locked", "migration"],
)
def test_what_could_not_be_sent_is_sent_when_the_fault_is_over(
    tmp_path: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
) -> None:
    _fail_first(monkeypatch, runs, "connect", fault)
    _fail_first(monkeypatch, MlflowClient, "log_batch", fault)
    with (
        caplog.at_level(logging.WARNING, "mixprint.tracking"),
        _background_run(tmp_path, retry_s=0.01) as run,
    ):
        run.log_metrics(1, {"loss": 1.0})
    (found,) = _runs(client)
    assert found.data.metrics == {"loss": 1.0}
    assert found.data.params == {"batch_size": "3"}
    assert found.info.status == "FINISHED"
    assert "lacks" not in caplog.text


def _fail_first(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, fault: Exception
) -> None:
    """Let the first two calls of a function fail."""
    function: Callable[..., object] = getattr(owner, name)
    faults = [fault, fault]

    def failing(*args: object, **kwargs: object) -> object:
        if faults:
            raise faults.pop()
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


def test_what_is_refused_for_good_is_said_once_and_the_rest_goes_on(
    tmp_path: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_terminated = MlflowClient.set_terminated

    def broken(*args: object) -> None:
        set_terminated(*args)
        raise ZeroDivisionError

    monkeypatch.setattr(MlflowClient, "set_terminated", broken)
    with caplog.at_level(logging.WARNING, "mixprint.tracking"):
        started_s = time.monotonic()
        with _background_run(tmp_path, retry_s=60.0) as run:
            run.log_metrics(1, {"loss!": 1.0})
            run.log_metrics(2, {"loss!": 1.0})
            run.log_files([tmp_path / "missing.json"], "model")
            run.log_metrics(3, {"loss": 0.5})
        assert time.monotonic() - started_s < 50, "nothing is tried again"
    (found,) = _runs(client)
    assert found.data.metrics == {"loss": 0.5}
    assert found.info.status == "FINISHED"
    assert caplog.text.count("figures of step 1 is left out: Invalid value") == 1
    assert "figures of step 2 is left out" not in caplog.text, "it is for the same reason"
    assert "missing.json is left out" in caplog.text
    # A bug of ours keeps its traceback.
    assert "ZeroDivisionError" in caplog.text
    last = caplog.records[-1].getMessage()
    assert "lacks 4 entries" in last
    assert last.endswith(": figures of step 1, figures of step 2, missing.json, status FINISHED")


def test_a_run_that_cannot_be_opened_is_said_once(
    tmp_path: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete_experiment(connect(own_experiment("separator")))
    with (
        caplog.at_level(logging.WARNING, "mixprint.tracking"),
        _background_run(tmp_path, retry_s=60.0) as run,
    ):
        for step in range(10):
            run.log_metrics(step, {"loss": 1.0})
    assert caplog.text.count("left out") == 1
    assert "the run is left out: " in caplog.text
    last = caplog.records[-1].getMessage()
    assert "lacks 12 entries" in last
    assert last.endswith(
        ": the run, figures of step 0, figures of step 1, figures of step 2, figures of step 3, ..."
    )


def _http_error(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(response=response)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MlflowException("an error of the server"), True),
        (MlflowException("", TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("", RESOURCE_EXHAUSTED), True),
        (MlflowException("", INVALID_PARAMETER_VALUE), False),
        (MlflowException("", PERMISSION_DENIED), False),
        (MlflowException("", NOT_IMPLEMENTED), False),
        (_http_error(503), True),
        (_http_error(413), False),
        (HTTPError("no answer"), True),
        (ConnectionResetError(), True),
        (FileNotFoundError(), False),
        (KeyError(), False),
    ],
    ids=repr,
)
def test_faults_that_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_steps_may_start_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    context = multiprocessing.get_context("fork")
    start, ids = context.Barrier(4), context.Queue()

    def connect_at_once() -> None:
        start.wait()
        ids.put(connect())

    processes = [context.Process(target=connect_at_once) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len({ids.get() for _ in processes}) == 1
