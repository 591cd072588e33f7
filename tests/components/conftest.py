import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components.mlflow.client import connect
from components.run_folder import RunFolder
from components.train import worker
from components.train.job import Job


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    connect()
    return MlflowClient()


@pytest.fixture
def rank_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process: starting others takes half a minute, and has tests of its own."""

    def start_workers(
        _: str, job: dict[str, Any], _folder: Path, _num: int, run: RunFolder
    ) -> None:
        monkeypatch.setenv("RANK", "0")
        worker.work(Job(**run.localised(job)))

    monkeypatch.setattr("components.train.job.start_workers", start_workers)
