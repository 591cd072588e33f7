from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from mixprint.checkpoints import registry
from mixprint.checkpoints.registry import GROUP, fetch_checkpoint, is_registered
from mixprint.errors import ConfigError


def fetch(name: str, folder: Path) -> Path:
    (folder / "name.txt").write_text(name)
    return folder


def offered(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:fetch", group) for name in names for group in (GROUP, "other")
    )
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: points.select(**wanted))


def test_a_registry_is_found_by_its_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, "models")
    found = fetch_checkpoint("models:/mixprint-encoder@champion", tmp_path)
    assert (found / "name.txt").read_text() == "models:/mixprint-encoder@champion"


def test_without_a_registry_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, "other")
    with pytest.raises(ConfigError, match="models:/x@y: expected an installed registry"):
        fetch_checkpoint("models:/x@y", tmp_path)


def test_names_and_paths() -> None:
    assert is_registered("models:/x@champion")
    assert not is_registered("results/tiny/encoder")
    assert not is_registered("")


def test_the_project_offers_its_registry() -> None:
    import tomllib

    from components.mlflow.registry import fetch_model

    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    offered = tomllib.loads(project.read_text())["project"]["entry-points"][GROUP]
    point = EntryPoint("models", offered["models"], GROUP)
    assert point.load() is fetch_model
