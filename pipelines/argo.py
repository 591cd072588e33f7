"""Write the DAG as an Argo `WorkflowTemplate`: `python -m pipelines.argo --out FILE`.

Nothing is defined a second time: steps, images, parameters, dependencies and the fan-out are read
from the DAG that KFP compiles, the rest from cluster.yaml. A step runs by its command line, which
has an option for each parameter of the component of the same name. The sections of params.yaml
come as a file, and the manifests that KFP passes are found under the root of the run.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hera.workflows import models as m

from components.step import STEPS, clear_errors
from mixprint.log import setup_logging
from mixprint.storage.atomic import atomic_path
from pipelines import pods
from pipelines.cluster import Cluster
from pipelines.compile import cluster_parser, compile_pipeline, read_inputs

log = logging.getLogger("mixprint.pipelines")

NAME = ENTRYPOINT = "mixprint"
# The section of a step is its parameter `params`; others end in this.
SECTION, SECTION_SUFFIX = "params", "_params"
SECTIONS_FOLDER = "/etc/mixprint"
SECTIONS_FILE = f"{SECTIONS_FOLDER}/params.json"
OUTPUTS_PATH = f"{pods.TMP_PATH}/outputs"
ITEM = "{{item}}"

Spec = Mapping[str, Any]


def workflow_template(pipeline: Spec, cluster: Cluster) -> m.WorkflowTemplate:
    """Turn KFP's compiled DAG into Argo's.

    Args:
        pipeline: first document of KFP's YAML.
        cluster: what it gives each step.

    Returns:
        the template; Hera's models have checked the form of all its parts.
    """
    root = pipeline["root"]
    found = _tasks(pipeline, root["dag"]["tasks"], {})
    tasks = sorted(found, key=lambda task: STEPS.index(task.name))
    inputs = root["inputDefinitions"]["parameters"]
    return m.WorkflowTemplate(
        api_version="argoproj.io/v1alpha1",
        kind="WorkflowTemplate",
        metadata=m.ObjectMeta(name=NAME),
        spec=m.WorkflowSpec(
            entrypoint=ENTRYPOINT,
            arguments=m.Arguments(
                parameters=[
                    m.Parameter(
                        name=name,
                        value=_text(values["defaultValue"]),
                        description=values["description"],
                    )
                    for name, values in inputs.items()
                ]
            ),
            security_context=pods.pod_security(cluster),
            image_pull_secrets=pods.pull_secrets(cluster),
            templates=[
                m.Template(
                    name=ENTRYPOINT, dag=m.DAGTemplate(tasks=[_dag_task(task) for task in tasks])
                ),
                *(_template(pipeline, task, cluster) for task in tasks),
            ],
        ),
    )


class _Task:
    """A step of the DAG as the compiled pipeline tells it.

    Attributes:
        name: of the step.
        component: key of its component.
        after: the steps that it waits for.
        values: parameter -> where its value comes from, as Argo writes it.
        items: what it fans out over, as Argo writes it; empty: nothing.
    """

    def __init__(self, name: str, spec: Spec, values: Mapping[str, str], *, items: str) -> None:
        self.name = name
        self.component: str = spec["componentRef"]["name"]
        self.after: set[str] = set()
        self.values = dict(values)
        self.items = items


def _tasks(pipeline: Spec, specs: Spec, outer: Mapping[str, str]) -> Iterator[_Task]:
    """Read the tasks; that of a loop or a pipeline inside stands for the steps in it."""
    for name, spec in specs.items():
        parameters = spec.get("inputs", {}).get("parameters", {})
        values = {parameter: _source(source, outer) for parameter, source in parameters.items()}
        others = spec.get("dependentTasks", ())
        after = {step for other in others for step in _steps(pipeline, specs, other)}
        inside = _inside(pipeline, spec)
        if inside is None:
            task = _Task(name, spec, values, items="")
            task.after = after
            yield task
            continue
        items = ""
        if iterator := spec.get("parameterIterator"):
            items = values.pop(iterator["items"]["inputParameter"])
            values[iterator["itemInput"]] = ITEM
        for task in _tasks(pipeline, inside, values):
            task.items = items or task.items
            task.after |= after
            yield task


def _inside(pipeline: Spec, spec: Spec) -> Spec | None:
    """Return the tasks inside a loop or a pipeline; None for a step."""
    dag = pipeline["components"][spec["componentRef"]["name"]].get("dag")
    return None if dag is None else dag["tasks"]


def _steps(pipeline: Spec, specs: Spec, name: str) -> Iterator[str]:
    """Name the steps that a task stands for."""
    inside = _inside(pipeline, specs[name])
    if inside is None:
        yield name
        return
    for inner in inside:
        yield from _steps(pipeline, inside, inner)


def _source(source: Spec, outer: Mapping[str, str]) -> str:
    """Say in Argo's words where a parameter comes from; `outer` knows those of what is around."""
    if "componentInputParameter" in source:
        name = source["componentInputParameter"]
        return outer.get(name, f"{{{{workflow.parameters.{name}}}}}")
    if "taskOutputParameter" in source:
        output = source["taskOutputParameter"]
        producer, key = output["producerTask"], output["outputParameterKey"]
        return f"{{{{tasks.{producer}.outputs.parameters.{key}}}}}"
    return _text(source["runtimeValue"]["constant"])


def _dag_task(task: _Task) -> m.DAGTask:
    return m.DAGTask(
        name=task.name,
        template=task.name,
        depends=" && ".join(sorted(task.after)) or None,
        with_param=task.items or None,
        arguments=m.Arguments(
            parameters=[m.Parameter(name=name, value=task.values[name]) for name in task.values]
        ),
    )


def _template(pipeline: Spec, task: _Task, cluster: Cluster) -> m.Template:
    """Make the pod of a step."""
    place = cluster.pod(task.name)
    component = pipeline["components"][task.component]
    outputs = component.get("outputDefinitions", {}).get("parameters", {})
    executor = pipeline["deploymentSpec"]["executors"][component["executorLabel"]]
    sections = {_section(task.name, name): name for name in task.values if _is_section(name)}
    options = [name for name in task.values if not _is_section(name)]
    command = ["python3", "-m", f"components.{task.name}.main", "--params", SECTIONS_FILE]
    for name in options:
        command += [f"--{name}", f"{{{{inputs.parameters.{name}}}}}"]
    for name in outputs:
        command += [f"--{name.lower()}", f"{OUTPUTS_PATH}/{name}"]
    content = ", ".join(
        f"{json.dumps(section)}: {{{{inputs.parameters.{name}}}}}"
        for section, name in sections.items()
    )
    image = executor["container"]["image"]
    return m.Template(
        name=task.name,
        inputs=m.Inputs(
            parameters=[m.Parameter(name=name) for name in task.values],
            artifacts=[
                m.Artifact(
                    name=SECTION, path=SECTIONS_FILE, raw=m.RawArtifact(data=f"{{{content}}}")
                )
            ],
        ),
        outputs=m.Outputs(
            parameters=[
                m.Parameter(name=name, value_from=m.ValueFrom(path=f"{OUTPUTS_PATH}/{name}"))
                for name in outputs
            ]
        )
        if outputs
        else None,
        active_deadline_seconds=place.timeout_s,  # type: ignore[arg-type]  # pydantic takes it
        retry_strategy=m.RetryStrategy(
            limit=str(place.retries),  # type: ignore[arg-type]
            # A node that is lost is an error, a step that ends with one a failure.
            retry_policy="Always",
            backoff=m.Backoff(
                duration=f"{place.backoff_s}s",
                factor=str(place.backoff_factor),  # type: ignore[arg-type]
            ),
        )
        if place.retries
        else None,
        node_selector=dict(place.node_selector) or None,
        tolerations=pods.tolerations(place),
        volumes=pods.volumes(cluster, place),
        container=pods.container(
            cluster,
            place,
            name="main",
            image=image,
            variables=cluster.variables(task.name, image),
            command=command,
        ),
    )


def _is_section(parameter: str) -> bool:
    return parameter == SECTION or parameter.endswith(SECTION_SUFFIX)


def _section(step: str, parameter: str) -> str:
    return step if parameter == SECTION else parameter.removesuffix(SECTION_SUFFIX)


def _text(value: Any) -> str:
    """Write a value as Argo's parameters hold it: text, or JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """Read the command line and write the YAML."""
    parser = cluster_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    setup_logging()
    write_argo(args)


def write_argo(args: argparse.Namespace) -> None:
    """Compile the DAG and write Argo's YAML to `args.out`; the same DAG gives the same bytes."""
    cluster, params = read_inputs(args)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_pipeline(path, cluster, params, name=args.profile)
        pipeline = next(yaml.safe_load_all(path.read_text()))
    values = workflow_template(pipeline, cluster).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    with atomic_path(args.out) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=True, width=100))
    log.info("wrote %s", args.out)


if __name__ == "__main__":
    with clear_errors():
        main()
