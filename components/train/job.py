"""A training from the command line to its ranks: the same way for every task.

A task is a module of this package with a `TASK`, an instance of a `TrainTask`; `TASKS` lists them.
The step describes the training as a `Job`, `torchrun` starts the ranks, and each of them
(`components.train.worker`) asks the task to train.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from components.layout import described_stems
from components.run_folder import RunFolder
from components.step import Manifest, add_params_arguments, once, recorded
from components.train.launch import Node, ranks_device, start_workers
from mixprint.config import StepConfig, load_params
from mixprint.fingerprint import code_version, fingerprint

if TYPE_CHECKING:
    from components.mlflow.runs import BackgroundRun

WORKER = "components.train.worker"
# Of what only the training itself needs, in the folder of the results.
STATE_FOLDER = "state"
TASKS = {
    "controller": "components.train.controller",
    "diffusion": "components.train.diffusion",
    "encoder": "components.train.main",
    "separator": "components.train.separator",
    "zero-shot": "components.train.zero_shot",
}

MetricsCallback = Callable[[int, Mapping[str, float]], None]
_Config = TypeVar("_Config", bound=StepConfig)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Job of the ranks of a training; passed to them as a JSON file.

    Attributes:
        task: dotted name of the task's module.
        sections: of `params.yaml`, those that the task reads.
        inputs: name -> file or folder that it reads; for a rank these are local ones, and as
            `RunFolder.uri` names them before.
        out_dir: folder of the results, likewise.
        data_fingerprint: of the inputs; empty: they are large, and the training looks at them.
        recipe: hash of all that the results depend on; a resumed training has the same.
        device: where to compute.
    """

    task: str
    sections: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, str]
    out_dir: str
    data_fingerprint: str
    recipe: str
    device: str

    def config(self, kind: type[_Config]) -> _Config:
        """Return the parameters of one of the sections."""
        return kind.from_values(self.sections[kind.section])

    def folder(self, name: str) -> Path:
        """Return one of the inputs."""
        return Path(self.inputs[name])


class TaskConfig(Protocol):
    """Parameters that every training has, with its own beside them: the section of a task."""

    section: ClassVar[str]

    @property
    def num_processes(self) -> int:
        """Ranks on a machine."""
        ...

    @property
    def device(self) -> str:
        """Device to compute on: auto, cpu, cuda or xla."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return the values that decide what is learned."""
        ...

    def to_values(self) -> dict[str, Any]:
        """Return all values."""
        ...


class TrainTask:
    """A training that the step offers; one subclass, with one instance `TASK`, for each.

    Attributes:
        name: on the command line.
        step: names the record of the training in the run, its done marker, and its runs in MLflow.
        module: dotted name of the module that holds it; ranks import that.
        section: of `params.yaml`; it has `num_processes` and `device`.
        files: what it leaves in the folder of the results.
        in_pipeline: whether its runs are in MLflow's experiment of the pipeline, and not in one of
            the task's own.
    """

    name: ClassVar[str]
    step: ClassVar[str]
    module: ClassVar[str]
    section: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    in_pipeline: ClassVar[bool] = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that this task has beside those of every task."""
        raise NotImplementedError

    def read_params(self, args: argparse.Namespace) -> Mapping[str, Any]:
        """Read the parameters that the command line names, with what it lays over them."""
        return load_params(
            args.params, args.profile, args.set, layers=args.config, section=self.section
        )

    def start(self, args: argparse.Namespace, params: Mapping[str, Any]) -> None:
        """Train as the command line says, from its beginning or where a killed training was."""
        raise NotImplementedError

    def train(self, job: Job, on_metrics: MetricsCallback | None) -> Mapping[str, float]:
        """Train on this rank.

        Returns:
            figures of the result, for MLflow.
        """
        raise NotImplementedError

    def params(self, job: Job) -> Mapping[str, Any]:
        """Return what MLflow shows of the job beside the task's own section."""
        del job
        return {}

    def log_results(self, run: "BackgroundRun", job: Job, result: Mapping[str, float]) -> None:
        """Log in MLflow what the training has left.

        Args:
            run: of the training.
            job: its job.
            result: of `train`.
        """
        from components.mlflow.registry import MODEL_FOLDER

        del result
        run.log_files([Path(job.out_dir) / name for name in self.files], MODEL_FOLDER)


def find_task(name: str) -> TrainTask:
    """Return a task by its name in `TASKS`."""
    return load_task(TASKS[name])


def load_task(module: str) -> TrainTask:
    """Import a task."""
    task: TrainTask = import_module(module).TASK
    return task


def run_command(task: TrainTask, arguments: Sequence[str] | None = None) -> None:
    """Read the command line of a task and train."""
    parser = argparse.ArgumentParser(
        prog=f"python -m components.train --task {task.name}", description=task.__doc__
    )
    add_params_arguments(parser)
    parser.add_argument(
        "--config",
        "--recipe",
        type=Path,
        action="append",
        default=[],
        help=f"YAML or JSON laid over the parameters; keys outside of a section: of {task.section}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"laid over all files; SECTION is {task.section} where it is left out",
    )
    task.add_arguments(parser)
    args = parser.parse_args(arguments)
    task.start(args, task.read_params(args))


@contextmanager
def machine_at_work(root: Path | str, step: str) -> Iterator[tuple[RunFolder, Node]]:
    """Open a run for this machine's part in a training, and keep a record of it.

    Of several machines the first one keeps the step's record; the others have their own.
    """
    node = Node.from_environment()
    with recorded(root, step if node.is_first else f"{step}-{node.number}") as run:
        yield run, node


def start_ranks(
    task: TrainTask,
    run: RunFolder,
    folder: Path,
    config: TaskConfig,
    *,
    sections: Sequence[StepConfig] = (),
    inputs: Mapping[str, str],
    data_fingerprint: str = "",
    recipe: Any,
) -> None:
    """Train, in a folder of a run that is open, and wait for the end.

    Args:
        task: what is trained.
        run: that the folder belongs to.
        folder: receives the results.
        config: the task's own section.
        sections: more that the task reads.
        inputs: see `Job`.
        data_fingerprint: see `Job`.
        recipe: all that the results depend on.

    Raises:
        TrainingError: a rank failed; the message is its own.
        ConfigError: the machines do not see the same files.
    """
    run.check_machines(is_alone=Node.from_environment().is_alone)
    others = {section.section: section.to_values() for section in sections}
    job = Job(
        task=task.module,
        sections={config.section: config.to_values(), **others},
        inputs=dict(inputs),
        out_dir=run.uri(folder),
        data_fingerprint=data_fingerprint,
        recipe=fingerprint(recipe),
        device=ranks_device(config.device),
    )
    with run.followed(task.step):
        start_workers(WORKER, asdict(job), folder / STATE_FOLDER, config.num_processes, run)
    # Other nodes may have made it.
    run.restore(folder)


def train_in_run(
    task: TrainTask,
    *,
    root: str,
    folder: str,
    config: TaskConfig,
    sections: Sequence[StepConfig] = (),
    data: Mapping[str, Manifest],
    inputs: Mapping[str, str] | None = None,
    code: Sequence[str],
    depends: Callable[[RunFolder], Mapping[str, Any]] = lambda _: {},
) -> Manifest:
    """Train on what other steps of a run have left, unless that is done.

    All machines that take part return the same manifest.

    Args:
        task: what is trained.
        root: root folder of the run.
        folder: of the results in it.
        config: the task's own section.
        sections: more that the task reads.
        data: name -> what it learns from, `stems` among them; an input of the ranks.
        inputs: more of them.
        code: names of the modules that the results depend on.
        depends: returns what else they depend on.

    Returns:
        manifest of the results.

    Raises:
        TrainingError: a rank failed; the message is its own.
        ConfigError: there are several machines, and this one has no number among them.
    """
    with machine_at_work(root, task.step) as (run, node):
        place = run.path / folder
        data_fingerprint = fingerprint({m.step: m.fingerprint for m in data.values()})
        recipe = {
            "data": data_fingerprint,
            "config": config.identity(),
            "code": code_version(*code),
            **depends(run),
        }

        def work() -> dict[str, float]:
            with described_stems(run, data["stems"]):
                start_ranks(
                    task,
                    run,
                    place,
                    config,
                    sections=sections,
                    inputs={name: m.uri for name, m in data.items()} | dict(inputs or {}),
                    data_fingerprint=data_fingerprint,
                    recipe=recipe,
                )
            return {"processes": config.num_processes}

        return once(
            step=task.step,
            run=run,
            folder=place,
            recipe=recipe,
            files=task.files,
            work=work,
            owns_marker=node.is_first,
        )
