import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows.models import WorkflowTemplate

from components.step import STEPS
from mixprint.audio.files import write_audio
from mixprint.config import load_params
from mixprint.storage.atomic import read_json
from pipelines import argo
from pipelines.cluster import CLUSTER_FILE
from pipelines.compile import cluster_parser
from pipelines.mix_style import PARAMS_FILE
from tests.pipelines.argo_local import ARGO_FILE, dag_tasks, in_order, read_template, run, templates
from tests.pipelines.test_cluster import changed


def written(folder: Path, *options: str) -> Path:
    parser = cluster_parser(None)
    parser.add_argument("--out", type=Path)
    path = folder / "argo.yaml"
    argo.write_argo(parser.parse_args(["--out", str(path), *options]))
    return path


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return read_template()


def test_the_committed_file_is_what_is_written(tmp_path: Path) -> None:
    assert written(tmp_path).read_text() == ARGO_FILE.read_text()


def test_argos_own_models_know_every_key() -> None:
    """Hera makes them from Argo's API; what they do not know is lost on the way."""
    loaded = yaml.safe_load(ARGO_FILE.read_text())
    read = WorkflowTemplate.model_validate(loaded)
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True) == loaded


def test_the_dag(spec: dict[str, Any]) -> None:
    assert [task["name"] for task in in_order(dag_tasks(spec))] == list(STEPS)
    fan_out = {task["name"]: task.get("withParam") for task in dag_tasks(spec)}
    assert fan_out.pop("separate") == "{{tasks.ingest.outputs.parameters.Output}}"
    assert set(fan_out.values()) == {None}


def test_pods_are_locked_down(spec: dict[str, Any]) -> None:
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for step in STEPS:
        assert templates(spec)[step]["container"]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }


def test_everything_in_cluster_yaml_reaches_the_pods(tmp_path: Path) -> None:
    values = changed("steps.train.node_selector", {"pool": "a100"})
    values["steps"]["train"] |= {"gpus": 2, "retries": 5, "backoff_s": 30}
    values["steps"]["promote"] = {"retries": 0}
    values["image"] |= {"pull_policy": "Always", "pull_secrets": ["registry-key"]}
    values["env"] = {"COLOUR": "blue"}
    cluster = tmp_path / CLUSTER_FILE.name
    cluster.write_text(yaml.safe_dump(values))
    options = ["--cluster", str(cluster), "--image-repository", "registry/project"]
    spec = read_template(written(tmp_path, *options))
    assert spec["imagePullSecrets"] == [{"name": "registry-key"}]
    pod = templates(spec)["train"]
    assert pod["activeDeadlineSeconds"] == 604800
    assert pod["nodeSelector"] == {"pool": "a100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["retryStrategy"] == {
        "limit": "5",
        "retryPolicy": "Always",
        "backoff": {"duration": "30s", "factor": "2"},
    }
    assert "retryStrategy" not in templates(spec)["promote"]
    container = pod["container"]
    assert container["image"] == "registry/project/mixprint:0.1.0"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    env = {each["name"]: each for each in container["env"]}
    assert env["COLOUR"]["value"] == "blue"
    assert env["MLFLOW_TRACKING_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
        "name": "mixprint-mlflow",
        "key": "password",
        "optional": True,
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert mounted["/tmp"]["emptyDir"] == {}
    assert mounted["/mixprint"]["persistentVolumeClaim"]["claimName"] == "mixprint"
    assert mounted["/var/run/secrets/mixprint-gcs"]["secret"]["secretName"] == "mixprint-gcs"


def test_the_command_of_a_step_runs(tmp_path: Path, spec: dict[str, Any]) -> None:
    """Ingest takes all kinds of parameters and gives the fan-out; CI runs the others, too."""
    import torch

    songs = tmp_path / "my songs"
    songs.mkdir()
    for number in range(8):
        noise_CT = torch.rand(2, 44_100 * 11, generator=torch.Generator().manual_seed(number)) - 0.5
        write_audio(songs / f"{number}.wav", noise_CT, 44_100)
    # YAML would read the small number as text.
    section = load_params(PARAMS_FILE)["ingest"] | {"num_shards": 3, "max_clipped_fraction": 1e-05}
    arguments = {
        "root": str(tmp_path / "run"),
        "source": "folder",
        "locations": json.dumps([str(songs)]),
        "ingest_params": json.dumps(section),
    }
    scope = run(spec, arguments, only="ingest")
    assert json.loads(scope["tasks.ingest.outputs.parameters.Output"]) == [0, 1, 2]
    done = read_json(tmp_path / "run" / "steps" / "ingest.done.json")
    assert done["counts"] == {"tracks": 8, "rejects": 0}
