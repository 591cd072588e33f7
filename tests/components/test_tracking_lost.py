"""A server of MLflow's that is lost: what steps do, and that nobody sees its password."""

import base64
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from components.evaluate import main as evaluate
from components.mlflow.client import EXPERIMENT, shown_uri
from components.mlflow.registry import Registry
from components.mlflow.runs import NOTE_FILE, BackgroundRun
from components.mlflow.store import LOST_VARIABLE, tracking_uri
from mixprint.errors import ConfigError, DataError, TrainingError
from tests.components.fake_mlflow import FakeMlflow, serving
from tests.processes import wait_until

PASSWORD = "a-password/that nobody@may:see"
QUOTED = "a-password%2Fthat%20nobody%40may%3Asee"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMlflow]:
    """Return a server whose address holds the credentials."""
    before = mlflow.get_tracking_uri()
    with serving(FakeMlflow(tmp_path / "artifacts")) as fake:
        # So that they are as before at the end, whoever sets them.
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:{QUOTED}@{fake.address}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield fake
    mlflow.set_tracking_uri(before)


def background_run(folder: Path) -> BackgroundRun:
    return BackgroundRun(
        EXPERIMENT,
        "test",
        note=folder / NOTE_FILE,
        recipe="a",
        params={"batch_size": 3},
        retry_s=0.02,
        patience_s=0.5,
    )


def train(folder: Path, server: FakeMlflow) -> None:
    """Train three epochs; the server is lost after the first, and the weights are there."""
    with background_run(folder) as run:
        run.log_metrics(1, {"loss": 1.0})
        wait_until(lambda: server.figures() == [1])
        server.lasts = 0
        run.log_metrics(2, {"loss": 0.5})
        (folder / "weights").write_text("trained")


def test_a_server_that_comes_back_gets_everything(tmp_path: Path, server: FakeMlflow) -> None:
    with background_run(tmp_path) as run:
        run.log_metrics(1, {"loss": 1.0})
        wait_until(lambda: server.figures() == [1])
        server.lasts = 0
        run.log_metrics(2, {"loss": 0.5})
        server.lasts = -1
    assert server.figures() == [1, 2]
    assert ("runs/update", "FINISHED") in [
        (name, body.get("status")) for name, body in server.received
    ]


def test_a_training_goes_on_without_it(
    tmp_path: Path, server: FakeMlflow, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mixprint.tracking"):
        train(tmp_path, server)
    assert (tmp_path / "weights").exists()
    assert "lacks 2 entries of this training's run: figures of step 2, status FINISHED" in (
        caplog.text
    )


def test_a_training_stops_at_its_end_if_that_is_wanted(
    tmp_path: Path, server: FakeMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOST_VARIABLE, "stop")
    with pytest.raises(TrainingError, match=r"lacks 2 entries.*the next attempt begins there"):
        train(tmp_path, server)
    assert (tmp_path / "weights").exists(), "it is not the checkpoint that is lost"
    # What the server refuses for good stops nobody: it would refuse it the next time, too.
    server.lasts = -1
    with background_run(tmp_path) as run:
        run.log_files([tmp_path / "missing.json"], "model")
    # An error of the training's own is the one to tell.
    server.lasts = 0
    with pytest.raises(KeyError), background_run(tmp_path):
        raise KeyError


def test_what_is_done_when_it_is_lost_is_checked_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOST_VARIABLE, "wait")
    with pytest.raises(ConfigError, match=f"{LOST_VARIABLE}: expected go-on or stop, found 'wait'"):
        background_run(tmp_path)


def test_an_evaluation_goes_on_or_stops(
    tmp_path: Path,
    server: FakeMlflow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    track = partial(evaluate._track, "encoder", tmp_path, tmp_path, {"song_map": 0.5})
    server.lasts = 0
    with caplog.at_level(logging.WARNING, "mixprint.tracking"):
        track()
    assert f"MLflow at http://{server.address} lacks the evaluation: " in caplog.text
    monkeypatch.setenv(LOST_VARIABLE, "stop")
    with pytest.raises(DataError, match="lacks the evaluation: "):
        track()


def test_the_registry_cannot_be_done_without(server: FakeMlflow) -> None:
    server.lasts = 0
    with pytest.raises(DataError, match=r"expected the registry of encoders, found: .*503"):
        Registry("encoder")
    # That it does not know what it is asked is no matter of time.
    server.lasts = -1
    with pytest.raises(MlflowException, match="ENDPOINT_NOT_FOUND"):
        Registry("encoder")


def test_a_password_in_the_address_is_sent_and_shown_nowhere(
    tmp_path: Path,
    server: FakeMlflow,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert tracking_uri() == f"http://{server.address}"
    credentials = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
    with caplog.at_level(logging.DEBUG):
        train(tmp_path, server)
        server.lasts = -1
        evaluate._track("encoder", tmp_path, tmp_path, {"song_map": 0.5})
        server.lasts = 0
        with pytest.raises(DataError) as told:
            Registry("encoder")
    assert server.authorizations == {f"Basic {credentials}"}
    out, err = capfd.readouterr()
    assert "View run" in out, "MLflow's own line, with the address"
    seen = [caplog.text, out, err, str(told.value), repr(server.received)]
    seen += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (PASSWORD, QUOTED, credentials):
        assert not any(secret in text for text in seen)


def test_the_password_of_a_database_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ada:{QUOTED}@db/mlflow")
    assert QUOTED in tracking_uri(), "it is needed"
    assert shown_uri() == "postgresql://db/mlflow"
