"""MLflow's store: found from other folders, and never made by a look at it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from components.mlflow import store
from components.mlflow.registry import Registry, fetch_model
from mixprint.errors import DataError


@pytest.fixture(autouse=True)
def no_store_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No store in a variable, and none in the checkout; a project folder of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(store, "CHECKOUT", tmp_path / "checkout")
    before = mlflow.get_tracking_uri()
    yield tmp_path
    mlflow.set_tracking_uri(before)


def _put_store(folder: Path, empty_store: Path) -> Path:
    database = folder / store.DATABASE
    database.parent.mkdir(parents=True)
    shutil.copy(empty_store, database)
    return database


@pytest.mark.parametrize("place", ["here", "above", "checkout"])
def test_a_registered_name_means_the_store_of_the_project_from_any_folder(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "project" / "songs" / "live"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    owner = {"here": folder, "above": tmp_path / "project", "checkout": tmp_path / "checkout"}
    database = _put_store(owner[place], empty_store)

    assert store.nearest_uri() == f"sqlite:///{database}"

    with pytest.raises(DataError, match="models:/encoder@champion: expected a registered model in"):
        fetch_model("models:/encoder@champion", tmp_path / "out")
    assert list(tmp_path.rglob("mlstore")) == [database.parent]


@pytest.mark.parametrize("uri", ["", "sqlite:///none/mlflow.db", "none", "file:///no/such/store"])
def test_a_store_that_is_missing_is_a_sentence_and_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    with pytest.raises(DataError, match=r"found none.*MLFLOW_TRACKING_URI"):
        fetch_model("models:/encoder@champion", tmp_path / "out")
    with pytest.raises(DataError, match=r"found none.*MLFLOW_TRACKING_URI"):
        Registry("encoder", must_exist=True)
    assert list(folder.iterdir()) == []


def test_a_registry_that_is_only_read_gets_no_entry(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _put_store(tmp_path, empty_store)
    registry = Registry("encoder", must_exist=True)

    assert registry.champion() is None
    with pytest.raises(DataError, match="expected a champion, found none"):
        registry.rollback()
    assert mlflow.MlflowClient().search_registered_models() == []
