"""One DAG, four ways to run it: Kubeflow, Argo, DVC, this machine."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from components.step import STEPS
from mixprint.config import load_params
from pipelines.arguments import DEFAULT_SOURCE, run_arguments
from pipelines.mix_style import PARAMS_FILE, mix_style
from tests.pipelines.argo_local import dag_tasks, in_order, read_template, templates
from tests.pipelines.test_dag import producers

REPOSITORY = Path(__file__).resolve().parents[2]
# Every value of every step, as params.yaml has it.
PARAMS = load_params(PARAMS_FILE)
SECTIONS = {step: PARAMS[step] for step in STEPS}
Way = Callable[[], tuple[tuple[str, ...], dict[str, Any]]]


def chain(needs: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The only order in which each comes after all that it needs."""
    tasks = [
        {"name": name, **({"depends": " && ".join(before)} if before else {})}
        for name, before in needs.items()
    ]
    return tuple(task["name"] for task in in_order(tasks))


def kfp_order(loaded: Mapping[str, Any]) -> tuple[str, ...]:
    components, tasks = loaded["components"], loaded["root"]["dag"]["tasks"]

    def step(name: str, task: Mapping[str, Any]) -> str:
        """The step that is done in the end, inside a pipeline of its own and a loop, too."""
        component = components[task["componentRef"]["name"]]
        if "dag" not in component:
            return name
        [(inner, nested)] = component["dag"]["tasks"].items()
        return step(inner, nested)

    steps = {name: step(name, task) for name, task in tasks.items()}
    needs = {
        steps[name]: {
            steps[before]
            for before in (*producers(task["inputs"]), *task.get("dependentTasks", ()))
        }
        for name, task in tasks.items()
    }
    return chain(needs)


def kfp() -> tuple[tuple[str, ...], dict[str, Any]]:
    loaded = next(yaml.safe_load_all((REPOSITORY / "pipelines" / "mixprint.yaml").read_text()))
    inputs = loaded["root"]["inputDefinitions"]["parameters"]
    return kfp_order(loaded), {
        n: v["defaultValue"] for n, v in inputs.items() if n.endswith("_params")
    }


def argo() -> tuple[tuple[str, ...], dict[str, Any]]:
    spec = read_template()
    order = tuple(task["name"] for task in in_order(dag_tasks(spec)))
    values = {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}
    return order, {name: value for name, value in values.items() if name.endswith("_params")}


def here() -> tuple[tuple[str, ...], dict[str, Any]]:
    loaded = json_format.MessageToDict(mix_style.pipeline_spec)
    values = run_arguments(
        root="x", source=DEFAULT_SOURCE, locations=["data"], name="x", params=PARAMS
    )
    return kfp_order(loaded), {n: text for n, text in values.items() if n.endswith("_params")}


@pytest.mark.parametrize("way", [kfp, argo, here])
def test_steps_order_and_parameters_agree(way: Way) -> None:
    order, values = way()
    assert order == STEPS
    assert {name.removesuffix("_params"): json.loads(v) for name, v in values.items()} == SECTIONS


def test_dvc_has_the_same_steps_order_and_sections() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    made_by = {out: name for name, stage in stages.items() for out in outputs(stage)}
    needs = {
        name: {
            maker for dep in stage["deps"] for out, maker in made_by.items() if dep.startswith(out)
        }
        for name, stage in stages.items()
    }
    assert chain(needs) == STEPS == tuple(stages)
    for name, stage in stages.items():
        # A stage is run again when its section changes, and reads it from the file itself.
        assert name in stage["params"]
        assert f"-m components.{name}.main" in stage["cmd"]


def outputs(stage: Mapping[str, Any]) -> list[str]:
    declared = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in declared]


def test_argo_and_dvc_call_the_same_commands_and_kfp_what_they_call() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    loaded = next(yaml.safe_load_all((REPOSITORY / "pipelines" / "mixprint.yaml").read_text()))
    for step, template in templates(read_template()).items():
        if step not in STEPS:
            continue
        module = f"components.{step}.main"
        assert template["container"]["command"][:3] == ["python3", "-m", module]
        [called] = re.findall(r"-m (\S+)", stages[step]["cmd"])
        assert called == module
        container = loaded["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        assert f"from {module} import" in container["command"][-1]
        assert container["image"] == template["container"]["image"]
        parameters = loaded["components"][f"comp-{step}"]["inputDefinitions"]["parameters"]
        assert set(parameters) == {p["name"] for p in template["inputs"]["parameters"]}
