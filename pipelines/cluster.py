"""Resources of each step on a cluster: `cluster.yaml`, read once, checked, laid on KFP's tasks.

Argo's templates take the same values (`pipelines.argo`). A run on this machine takes none.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Self

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components.step import STEPS
from components.train.trainjob import VARIABLE, Nodes
from mixprint.errors import ConfigError
from mixprint.schema import checked, checked_mapping, read_plain_file
from mixprint.storage.bucket import GCS_SCHEME, is_bucket

CLUSTER_FILE = Path(__file__).resolve().parents[1] / "cluster.yaml"
SHM_VOLUME, SHM_PATH = "shm", "/dev/shm"
# Retries are counted, not timed. KFP's default is an hour from the start of the first attempt, its
# work and its waiting for a node included: what fails after longer work would never be retried.
RETRY_WINDOW_S = 365 * 86_400
# The step that can have several nodes, and what its pod gets then: it submits and waits.
TRAIN = "train"
SUBMITTER: Mapping[str, Any] = {
    **{"cpu": "1", "memory": "4Gi", "shm": "64Mi", "gpus": 0},
    **{"node_selector": {}, "tolerations": ()},
}
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
OPERATORS, EFFECTS = ("Equal", "Exists"), ("NoSchedule", "PreferNoSchedule", "NoExecute", "")
_FACTORS = {
    "": 1,
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: 1000**power for power, letter in enumerate("KMGTPE", start=1)},
}
# As KFP takes them; Kubernetes knows more forms.
_CPU = re.compile(r"(?:\d*\.)?\d+m?")
_MEMORY = re.compile(r"(\d+)((?:[KMGTPE]i?)?)")
# Names of Kubernetes' objects, and of variables.
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Image:
    """Origin of the steps' image.

    Attributes:
        repository: goes before the image's name, with a slash; empty: the name stands alone.
        pull_policy: one of `PULL_POLICIES`.
        pull_secrets: names of secrets for a private registry.
    """

    repository: str
    pull_policy: str
    pull_secrets: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("image.pull_policy", self.pull_policy, PULL_POLICIES)
        if "://" in self.repository or self.repository.endswith("/"):
            raise ConfigError(
                "image.repository: expected registry/project, without a scheme and a slash at the "
                f"end, found {self.repository!r}"
            )
        for name in self.pull_secrets:
            _object_name("image.pull_secrets", name)

    def full_name(self, name: str) -> str:
        """Return the name by which the cluster pulls an image."""
        return f"{self.repository}/{name}" if self.repository else name


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Places of songs and runs on the cluster."""

    songs: str
    runs: str


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A persistent volume claim and where a pod sees it."""

    claim: str
    path: str

    def __post_init__(self) -> None:
        """Check the values."""
        _object_name("volumes.claim", self.claim)
        _absolute("volumes.path", self.path)


@dataclass(frozen=True, kw_only=True)
class Security:
    """User and group of a step's process; never root."""

    run_as_user: int
    run_as_group: int
    fs_group: int

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("run_as_user", "run_as_group", "fs_group"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"security.{name}: expected a number > 0 (0 is root), found "
                    f"{getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Keys of a Kubernetes secret that become variables, and files if there is a path.

    Attributes:
        name: of the secret.
        optional: whether a pod starts without it.
        env: variable -> key.
        path: where the whole secret is mounted; empty: nowhere.
    """

    name: str
    optional: bool
    env: Mapping[str, str]
    path: str

    def __post_init__(self) -> None:
        """Check the values."""
        _object_name("secrets.name", self.name)
        _variable_names(f"secrets.{self.name}.env", self.env)
        if self.path:
            _absolute(f"secrets.{self.name}.path", self.path)


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint of a node that a step does not mind."""

    key: str
    operator: str
    value: str
    effect: str

    def __post_init__(self) -> None:
        """Check the values."""
        _one_of("tolerations.operator", self.operator, OPERATORS)
        _one_of("tolerations.effect", self.effect, EFFECTS)
        if self.operator == "Exists" and self.value:
            raise ConfigError(
                f"tolerations.value: expected none beside `operator: Exists`, found {self.value!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Number of nodes that train together, and the runtime of Kubeflow's Trainer for several."""

    nodes: int
    runtime: str

    def __post_init__(self) -> None:
        """Check the values."""
        if self.nodes < 1:
            raise ConfigError(f"training.nodes: expected >= 1, found {self.nodes}")
        _object_name("training.runtime", self.runtime)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Resources of one step; see the comments in cluster.yaml."""

    cpu: str
    memory: str
    shm: str
    gpus: int
    gpu_type: str
    retries: int
    backoff_s: int
    backoff_factor: int
    timeout_s: int
    caching: bool
    node_selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...]

    def __post_init__(self) -> None:
        """Check the ranges."""
        if _CPU.fullmatch(self.cpu) is None:
            raise ConfigError(f"cpu: expected cores, as '4' or '500m', found {self.cpu!r}")
        if num_bytes("shm", self.shm) >= num_bytes("memory", self.memory):
            raise ConfigError(
                f"shm: expected less than memory, {self.memory}, of which it is a part, "
                f"found {self.shm}"
            )
        least = {"gpus": 0, "retries": 0, "backoff_s": 0, "backoff_factor": 1, "timeout_s": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name}: expected >= {lowest}, found {getattr(self, name)}")

    def with_gpus(self, gpus: int) -> "Place":
        """Return another number of GPUs, with processors and memory in proportion.

        What passes through /dev/shm depends on the batch of all of them together.

        Raises:
            ConfigError: there is no such number.
        """
        if min(gpus, self.gpus) <= 0:
            return replace(self, gpus=gpus)
        share = Fraction(gpus, self.gpus)
        return replace(
            self,
            gpus=gpus,
            cpu=_scaled(self.cpu, share),
            memory=_scaled(self.memory, share),
        )

    @property
    def resources(self) -> dict[str, str]:
        """Requests and limits of a container, as Kubernetes names them."""
        gpus = {self.gpu_type: str(self.gpus)} if self.gpus else {}
        return {"cpu": self.cpu, "memory": self.memory, **gpus}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All of cluster.yaml."""

    image: Image
    folders: Folders
    volumes: tuple[Volume, ...]
    security: Security
    env: Mapping[str, str]
    secrets: tuple[Secret, ...]
    training: Training
    steps: Mapping[str, Place]

    def __post_init__(self) -> None:
        """Check what concerns more than one part."""
        _variable_names("env", self.env)
        for name in ("songs", "runs"):
            self.check_shared(f"folders.{name}", getattr(self.folders, name))

    @classmethod
    def load(
        cls,
        path: Path = CLUSTER_FILE,
        *,
        repository: str = "",
        nodes: int = 0,
        gpus_per_node: int = 0,
    ) -> Self:
        """Read the file.

        Args:
            path: the YAML file.
            repository: in place of the file's own `image.repository`, if not empty.
            nodes: in place of `training.nodes`, if not 0.
            gpus_per_node: in place of `steps.train.gpus`, if not 0; `cpu` and `memory` there change
                in proportion.

        Raises:
            ConfigError: it cannot be read, a key or a step is unknown or missing, or a value does
                not fit; the message says where.
        """
        values = read_plain_file(path, ConfigError)
        try:
            values = checked_mapping("the file", values)
            defaults = checked_mapping("defaults", values.pop("defaults", {}))
            steps = checked_mapping("steps", values.get("steps"))
            if unknown := sorted(set(steps) - set(STEPS)):
                raise ConfigError(f"steps: unknown {unknown}; known are {list(STEPS)}")
            own = {step: checked_mapping(f"steps.{step}", steps.get(step, {})) for step in STEPS}
            values["steps"] = {step: {**defaults, **own[step]} for step in STEPS}
            cluster: Self = checked("", values, cls)
            if repository:
                cluster = replace(cluster, image=replace(cluster.image, repository=repository))
            if nodes:
                cluster = replace(cluster, training=replace(cluster.training, nodes=nodes))
            if gpus_per_node:
                train = cluster.steps[TRAIN].with_gpus(gpus_per_node)
                cluster = replace(cluster, steps={**cluster.steps, TRAIN: train})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return cluster

    def check_shared(self, what: str, folder: str) -> None:
        """Refuse a folder that the pods of a run would not all see.

        Raises:
            ConfigError: it lies in no volume and in no bucket.
        """
        if is_bucket(folder):
            if not set(folder.removeprefix(GCS_SCHEME).split("/")) & {"", ".", ".."}:
                return
            raise ConfigError(f"{what}: expected gs://bucket/folder, found {folder!r}")
        place = PurePosixPath(folder)
        paths = [volume.path for volume in self.volumes]
        if ".." in place.parts or not any(place.is_relative_to(path) for path in paths):
            raise ConfigError(
                f"{what}: expected a folder in a volume of the cluster ({paths}), or "
                f"gs://bucket/folder, found {folder!r}"
            )

    def check_training(self, params: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a training whose processes lack GPUs, pairs of a batch, or room in /dev/shm.

        Args:
            params: all sections of params.yaml.

        Raises:
            ConfigError: there is too little.
        """
        place, train = self.steps[TRAIN], params[TRAIN]
        gpus, processes = place.gpus, train["num_processes"]
        if 0 < gpus < processes:
            raise ConfigError(
                f"train.num_processes is {processes}, and cluster.yaml gives the step train {gpus} "
                f"GPUs: expected as many; GPUS_PER_NODE={processes}, or "
                f"SET=train.num_processes={gpus}"
            )
        together, pairs = processes * self.training.nodes, train["batch_size"]
        if together > pairs:
            raise ConfigError(
                f"train.batch_size is {pairs}, and {self.training.nodes} nodes have {together} "
                f"processes: expected a pair for each; SET=train.batch_size={together}, or more"
            )
        in_flight = processes * _prepared_bytes(train, math.ceil(pairs / together))
        if in_flight > num_bytes("shm", place.shm):
            raise ConfigError(
                f"cluster.yaml gives the step train shm {place.shm}, and what its readers prepare "
                f"takes up to {in_flight / 1e9:.1f} GB there: expected room for it; raise `shm` "
                "(and `memory`), or lower train.batch_size or train.num_workers"
            )

    def pod(self, step: str) -> Place:
        """Return what the pod of a step gets."""
        place = self.steps[step]
        is_submitter = step == TRAIN and self.training.nodes > 1
        return replace(place, **SUBMITTER) if is_submitter else place

    def variables(self, step: str, image: str) -> dict[str, str]:
        """Return the variables of a step that are no secrets.

        Args:
            step: its name.
            image: the image of the steps, as the cluster pulls it.
        """
        if step != TRAIN or self.training.nodes == 1:
            return dict(self.env)
        nodes = Nodes(
            image=image,
            runtime=self.training.runtime,
            num_nodes=self.training.nodes,
            resources=self.steps[TRAIN].resources,
            shared=tuple(volume.path for volume in self.volumes),
        )
        return {**self.env, VARIABLE: json.dumps(asdict(nodes), sort_keys=True)}

    def place(self, task: PipelineTask) -> PipelineTask:
        """Set on a task of KFP what its step gets."""
        place = self.pod(task.name)
        image = self.image.full_name(task.container_spec.image)
        task.set_container_image(image)
        task.set_cpu_request(place.cpu).set_cpu_limit(place.cpu)
        task.set_memory_request(place.memory).set_memory_limit(place.memory)
        if place.gpus:
            task.set_accelerator_type(place.gpu_type).set_accelerator_limit(place.gpus)
        if place.retries:
            task.set_retry(
                place.retries,
                backoff_duration=f"{place.backoff_s}s",
                backoff_factor=place.backoff_factor,
                backoff_max_duration=f"{RETRY_WINDOW_S}s",
            )
        task.set_caching_options(place.caching)
        for name, value in self.variables(task.name, image).items():
            task.set_env_variable(name, value)
        kubernetes.set_timeout(task, place.timeout_s)
        kubernetes.empty_dir_mount(
            task, SHM_VOLUME, SHM_PATH, medium="Memory", size_limit=place.shm
        )
        for volume in self.volumes:
            kubernetes.mount_pvc(task, volume.claim, volume.path)
        for secret in self.secrets:
            if secret.env:
                kubernetes.use_secret_as_env(
                    task,
                    secret.name,
                    {key: variable for variable, key in secret.env.items()},
                    optional=secret.optional,
                )
            if secret.path:
                kubernetes.use_secret_as_volume(
                    task, secret.name, secret.path, optional=secret.optional
                )
        for name, value in place.node_selector.items():
            kubernetes.add_node_selector(task, name, value)
        for toleration in place.tolerations:
            kubernetes.add_toleration(
                task,
                key=toleration.key,
                operator=toleration.operator,
                value=toleration.value,
                effect=toleration.effect or None,
            )
        kubernetes.set_image_pull_policy(task, self.image.pull_policy)
        if self.image.pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.image.pull_secrets))
        # The rest of what keeps a pod in its place (no capabilities, no escalation, seccomp) is set
        # by KFP's own backend.
        kubernetes.set_security_context(
            task,
            run_as_user=self.security.run_as_user,
            run_as_group=self.security.run_as_group,
            run_as_non_root=True,
        )
        return task


def _prepared_bytes(train: Mapping[str, Any], num_pairs: int) -> float:
    """Say how much the readers of a process have ready at most, and it has just taken.

    Args:
        train: the section of params.yaml.
        num_pairs: of a batch, for this process.
    """
    if train["num_workers"] == 0:
        return 0.0
    # torch takes seconds to import.
    from mixprint.encoder.data import batch_bytes
    from mixprint.training.loading import BATCHES_AHEAD

    num_batches = train["num_workers"] * BATCHES_AHEAD + 1
    return num_batches * batch_bytes(num_pairs, train["segment_s"])


def _scaled(quantity: str, share: Fraction) -> str:
    """Return a part or a multiple of a quantity, rounded up in its own unit."""
    digits = quantity.rstrip("KMGTPEim")
    return f"{math.ceil(Fraction(digits) * share)}{quantity.removeprefix(digits)}"


def num_bytes(what: str, quantity: str) -> int:
    """Read a quantity of memory, as `8Gi`.

    Raises:
        ConfigError: it is none that KFP takes.
    """
    if (match := _MEMORY.fullmatch(quantity)) is None:
        raise ConfigError(
            f"{what}: expected a whole number with K, M, G, T, Ki, Mi, Gi or Ti, as '8Gi', found "
            f"{quantity!r}"
        )
    return int(match[1]) * _FACTORS[match[2]]


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{what}: expected one of {known}, found {value!r}")


def _object_name(what: str, name: str) -> None:
    if _OBJECT_NAME.fullmatch(name) is None:
        raise ConfigError(f"{what}: expected a name of a Kubernetes object, found {name!r}")


def _variable_names(what: str, names: Mapping[str, str]) -> None:
    if wrong := sorted(name for name in names if _VARIABLE_NAME.fullmatch(name) is None):
        raise ConfigError(f"{what}: expected names of variables, found {wrong}")


def _absolute(what: str, path: str) -> None:
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ConfigError(f"{what}: expected an absolute path, found {path!r}")
