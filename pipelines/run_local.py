"""Run the DAG on this machine, each step in a process or a container of its own.

`python -m pipelines.run_local` runs it on the generated songs. It exits with an error if a step
fails, and says which; what is finished stays, and the next run goes on from there.
"""

import argparse
import contextlib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from components.image import IMAGE
from components.layout import CATALOGUE_FOLDER, PROMOTION_FILE
from components.mlflow.store import database_path, tracking_uri
from components.run_folder import STEPS_DIR, DoneMarker, sole_use_of_root
from components.step import RUNNER_VARIABLE, STEPS, WORKERS_VARIABLE, TaskRecord
from mixprint.config import BASE_PROFILE, load_params
from mixprint.errors import ConfigError, DataError, MixprintError
from mixprint.log import setup_logging
from mixprint.machine.processes import sigterm_exits
from mixprint.schema import WithOthers, as_record
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import KEY_VARIABLE, is_bucket, open_bucket
from mixprint.storage.scratch import FOLDER_VARIABLE, Scratch
from pipelines.arguments import DEFAULT_SOURCE, default_name, run_arguments

if TYPE_CHECKING:
    from pipelines.docker_runner import ContainerSettings

log = logging.getLogger("mixprint.pipelines")

DEFAULT_DATA = "data"
RESULTS = Path("results")
LOG_FILE = "kfp.log"
SUBPROCESS, DOCKER = TARGETS = ("subprocess", "docker")
# kfp.local runs a ParallelFor in at most two threads.
FAN_OUT = 2
# What a person wants to see of KFP's output: the steps' own log lines, and which task runs.
_STEP_LINE = re.compile(r"\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [DIWEC] mixprint.*)")
_TASK_LINE = re.compile(r".* - INFO - ((?:Executing task|Task|Skipping task) .*[^:])")
_RECORD = re.compile(rf"{STEPS_DIR}/[^/]*(?<!\.done)\.json")
_OUTPUT = re.compile(r"transfer/[^/]+/output_[^/]*\.wav")
_INGESTED, _REJECTS = f"{STEPS_DIR}/ingest.done.json", f"{CATALOGUE_FOLDER}/rejects.parquet"
_COLOUR = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Time and memory of a step's last executions; the tasks of a fan-out count together."""

    step: str
    seconds: float
    peak_bytes: int
    num_tasks: int


class StepFailedError(MixprintError):
    """A step of the pipeline ended with an error."""


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=DEFAULT_SOURCE)
    parser.add_argument(
        "--data", action="append", help="folder with the songs; twice for pairs: raw, then mixed"
    )
    parser.add_argument("--name", help="name of the run: its results lie in results/<name>")
    parser.add_argument("--root", default="", help="where they lie instead; also gs://bucket/name")
    parser.add_argument("--profile", default=BASE_PROFILE, help="tiny, or an overlay in the params")
    parser.add_argument("--set", default="", help="section.key=value ..., laid over the params")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--target", choices=TARGETS, default=SUBPROCESS)
    docker = parser.add_argument_group(f"with --target {DOCKER}")
    docker.add_argument(
        "--mount",
        action="append",
        default=[],
        help="what else the steps read: PATH, or PATH:PATH_INSIDE",
    )
    docker.add_argument("--network", default="bridge")
    docker.add_argument("--shm-size", default="1g", help="of /dev/shm, for workers that read data")
    docker.add_argument("--memory", default="", help="limit of a step, for example 8g")
    docker.add_argument("--gpus", default="", help="all, or how many")
    args = parser.parse_args()
    setup_logging()
    try:
        with sigterm_exits():
            run(
                source=args.source,
                locations=args.data or [DEFAULT_DATA],
                name=args.name or default_name(args.source, args.profile),
                root=args.root,
                params=load_params(args.params, args.profile, shlex.split(args.set)),
                target=args.target,
                container_options={
                    "readable": dict(map(_mount, args.mount)),
                    "network": args.network,
                    "shm_size": args.shm_size,
                    "memory": args.memory,
                    "gpus": args.gpus,
                },
            )
    except MixprintError as error:
        raise SystemExit(f"error: {error}") from error


def _mount(text: str) -> tuple[Path, Path]:
    outside, _, inside = text.partition(":")
    return Path(inside or outside), Path(outside)


def run(
    *,
    source: str,
    locations: Sequence[str],
    name: str,
    root: str = "",
    params: Mapping[str, Mapping[str, Any]],
    target: str = SUBPROCESS,
    container_options: Mapping[str, Any] | None = None,
) -> None:
    """Run the DAG and print what came of it.

    Args:
        source: kind of the collection.
        locations: its folders.
        name: name of the run.
        root: where its results lie; empty: in the folder of its name.
        params: all sections.
        target: where a step runs: in a process or in a container.
        container_options: for `ContainerSettings`, beside what follows from the others.

    Raises:
        ConfigError: a folder does not exist, or no engine or image is there.
        DataError: another run is at work on this root.
        StepFailedError: a step has failed.
    """
    if missing := [place for place in locations if "://" not in place and not Path(place).exists()]:
        raise ConfigError(f"DATA: expected existing folders, found none at {', '.join(missing)}")
    root = root or str(RESULTS / name)
    # KFP keeps its own files on this machine, whatever the root.
    folder = RESULTS / name if is_bucket(root) else Path(root)
    started_s = time.time()
    arguments = run_arguments(
        root=root, source=source, locations=locations, name=name, params=params
    )
    with sole_use_of_root(root, folder, f"the pipeline run {name}"):
        _execute(folder, arguments, started_s, target, container_options or {})
        records = read_records(root, started_s)
    # KFP leaves `print` indented after a fan-out.
    sys.stdout.write(summary(root, records, time.time() - started_s) + "\n")


def _execute(
    folder: Path,
    arguments: Mapping[str, Any],
    started_s: float,
    target: str,
    container_options: Mapping[str, Any],
) -> None:
    """Let KFP run the tasks, and turn its error into one that names the step."""
    os.environ.setdefault(WORKERS_VARIABLE, str(FAN_OUT))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # KFP takes seconds to import; a wrong argument is found before that.
    from kfp import local

    from pipelines.mix_style import mix_style

    pipeline_root = folder / "kfp"
    shutil.rmtree(pipeline_root, ignore_errors=True)
    log_path = folder / LOG_FILE
    with (
        log_path.open("w") as file,
        _runner(target, folder, arguments, container_options) as (runner, failures),
    ):
        local.init(runner, pipeline_root=str(pipeline_root), raise_on_error=True)
        try:
            with contextlib.redirect_stdout(_Extract(file, sys.stdout)):
                mix_style(**arguments)
        except RuntimeError as error:
            told = "\n".join(filter(None, (failure(arguments["root"], started_s), *failures)))
            raise StepFailedError(
                f"{told or _COLOUR.sub('', str(error))}\nthe whole log: {log_path}"
            ) from error


@contextlib.contextmanager
def _runner(
    target: str, folder: Path, arguments: Mapping[str, Any], container_options: Mapping[str, Any]
) -> Iterator[tuple[Any, Sequence[str]]]:
    """Return what KFP runs the tasks with, and a list that fills with what it has no words for."""
    from kfp import local

    if target == SUBPROCESS:
        # The steps run in this environment, whatever image the components name for a cluster.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task")
        os.environ[RUNNER_VARIABLE] = str(os.getpid())
        try:
            yield local.SubprocessRunner(use_venv=False), ()
        finally:
            del os.environ[RUNNER_VARIABLE]
        return
    from pipelines.docker_runner import Containers

    settings = container_settings(
        folder, arguments["locations"], container_options, has_bucket=is_bucket(arguments["root"])
    )
    with Containers(settings, IMAGE, folder) as containers, containers.as_kfp_runner():
        yield local.DockerRunner(), containers.failures


def container_settings(
    folder: Path,
    locations: Sequence[str],
    options: Mapping[str, Any],
    *,
    has_bucket: bool = False,
) -> "ContainerSettings":
    """Say what the steps' containers get: the run and MLflow's store to write, songs to read.

    Args:
        folder: of the run on this machine; made if it is missing, like the store's.
        locations: the folders of the songs.
        has_bucket: whether the run lies in a bucket, so that the steps need the key for it.
        options: the other fields; what they list as `readable` is added to the songs.

    Raises:
        ConfigError: the store shares its folder with this one, all of which would be mounted.
    """
    from pipelines.docker_runner import ContainerSettings, passed_on

    database = database_path(tracking_uri())
    if database is not None and Path.cwd().is_relative_to(database.parent):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: expected a database in a folder of its own, found {database}"
        )
    writable = [folder] if database is None else [folder, database.parent]
    environment = passed_on(os.environ)
    keys = {}
    if has_bucket or any(map(is_bucket, locations)):
        # A container's own temporary folder is memory.
        scratch = Scratch.from_environment().folder.absolute()
        writable.append(scratch)
        environment[FOLDER_VARIABLE] = str(scratch)
        if key := environment.get(KEY_VARIABLE):
            keys = {Path(key): Path(key)}
    for each in writable:
        each.mkdir(parents=True, exist_ok=True)
    songs = {Path(place): Path(place) for place in locations if "://" not in place}
    return ContainerSettings(
        **{
            **options,
            "writable": tuple(writable),
            "readable": {**songs, **keys, **options.get("readable", {})},
            "environment": environment,
        }
    )


class _Extract(io.TextIOBase):
    """Takes what KFP prints: all of it goes to a file, the essence to the terminal."""

    def __init__(self, file: TextIO, terminal: TextIO) -> None:
        self._file, self._terminal = file, terminal
        self._line = ""

    def write(self, text: str) -> int:
        self._file.write(text)
        self._file.flush()
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if shown := essence(line):
                self._terminal.write(shown + "\n")
                self._terminal.flush()
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def essence(line: str) -> str:
    """Return what a person wants to see of a line of KFP's output; empty for nothing."""
    match = _STEP_LINE.match(line) or _TASK_LINE.fullmatch(_COLOUR.sub("", line))
    return match[1] if match else ""


def failure(root: Path | str, started_s: float) -> str:
    """Tell which steps of this run failed, and why; empty if none left a trace."""
    texts = []
    for record in _raw_records(root, started_s):
        if record.state == "failed":
            texts.append(f"step {record.step} failed: {record.error}")
        elif record.state == "running":
            texts.append(f"step {record.step} was killed (out of memory?)")
    return "\n".join(texts)


def read_records(root: Path | str, started_s: float) -> list[StepRecord]:
    """Read what the steps of this run took, in the order of the DAG.

    The wall time of a fan-out goes from its first start to its last end; its memory is the most
    that tasks running at the same time may have held together.
    """
    by_step: dict[str, list[TaskRecord]] = {}
    for record in _raw_records(root, started_s):
        by_step.setdefault(record.step.partition("-")[0], []).append(record)
    return [
        StepRecord(
            step=step,
            seconds=max(task.end_s for task in tasks) - min(task.started_s for task in tasks),
            peak_bytes=max(
                sum(
                    other.peak_bytes
                    for other in tasks
                    if other.started_s <= task.started_s < other.end_s
                )
                for task in tasks
            ),
            num_tasks=len(tasks),
        )
        for step in STEPS
        if (tasks := by_step.get(step))
    ]


def summary(root: Path | str, records: Sequence[StepRecord], wall_s: float) -> str:
    """Say in lines what each step took and where the results are."""
    lines = ["", f"{'step':<10} {'tasks':>5} {'seconds':>9} {'peak memory':>12}"]
    lines += [
        f"{r.step:<10} {r.num_tasks:>5} {r.seconds:>9.1f} {r.peak_bytes / 1e6:>9.0f} MB"
        for r in records
    ]
    peak_bytes = max((r.peak_bytes for r in records), default=0)
    lines += [
        f"{'all':<10} {'':>5} {wall_s:>9.1f} {peak_bytes / 1e6:>9.0f} MB",
        "",
        *_outcome(str(root)),
        f"report             {root}/evaluation/report.html",
        f"transferred audio  {root}/transfer",
        *(f"                   {uri}" for uri in _transferred(str(root))),
        "MLflow             make mlflow-ui",
    ]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Promotion(WithOthers):
    """Decision about an encoder, as the summary shows it."""

    model_name: str
    version: str
    decision: str
    reasons: tuple[str, ...]


def _outcome(root: str) -> Iterator[str]:
    """Say how many songs were taken, and what was decided about the encoder."""
    ingested = f"{root}/{_INGESTED}"
    if _INGESTED in _listed(root, _INGESTED) and (
        done := DoneMarker.read(ingested, lambda: _read_json(root, _INGESTED))
    ):
        left_out = done.counts.get("rejects", 0)
        why = f", {left_out} left out: see {root}/{_REJECTS}" if left_out else ""
        yield f"songs              {done.counts.get('tracks', 0)}{why}"
    if PROMOTION_FILE in _listed(root, PROMOTION_FILE):
        values = _read_json(root, PROMOTION_FILE)
        found = as_record(values, f"{root}/{PROMOTION_FILE}", _Promotion)
        yield f"encoder            version {found.version} of {found.model_name}: {found.decision}"
        yield from (f"                   {reason}" for reason in found.reasons)


def _transferred(root: str) -> list[str]:
    return [f"{root}/{name}" for name in _listed(root, "transfer/") if _OUTPUT.fullmatch(name)]


def _listed(root: str, prefix: str) -> list[str]:
    """List the files of a run whose names begin with a prefix, wherever it lies."""
    if is_bucket(root):
        return open_bucket(root).list(prefix)
    folder = Path(root, prefix.rpartition("/")[0])
    names = (path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name.startswith(prefix))


def _read_json(root: str, name: str) -> Any:
    return open_bucket(root).read_json(name) if is_bucket(root) else read_json(Path(root, name))


def _raw_records(root: Path | str, started_s: float) -> list[TaskRecord]:
    """Read the records of this run's tasks; those of older runs stay where they are."""
    names = [n for n in _listed(str(root), f"{STEPS_DIR}/") if _RECORD.fullmatch(n)]
    records = []
    for name in names:
        try:
            record = as_record(_read_json(str(root), name), f"{root}/{name}", TaskRecord)
        except DataError as error:
            log.warning("%s; the record is left out", error)
            continue
        if record.started_s >= started_s:
            records.append(record)
    return records


if __name__ == "__main__":
    main()
