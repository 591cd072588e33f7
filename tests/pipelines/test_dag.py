from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from components.step import STEPS
from mixprint.config import load_params
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


def test_every_step_is_a_task_and_separation_fans_out(compiled: dict[str, Any]) -> None:
    tasks = dict(compiled["root"]["dag"]["tasks"])
    [loop] = [name for name, task in tasks.items() if "parameterIterator" in task]
    inner = compiled["components"][tasks[loop]["componentRef"]["name"]]["dag"]["tasks"]
    assert set(inner) == {"separate"}
    assert set(tasks) - {loop} | set(inner) == set(STEPS)


def test_dependencies(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    came_from = {name: producers(task["inputs"]) for name, task in tasks.items()}
    assert came_from["ingest"] == set()
    assert came_from["for-loop-1"] == {"ingest"}
    assert came_from["features"] == {"ingest", "for-loop-1"}
    assert came_from["train"] == {"ingest", "features"}
    assert came_from["evaluate"] == {"ingest", "features", "train"}
    assert came_from["promote"] == {"train", "evaluate"}
    assert came_from["transfer"] == {"ingest", "features", "promote"}


def test_a_step_gets_its_own_section_only(compiled: dict[str, Any]) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    for name in set(tasks) - {"for-loop-1"}:
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
