from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kfp import compiler

from components.features.component import features
from components.layout import shard_manifest
from components.step import STEPS, Manifest, section_json
from mixprint.collection.catalogue import write_catalogue
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.config import load_params
from mixprint.errors import DataError
from pipelines.mix_style import mix_style

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("dag") / "mixprint.yaml"
    compiler.Compiler().compile(mix_style, str(path))
    loaded: dict[str, Any] = next(yaml.safe_load_all(path.read_text()))
    return loaded


def producers(inputs: dict[str, Any]) -> set[str]:
    """The tasks that a task's inputs come from."""
    found = {
        value["taskOutputArtifact"]["producerTask"]
        for value in inputs.get("artifacts", {}).values()
        if "taskOutputArtifact" in value
    }
    return found | {
        value["taskOutputParameter"]["producerTask"]
        for value in inputs.get("parameters", {}).values()
        if "taskOutputParameter" in value
    }


def inside(compiled: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """The tasks inside a loop or a pipeline."""
    found: dict[str, Any] = compiled["components"][task["componentRef"]["name"]]["dag"]["tasks"]
    return found


def test_no_argument_of_a_step_grows_with_the_number_of_shards(compiled: dict[str, Any]) -> None:
    for name, component in compiled["components"].items():
        if "executorLabel" not in component:
            continue
        inputs = component.get("inputDefinitions", {})
        lists = [
            each for each in inputs.get("artifacts", {}).values() if each.get("isArtifactList")
        ]
        assert lists == [], name
        kinds = {k: v["parameterType"] for k, v in inputs.get("parameters", {}).items()}
        assert [k for k, v in kinds.items() if v == "LIST"] in ([], ["locations"]), name


def test_three_hundred_shards_are_found_under_the_root(tmp_path: Path) -> None:
    num_shards = 300
    made_with = SeparatorFingerprint(model="m", checkpoint_sha256="", code_version="c")
    for index in range(num_shards):
        path = tmp_path / "stems" / shard_name(index, num_shards)
        with write_shard(path, fingerprint=str(index), sample_rate_hz=44_100, separator=made_with):
            pass
    write_catalogue(tmp_path / "catalogue", [], [])
    ingested = Manifest(step="ingest", uri=str(tmp_path / "catalogue"), fingerprint="c", counts={})
    ingested.save(tmp_path / "ingested.json")
    given = {
        name: SimpleNamespace(path=tmp_path / f"{name}.json") for name in ("stems", "manifest")
    }
    given["catalogue"] = SimpleNamespace(path=tmp_path / "ingested.json")
    sections = load_params(REPOSITORY / "params.yaml")

    with pytest.raises(DataError, match="expected songs in the training split"):
        features.python_func(root=str(tmp_path), params=section_json(sections["features"]), **given)

    whole = Manifest.load(tmp_path / "stems.json")
    assert whole.counts == {"parts": num_shards}
    assert whole == Manifest.joined(
        [shard_manifest(tmp_path, index, num_shards) for index in range(num_shards)]
    )


def test_every_step_is_a_task_and_separation_fans_out(compiled: dict[str, Any]) -> None:
    tasks = dict(compiled["root"]["dag"]["tasks"])
    [around] = set(tasks) - set(STEPS)
    [loop] = inside(compiled, tasks[around]).values()
    assert "parameterIterator" in loop
    inner = inside(compiled, loop)
    assert set(inner) == {"separate"}
    assert set(tasks) - {around} | set(inner) == set(STEPS)


def test_dependencies(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    came_from = {name: producers(task["inputs"]) for name, task in tasks.items()}
    assert came_from["ingest"] == set()
    assert came_from["separate-all"] == {"ingest"}
    assert came_from["features"] == {"ingest"}
    assert tasks["features"]["dependentTasks"] == ["ingest", "separate-all"]
    assert came_from["train"] == {"ingest", "features"}
    assert came_from["evaluate"] == {"ingest", "features", "train"}
    assert came_from["promote"] == {"train", "evaluate"}
    assert came_from["transfer"] == {"ingest", "features", "promote"}


def test_a_step_gets_its_own_section_only(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    for name in set(tasks) & set(STEPS):
        values = tasks[name]["inputs"]["parameters"]["params"]
        assert values == {"componentInputParameter": f"{name}_params"}


def test_dvc_has_the_same_steps_and_sections() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert tuple(stages) == STEPS
    sections = load_params(REPOSITORY / "params.yaml")
    for name, stage in stages.items():
        assert name in stage["params"]
        assert {key.partition(".")[0] for key in stage["params"]} <= set(sections)
        assert f"components.{name}.main" in stage["cmd"]


def test_nothing_is_installed_when_a_step_runs(compiled: dict[str, Any]) -> None:
    executors = compiled["deploymentSpec"]["executors"]
    commands = [" ".join(e["container"]["command"]) for e in executors.values()]
    assert len(commands) == len(STEPS)
    assert not any("pip install" in command for command in commands)
