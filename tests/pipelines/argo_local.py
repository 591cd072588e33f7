"""Do on this machine what Argo does with `pipelines/mixprint-argo.yaml`, without pods.

`python -m tests.pipelines.argo_local --root results/tiny --source synthetic --location data` runs
the commands of all its steps in the order of their dependencies, with its own default parameters.
After `make pipeline-run` each finds its work done, if both pass the same things: with
`--expect-finished` it is an error if a step does anything.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ARGO_FILE = Path(__file__).resolve().parents[2] / "pipelines" / "mixprint-argo.yaml"
TAG = re.compile(r"{{(.*?)}}")


def read_template(path: Path = ARGO_FILE) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded["spec"]


def templates(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {template["name"]: template for template in spec["templates"]}


def dag_tasks(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = templates(spec)[spec["entrypoint"]]["dag"]["tasks"]
    return tasks


def needs(task: Mapping[str, Any]) -> set[str]:
    return set(task["depends"].split(" && ")) if "depends" in task else set()


def in_order(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return each task after those that it needs; there is only one such order in a chain."""
    left, done = {task["name"]: task for task in tasks}, set[str]()
    while left:
        ready = sorted(name for name, task in left.items() if needs(task) <= done)
        assert len(ready) == 1, f"expected one next step, found {ready} of {sorted(left)}"
        yield left.pop(ready[0])
        done.add(ready[0])


def resolved(text: str, scope: Mapping[str, str]) -> str:
    """Replace tags; one that names nothing is an error, as it is for Argo."""
    return TAG.sub(lambda tag: scope[tag[1]], text)


def run(spec: Mapping[str, Any], arguments: Mapping[str, str], only: str = "") -> dict[str, str]:
    """Run the commands, all or those of one step, and return what `tasks.` tags would say."""
    defaults = {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}
    assert arguments.keys() <= defaults.keys()
    scope = {f"workflow.parameters.{n}": v for n, v in {**defaults, **arguments}.items()}
    for task in in_order(dag_tasks(spec)):
        if only not in {"", task["name"]}:
            continue
        template = templates(spec)[task["template"]]
        items = json.loads(resolved(task["withParam"], scope)) if "withParam" in task else [None]
        for item in items:
            own = scope if item is None else {**scope, "item": json.dumps(item)}
            given = {p["name"]: resolved(p["value"], own) for p in task["arguments"]["parameters"]}
            for name, value in run_pod(template, given).items():
                scope[f"tasks.{task['name']}.outputs.parameters.{name}"] = value
    return scope


def run_pod(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Run the command of a template, its files in a folder that stands for the pod's root."""
    assert {each["name"] for each in template["inputs"]["parameters"]} == given.keys()
    scope = {f"inputs.parameters.{name}": value for name, value in given.items()}
    with tempfile.TemporaryDirectory() as pod:
        moved = []
        for artifact in template["inputs"]["artifacts"]:
            path = Path(pod + artifact["path"])
            path.parent.mkdir(parents=True)
            path.write_text(resolved(artifact["raw"]["data"], scope))
            moved.append(artifact["path"])
        outputs = {
            each["name"]: each["valueFrom"]["path"]
            for each in template.get("outputs", {}).get("parameters", [])
        }
        moved += outputs.values()
        words = [resolved(word, scope) for word in template["container"]["command"]]
        words = [pod + word if word in moved else word for word in words]
        assert words.pop(0) == "python3"
        subprocess.run([sys.executable, *words], check=True)
        return {name: Path(pod + path).read_text().strip() for name, path in outputs.items()}


def done_markers(root: Path) -> dict[str, int]:
    """Say when each done marker was written; a step that works writes its own anew."""
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*.done.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--location", action="append", required=True)
    parser.add_argument("--expect-finished", action="store_true")
    args = parser.parse_args()
    arguments = {"root": args.root, "source": args.source, "locations": json.dumps(args.location)}
    before = done_markers(Path(args.root))
    run(read_template(), arguments)
    after = done_markers(Path(args.root))
    if args.expect_finished and (not before or before != after):
        changed = sorted(name for name, _ in before.items() ^ after.items())
        raise SystemExit(f"error: expected all steps finished, but worked on: {changed}")


if __name__ == "__main__":
    main()
