import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.step import STEPS
from mixprint.config import load_params
from mixprint.errors import ConfigError
from pipelines.cluster import CLUSTER_FILE, Cluster, num_bytes
from pipelines.compile import compile_pipeline
from pipelines.mix_style import PARAMS_FILE, mix_style

COMMITTED: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())


def load(folder: Path, values: object, **options: str) -> Cluster:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    return Cluster.load(path, **options)


def changed(key: str, value: object) -> dict[str, Any]:
    """The committed file with one value changed, named as `steps.train.cpu`."""
    values = copy.deepcopy(COMMITTED)
    *folders, last = key.split(".")
    place = values
    for folder in folders:
        place = place[folder]
    place[last] = value
    return values


def test_a_step_has_the_defaults_unless_it_has_its_own() -> None:
    cluster = Cluster.load()
    assert tuple(cluster.steps) == STEPS
    assert cluster.steps["evaluate"].memory == COMMITTED["defaults"]["memory"]
    assert cluster.steps["train"].memory == COMMITTED["steps"]["train"]["memory"] != "8Gi"
    assert cluster.steps["train"].retries == COMMITTED["defaults"]["retries"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("extra", 1, "unknown keys ['extra']"),
        ("steps.learn", {}, "unknown ['learn']"),
        ("steps.train.cores", 4, "steps.train: unknown keys ['cores']"),
        ("steps.train.cpu", 4, "steps.train.cpu: expected str, found 4"),
        ("steps.train.cpu", "four", "steps.train: cpu: expected cores"),
        ("steps.train.memory", "32 GB", "memory: expected a whole number with"),
        ("steps.train.memory", "1.5Gi", "memory: expected a whole number with"),
        ("steps.train.shm", "32Gi", "shm: expected less than memory, 32Gi"),
        ("steps.train.gpus", -1, "gpus: expected >= 0, found -1"),
        ("steps.train.gpus", True, "steps.train.gpus: expected int, found True"),
        ("steps.train.timeout_s", 0, "timeout_s: expected >= 1"),
        ("steps.train.node_selector", {"pool": 1}, "steps.train.node_selector.pool: expected str"),
        ("steps.train.tolerations", [{"key": "gpu"}], "steps.train.tolerations[0]: missing keys"),
        ("steps.train.tolerations", {"key": "gpu"}, "steps.train.tolerations: expected a list"),
        (
            "steps.train.tolerations",
            [{"key": "gpu", "operator": "Exists", "value": "x", "effect": ""}],
            "tolerations.value: expected none beside",
        ),
        ("defaults.backoff_factor", 0, "backoff_factor: expected >= 1"),
        ("image.pull_policy", "Sometimes", "image.pull_policy: expected one of"),
        ("image.repository", "https://registry", "image.repository: expected registry/project"),
        ("security.run_as_user", 0, "security.run_as_user: expected a number > 0 (0 is root)"),
        ("env", {"1X": "a"}, "env: expected names of variables, found ['1X']"),
        ("volumes", [{"claim": "Big", "path": "/x"}], "volumes.claim: expected a name"),
        ("volumes", [{"claim": "big", "path": "x"}], "volumes.path: expected an absolute path"),
        ("volumes", [], "folders.songs: expected a folder in a volume of the cluster ([])"),
        ("folders.runs", "/mixprint/../runs", "folders.runs: expected a folder in a volume"),
        ("folders.runs", "gs://bucket/../runs", "folders.runs: expected gs://bucket/folder"),
        ("folders.runs", "gs://", "folders.runs: expected gs://bucket/folder"),
        ("folders", {"songs": "/mixprint/songs"}, "folders: missing keys ['runs']"),
        ("steps", None, "steps: expected a mapping"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, key: str, value: object, told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, changed(key, value))
    assert told in str(error.value)
    assert "cluster.yaml" in str(error.value)


def test_in_buckets_nothing_needs_a_volume(tmp_path: Path) -> None:
    values = changed("folders", {"songs": "gs://bucket/songs", "runs": "gs://bucket/runs"})
    cluster = load(tmp_path, values | {"volumes": []})
    pipeline, platform = compiled(tmp_path, cluster)
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]
    assert inputs["root"]["defaultValue"] == "gs://bucket/runs/tiny"
    assert inputs["locations"]["defaultValue"] == ["gs://bucket/songs"]
    assert "pvcMount" not in platform["exec-train"]
    cluster.check_shared("ROOT", "gs://other/runs/x")


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable file"):
        Cluster.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="expected a readable YAML file"):
        Cluster.load(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="the file: expected a mapping"):
        load(tmp_path, [1])


@pytest.mark.parametrize(
    ("quantity", "expected"), [("7", 7), ("2K", 2000), ("2Ki", 2048), ("3Gi", 3 * 1024**3)]
)
def test_num_bytes(quantity: str, expected: int) -> None:
    assert num_bytes("memory", quantity) == expected


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    params = load_params(PARAMS_FILE, "full")
    with pytest.raises(ConfigError, match=r"num_processes is 8, and cluster.yaml gives .* 1 GPUs"):
        Cluster.load().check_training(params)
    load(tmp_path, changed("steps.train.gpus", 8)).check_training(params)
    Cluster.load(gpus_per_node=8).check_training(params)
    # On processors any number of them shares the cores.
    load(tmp_path, changed("steps.train.gpus", 0)).check_training(params)


def test_what_readers_prepare_must_fit() -> None:
    def check(*overrides: str, nodes: int = 1) -> None:
        params = load_params(PARAMS_FILE, "full", ["train.num_processes=1", *overrides])
        Cluster.load(nodes=nodes).check_training(params)

    check()
    # 4 readers with 2 batches each and one in use, of 48 pairs of segments of 14.112 MB.
    with pytest.raises(ConfigError, match=r"train shm 8Gi, and .* takes up to 12\.2 GB there"):
        check("train.batch_size=48")
    check("train.batch_size=48", "train.num_workers=2")
    check("train.batch_size=48", "train.segment_s=5.0")
    check("train.batch_size=48", nodes=2)
    check("train.batch_size=4800", "train.num_workers=0")


@pytest.mark.parametrize(
    ("file_gpus", "gpus", "expected"),
    [
        (1, 8, {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8"}),
        (8, 3, {"cpu": "3", "memory": "12Gi", "nvidia.com/gpu": "3"}),
        (0, 8, {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "8"}),
    ],
)
def test_with_the_gpus_of_a_node_grow_processors_and_memory(
    tmp_path: Path, file_gpus: int, gpus: int, expected: dict[str, str]
) -> None:
    load(tmp_path, changed("steps.train.gpus", file_gpus))
    place = Cluster.load(tmp_path / "cluster.yaml", gpus_per_node=gpus).steps["train"]
    assert place.resources == expected
    assert place.shm == COMMITTED["steps"]["train"]["shm"]


def compiled(folder: Path, cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's and the platform's document."""
    path = folder / "pipeline.yaml"
    compile_pipeline(path, cluster, load_params(PARAMS_FILE), name="tiny")
    pipeline, platform = yaml.safe_load_all(path.read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_everything_in_the_file_reaches_the_compiled_pipeline(tmp_path: Path) -> None:
    values = changed("steps.train.node_selector", {"pool": "a100"})
    values["steps"]["train"] |= {"gpus": 2, "caching": True, "retries": 5, "backoff_s": 30}
    values["image"] |= {"pull_policy": "Always", "pull_secrets": ["registry-key"]}
    values["env"] = {"COLOUR": "blue"}
    cluster = load(tmp_path, values, repository="registry/project")
    pipeline, platform = compiled(tmp_path, cluster)

    container = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert container["image"] == "registry/project/mixprint:0.1.0"
    assert {"name": "COLOUR", "value": "blue"} in container["env"]
    resources = container["resources"]
    assert resources["resourceCpuLimit"] == resources["resourceCpuRequest"] == "8"
    assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"] == "32Gi"
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "2"
    task = pipeline["root"]["dag"]["tasks"]["train"]
    assert task["cachingOptions"] == {"enableCache": True}
    assert task["retryPolicy"]["maxRetryCount"] == 5
    assert task["retryPolicy"]["backoffDuration"] == "30s"
    # A year: KFP would not retry what fails after more than this, and its default is an hour.
    assert task["retryPolicy"]["backoffMaxDuration"] == f"{365 * 24 * 3600}s"

    pod = platform["exec-train"]
    [shm] = pod["emptyDirMounts"]
    assert (shm["mountPath"], shm["medium"], shm["sizeLimit"]) == ("/dev/shm", "Memory", "8Gi")
    assert pod["activeDeadlineSeconds"] == "604800"
    assert pod["nodeSelector"]["labels"] == {"pool": "a100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["imagePullPolicy"] == "Always"
    assert pod["imagePullSecret"][0]["secretName"] == "registry-key"
    assert pod["pvcMount"][0]["mountPath"] == "/mixprint"
    assert pod["securityContext"] == {
        "runAsUser": "65532",
        "runAsGroup": "65532",
        "runAsNonRoot": True,
    }
    mlflow, gcs = pod["secretAsEnv"]
    assert mlflow["secretName"] == "mixprint-mlflow"
    assert {"envVar": "MLFLOW_TRACKING_PASSWORD", "secretKey": "password"} in mlflow["keyToEnv"]
    assert gcs["optional"]
    assert pod["secretAsVolume"][0]["mountPath"] == "/var/run/secrets/mixprint-gcs"

    ingest = pipeline["deploymentSpec"]["executors"]["exec-ingest"]["container"]
    assert "accelerator" not in ingest["resources"]
    assert set(platform) == {f"exec-{step}" for step in STEPS}
    assert all(each["securityContext"]["runAsNonRoot"] for each in platform.values())


def test_parameters_have_names_types_and_descriptions_for_the_form(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path, Cluster.load())
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]
    assert set(inputs) == {"root", "source", "locations", *(f"{step}_params" for step in STEPS)}
    assert all(len(each["description"]) > 15 for each in inputs.values())
    assert inputs["locations"]["parameterType"] == "LIST"
    assert inputs["locations"]["defaultValue"] == ["/mixprint/songs"]
    assert inputs["root"]["defaultValue"] == "/mixprint/runs/tiny"


def test_a_run_on_this_machine_takes_no_settings_of_a_cluster() -> None:
    assert not mix_style.platform_spec.platforms
    executors = mix_style.pipeline_spec.deployment_spec["executors"]
    assert all("resources" not in each["container"] for each in executors.values())
    assert all(
        not task.HasField("retry_policy")
        for task in mix_style.pipeline_spec.root.dag.tasks.values()
    )
