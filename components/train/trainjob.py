"""A training on several nodes of a cluster, as a TrainJob of Kubeflow's Trainer.

The step itself trains nothing then: it submits the job, shows its log, and waits. On each node
`components.train.node` starts the processes. A job that fails is not started again here: the step
fails with it, and its next attempt submits another one, which goes on from the last saved state.
An attempt that finds the job of the one before still at work follows that one.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from components.run_folder import RunFolder
from mixprint.errors import ConfigError, TrainingError
from mixprint.fingerprint import fingerprint
from mixprint.machine.processes import sigterm_exits
from mixprint.schema import Range, checked, parse_json
from mixprint.storage.atomic import write_json
from mixprint.storage.bucket import is_bucket

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient
    from kubeflow.trainer.types.types import TrainJob

VARIABLE = "MIXPRINT_TRAINJOB"
PLAN_FILE = "nodes.json"
NODE_MODULE = "components.train.node"
LABELS = {"app.kubernetes.io/name": "mixprint"}
POLL_S = 15.0
# So many looks at a job may fail one after the other: servers restart, networks break.
PATIENCE = 20
# How long the end of a job waits for the rest of its log.
LOG_PATIENCE_S = 10.0
# Of the hash in a job's name; the names of its pods must stay below 64 characters.
NAME_DIGITS = 12
# What Kubeflow's SDK raises when the cluster does not answer, or not as it should.
_FAULTS = (RuntimeError, TimeoutError)

log = logging.getLogger("mixprint.train")


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """Plan of each node's part in a training; passed to the nodes as a JSON file.

    Attributes:
        worker: dotted name of the module that is one rank.
        job: what the workers have to do; folders of the run by their URIs.
        num_processes: ranks on each node.
    """

    worker: str
    job: Mapping[str, Any]
    num_processes: Annotated[int, Range(1)]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes, image and resources that cluster.yaml gives a training.

    Attributes:
        image: the image of the steps.
        runtime: name of the training runtime in the cluster.
        num_nodes: how many there are.
        resources: of each node, as Kubernetes names them.
        shared: paths of the volumes that all nodes see.
    """

    image: str
    runtime: str
    num_nodes: int
    resources: Mapping[str, str]
    shared: tuple[str, ...]

    @classmethod
    def from_environment(cls) -> Self | None:
        """Read the variable that the step's pod has if several nodes train; None without it.

        Raises:
            ConfigError: it holds something else.
        """
        text = os.environ.get(VARIABLE, "")
        if not text:
            return None
        nodes: Self = checked(VARIABLE, parse_json(text, VARIABLE, ConfigError), cls)
        return nodes

    def check_shared(self, root: str) -> None:
        """Refuse a run that the nodes would not all see.

        Raises:
            ConfigError: it lies in no volume and in no bucket.
        """
        if not (is_bucket(root) or any(Path(root).is_relative_to(path) for path in self.shared)):
            raise ConfigError(
                f"{root}: several nodes train only where all of them see the run: expected a "
                f"folder in one of {list(self.shared)}, or gs://bucket/folder"
            )


def run_on_nodes(
    nodes: Nodes,
    worker: str,
    job: Mapping[str, Any],
    folder: Path,
    num_processes: int,
    run: RunFolder,
    *,
    client: "TrainerClient | None" = None,
    poll_s: float = POLL_S,
) -> str:
    """Train on several nodes and wait for the end.

    Args:
        nodes: what they get.
        worker: see `components.train.launch.start_workers`.
        job: see there.
        folder: see there.
        num_processes: ranks on each node.
        run: see there; all nodes see it.
        client: of Kubeflow's Trainer; None makes the one for the cluster of this pod.
        poll_s: time between two looks at the job.

    Returns:
        what has failed; empty: nothing.

    Raises:
        ConfigError: the run is seen here alone, or the cluster has no such runtime.
        TrainingError: the cluster does not answer, or somebody has deleted the job.
    """
    nodes.check_shared(run.root)
    client = client or _default_client()
    plan = asdict(NodePlan(worker=worker, job=dict(job), num_processes=num_processes))
    plan_name = run.name_of(folder / PLAN_FILE)
    name, is_new = _next_name(client, fingerprint({**plan, "root": run.root, "name": plan_name}))
    if is_new:
        write_json(folder / PLAN_FILE, plan)
        run.publish()
        _submit(client, nodes, name, [run.root, plan_name])
        log.info("TrainJob %s: %d nodes, %d processes each", name, nodes.num_nodes, num_processes)
    else:
        log.info("TrainJob %s is at work already: following it", name)
    shown = _Log(client, name, poll_s)
    with _ends_with_step(client, name):
        shown.start()
        ended = _wait(client, name, poll_s)
    shown.finish()
    from kubeflow.trainer.constants import constants

    if ended.status == constants.TRAINJOB_COMPLETE:
        _delete(client, name)
        return ""
    states = ", ".join(f"{step.name}: {step.status}" for step in ended.steps)
    return f"TrainJob {name} has failed ({states or 'its pods are gone'})"


def _default_client() -> "TrainerClient":
    try:
        from kubeflow.trainer import TrainerClient
    except ImportError as error:
        raise ConfigError(
            f"{VARIABLE}: expected the package kubeflow, without which no TrainJob can be "
            f"submitted: {error}"
        ) from error
    from kubernetes.config import ConfigException

    try:
        return TrainerClient()
    except ConfigException as error:
        raise ConfigError(f"{VARIABLE}: expected to be in a cluster: {error}") from error


def _next_name(client: "TrainerClient", identity: str) -> tuple[str, bool]:
    """Name the job of a training: the one at work, or the next; the others have failed.

    Returns:
        the name, and whether the job is yet to be made.
    """
    from kubeflow.trainer.constants import constants

    number = 0
    while True:
        name = f"mixprint-{identity[:NAME_DIGITS]}-{number}"
        found = _find(client, name)
        if found is None:
            return name, True
        if found.status not in {constants.TRAINJOB_COMPLETE, constants.TRAINJOB_FAILED}:
            return name, False
        number += 1


def _find(client: "TrainerClient", name: str) -> "TrainJob | None":
    """Look for a job; what the cluster tells beside that there is none is the step's failure."""
    try:
        return client.get_job(name)
    except _FAULTS as error:
        if _is_missing(error):
            return None
        raise TrainingError(f"TrainJob {name}: the cluster does not answer: {error}") from error


def _is_missing(error: BaseException) -> bool:
    return getattr(error.__cause__, "status", None) == HTTPStatus.NOT_FOUND


def _submit(
    client: "TrainerClient", nodes: Nodes, name: str, node_arguments: Sequence[str]
) -> None:
    from kubeflow.trainer import CustomTrainerContainer
    from kubeflow.trainer.options import Labels, Name, TrainerCommand

    try:
        runtime = client.get_runtime(nodes.runtime)
    except _FAULTS as error:
        if not _is_missing(error):
            raise TrainingError(f"{nodes.runtime}: the cluster does not answer: {error}") from error
        raise ConfigError(
            f"expected the training runtime {nodes.runtime} on the cluster, found none: "
            "`kubectl apply -f pipelines/mixprint-trainer.yaml`"
        ) from error
    trainer = CustomTrainerContainer(
        image=nodes.image, num_nodes=nodes.num_nodes, resources_per_node=dict(nodes.resources)
    )
    command = TrainerCommand(["python3", "-m", NODE_MODULE, *node_arguments])
    try:
        client.train(runtime, trainer=trainer, options=[Name(name), Labels(LABELS), command])
    except _FAULTS as error:
        found = f"{error}: {error.__cause__}"
        raise TrainingError(f"TrainJob {name}: expected to submit it, found: {found}") from error


def _wait(client: "TrainerClient", name: str, poll_s: float) -> "TrainJob":
    """Look at the job until it has ended."""
    from kubeflow.trainer.constants import constants

    num_failed = 0
    while True:
        try:
            job = client.get_job(name)
        except _FAULTS as error:
            if _is_missing(error):
                raise TrainingError(f"TrainJob {name}: somebody has deleted it") from error
            num_failed += 1
            if num_failed == PATIENCE:
                raise TrainingError(
                    f"TrainJob {name}: the cluster does not answer: {error}; the job goes on, and "
                    "the next attempt follows it"
                ) from error
            log.warning("TrainJob %s: %s; looking again", name, error)
        else:
            num_failed = 0
            if job.status in {constants.TRAINJOB_COMPLETE, constants.TRAINJOB_FAILED}:
                return job
        time.sleep(poll_s)


@contextmanager
def _ends_with_step(client: "TrainerClient", name: str) -> Iterator[None]:
    """Delete the job if this program is told to end: nobody would wait for it any more."""
    with sigterm_exits():
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            log.warning("TrainJob %s: deleting it, because the step is told to end", name)
            _delete(client, name)
            raise


def _delete(client: "TrainerClient", name: str) -> None:
    """Delete a job if the cluster lets us: what it has trained does not depend on that."""
    try:
        client.delete_job(name)
    except _FAULTS as error:
        log.warning("TrainJob %s: it could not be deleted: %s", name, error.__cause__ or error)


class _Log(threading.Thread):
    """Shows the log of a job's first node while it grows."""

    def __init__(self, client: "TrainerClient", name: str, poll_s: float) -> None:
        # What is read may never end, where a node is lost: nobody waits for this thread.
        super().__init__(name="trainjob-log", daemon=True)
        self._client, self._job, self._poll_s = client, name, poll_s
        self._is_over = threading.Event()
        self._first, self._num_shown = "", 0

    def run(self) -> None:
        """Read again whenever the reading ends before the job."""
        while True:
            is_last = self._is_over.is_set()
            try:
                self._read()
            except _FAULTS as error:
                log.debug("TrainJob %s: no log: %s", self._job, error)
            if is_last:
                return
            self._is_over.wait(self._poll_s)

    def finish(self) -> None:
        """Show what is left."""
        self._is_over.set()
        self.join(LOG_PATIENCE_S)

    def _read(self) -> None:
        """Show a log from its beginning, less what was shown of the same one."""
        for number, line in enumerate(self._client.get_job_logs(self._job, follow=True)):
            if number == 0 and line != self._first:
                self._first, self._num_shown = line, 0
            if number >= self._num_shown:
                sys.stderr.write(f"{line}\n")
                self._num_shown = number + 1
