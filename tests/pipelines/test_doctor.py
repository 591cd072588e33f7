"""The look at a cluster, with the server of `kfp_server` and a program in place of kubectl."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import doctor
from tests.pipelines.kfp_server import FakeKfp, serving

SECRETS = {
    "mixprint-mlflow": ["uri", "username", "password"],
    "mixprint-gcs": ["key.json", "path"],
}
CLAIMS = {"mixprint": 'Bound ["ReadWriteMany"]'}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the only programs that are found."""
    for name in ("KFP_HOST", "NAMESPACE", "TOKEN", "IMAGE_REPO", "NODES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def answer(
    tools: Path,
    secrets: dict[str, list[str]],
    claims: dict[str, str],
    runtimes: Sequence[str] = (),
) -> None:
    """Make a kubectl that knows these; it keeps its arguments."""
    known = {
        **{f"secret/{name}": " ".join(["there", *keys]) for name, keys in secrets.items()},
        **{f"persistentvolumeclaim/{name}": told for name, told in claims.items()},
        **{f"trainingruntime/{name}": name for name in runtimes},
    }
    cases = "\n".join(f"  '{name}') printf '%b' '{told}' ;;" for name, told in known.items())
    path = tools / "kubectl"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {tools}/asked\ncase "$2/$3" in\n{cases}\n  *) ;;\nesac\n'
    )
    path.chmod(0o755)


def missing() -> dict[str, str]:
    return {each.what: each.to_text() for each in doctor.check() if each.is_missing}


def test_everything_is_there(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(tools, SECRETS, CLAIMS)
    with serving(FakeKfp(token="secret-token")) as fake:
        monkeypatch.setenv("KFP_HOST", fake.url)
        monkeypatch.setenv("TOKEN", "secret-token")
        monkeypatch.setenv("NAMESPACE", "ada")
        monkeypatch.setenv("IMAGE_REPO", "registry/project")
        findings = doctor.check()
    text = "\n".join(each.to_text() for each in findings)
    assert "MISSING" not in text
    assert "registry/project/mixprint" in text
    assert "secret-token" not in text
    asked = (tools / "asked").read_text()
    assert asked.count("--namespace=ada") == asked.count("get ") == 3


def test_nothing_is_there(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = missing()
    assert set(told) == {"image", "KFP_HOST", "kubectl"}
    assert "Set it to the address" in told["KFP_HOST"]
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:1")
    assert "could not connect" in missing()["KFP_HOST"]
    (tools / "kubectl").write_text("#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    (tools / "kubectl").chmod(0o755)
    assert (
        "could not ask for the persistentvolumeclaim mixprint: connection refused, so nothing"
        in (missing()["kubectl"])
    )


def test_volumes_and_secrets(tools: Path) -> None:
    answer(tools, {}, {"mixprint": 'Bound ["ReadWriteOnce"]'})
    told = missing()
    assert "need ReadWriteMany" in told["volume mixprint"]
    # Both secrets are optional, but nothing else says where MLflow is.
    assert set(told) == {"image", "KFP_HOST", "volume mixprint", "MLFLOW_TRACKING_URI"}
    answer(tools, {"mixprint-mlflow": ["username"]}, {})
    told = missing()
    assert "not found" in told["volume mixprint"]
    assert "MLFLOW_TRACKING_URI" in told


def test_several_nodes_need_their_runtime(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODES", "2")
    answer(tools, SECRETS, CLAIMS)
    assert "mixprint-trainer.yaml" in missing()["runtime mixprint"]
    answer(tools, SECRETS, CLAIMS, ["mixprint"])
    assert "runtime mixprint" not in missing()


def test_a_broken_file_and_missing_packages(
    tools: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cluster.yaml"
    broken.write_text("steps: {learn: {}}")
    monkeypatch.setattr("pipelines.cluster.CLUSTER_FILE", broken)
    assert "unknown ['learn']" in missing()["cluster.yaml"]
    monkeypatch.setattr(doctor, "PACKAGES", {"kfp": "kfp", "no_such.module": "no-such"})
    assert missing() == {"packages": "MISSING  packages: not installed: no-such. Run `make setup`"}
