"""The runtime of a training on several nodes, and what the step `train` gets for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime

from components.train.trainjob import VARIABLE, Nodes
from mixprint.config import load_params
from mixprint.errors import ConfigError
from pipelines import compile as compilation
from pipelines.cluster import Cluster
from pipelines.compile import cluster_parser, compile_pipeline
from pipelines.mix_style import PARAMS_FILE
from pipelines.trainer import training_runtime

RUNTIME_FILE = Path(__file__).resolve().parents[2] / "pipelines" / "mixprint-trainer.yaml"


def executor(path: Path, name: str) -> dict[str, Any]:
    """What KFP's YAML says of a step's container."""
    loaded = next(yaml.safe_load_all(path.read_text()))
    container: dict[str, Any] = loaded["deploymentSpec"]["executors"][name]["container"]
    return container


def test_the_committed_runtime_is_made_from_the_committed_settings() -> None:
    committed = yaml.safe_load(RUNTIME_FILE.read_text())
    assert committed == training_runtime(Cluster.load()), "run `make trainer-runtime`"


def test_the_runtime_has_the_form_that_kubeflow_publishes() -> None:
    made = training_runtime(Cluster.load(nodes=2, gpus_per_node=4))
    read = TrainerV1alpha1TrainingRuntime.from_dict(made)
    assert read is not None
    # What the models do not know would be gone.
    assert json.loads(read.to_json()) == made
    [job] = made["spec"]["template"]["spec"]["replicatedJobs"]
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    # Or the nodes would have other nodes started.
    assert VARIABLE not in {entry["name"] for entry in container["env"]}


def test_the_step_submits_and_needs_little_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = Cluster.load(repository="registry/project", nodes=2, gpus_per_node=4)
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(path, several, load_params(PARAMS_FILE), name="tiny")
    train = executor(path, "exec-train")
    assert "accelerator" not in train["resources"]
    assert train["resources"]["resourceCpuLimit"] == "1"
    [entry] = [entry for entry in train["env"] if entry["name"] == VARIABLE]
    monkeypatch.setenv(VARIABLE, entry["value"])
    assert Nodes.from_environment() == Nodes(
        image=f"registry/project/{executor(path, 'exec-features')['image'].split('/')[-1]}",
        runtime="mixprint",
        num_nodes=2,
        resources={"cpu": "32", "memory": "128Gi", "nvidia.com/gpu": "4"},
        shared=("/mixprint",),
    )
    assert "env" not in executor(path, "exec-separate"), "no other step has nodes"


def test_one_node_changes_nothing() -> None:
    cluster = Cluster.load(nodes=1)
    assert cluster.pod("train") == cluster.steps["train"]
    assert cluster.variables("train", "image") == cluster.env


def test_as_many_processes_as_gpus_unless_somebody_says_otherwise() -> None:
    def processes(*arguments: str) -> int:
        cluster, params = compilation.read_inputs(cluster_parser(None).parse_args(arguments))
        assert cluster.steps["train"].gpus == 4
        count: int = params["train"]["num_processes"]
        return count

    assert processes("--gpus-per-node", "4", "--profile", "full") == 4
    assert processes("--gpus-per-node", "4", "--set", "train.num_processes=2") == 2


def test_each_process_must_have_a_pair_of_the_batch() -> None:
    params = load_params(PARAMS_FILE, "full")
    Cluster.load(nodes=3, gpus_per_node=8).check_training(params)
    with pytest.raises(ConfigError, match="batch_size is 24, and 4 nodes have 32 processes"):
        Cluster.load(nodes=4, gpus_per_node=8).check_training(params)


def test_numbers_of_nodes_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"training\.nodes: expected >= 1, found -1"):
        Cluster.load(nodes=-1)
    with pytest.raises(ConfigError, match=r"gpus: expected >= 0, found -1"):
        Cluster.load(gpus_per_node=-1)
