import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.cli import app
from mixprint.machine import doctor
from mixprint.machine.doctor import Finding, look_here

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND = [Finding("a", "there")]


def all_there() -> list[Finding]:
    return FOUND


def one_missing() -> list[Finding]:
    return [*FOUND, Finding("b", "not set", "Set it")]


def offered(monkeypatch: pytest.MonkeyPatch, *functions: Callable[[], list[Finding]]) -> None:
    points = EntryPoints(
        EntryPoint("cluster", f"{__name__}:{function.__name__}", doctor.GROUP)
        for function in functions
    )
    monkeypatch.setattr(doctor, "entry_points", lambda **wanted: points.select(**wanted))


def test_a_place_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, one_missing)
    result = CliRunner().invoke(app, ["doctor", "--cluster"])
    assert result.exit_code == 1
    assert result.output.splitlines() == ["ok       a: there", "MISSING  b: not set. Set it"]
    offered(monkeypatch, all_there)
    assert CliRunner().invoke(app, ["doctor", "--cluster"]).exit_code == 0
    offered(monkeypatch)
    result = CliRunner().invoke(app, ["doctor", "--cluster"])
    assert result.exit_code == 2
    assert "found none; run `make setup`" in " ".join(result.output.split())


def test_the_package_offers_to_look_at_a_cluster() -> None:
    import pipelines.doctor

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    point = EntryPoint("cluster", project["entry-points"][doctor.GROUP]["cluster"], doctor.GROUP)
    assert point.load() is pipelines.doctor.check


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    lost = tmp_path / "weights.safetensors"
    assert [each.what for each in look_here(tmp_path, [lost], {}) if each.is_missing] == [
        "shipped weights"
    ]
    lost.touch()
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 10**18)
    monkeypatch.setattr(doctor, "LEAST_MEMORY_BYTES", 10**18)
    missing = [each.what for each in look_here(tmp_path, [lost], {}) if each.is_missing]
    assert missing == ["memory", "disk"]


def test_what_can_be_done_without_is_named_but_not_missed(tmp_path: Path) -> None:
    optional = {"decoder": ["a (`install a`)", "b (`install b`)"], "other": []}
    *_, decoder, other = look_here(tmp_path, [], optional)
    assert decoder.to_text() == (
        "ok       decoder (optional): not installed: a (`install a`), b (`install b`)"
    )
    assert other.to_text() == "ok       other (optional): there"
    output = CliRunner().invoke(app, ["doctor"]).output
    assert "decoder of MUSDB18 (optional)" in output
    assert "training on TPUs (optional): not installed: the Python package torch_xla" in output
