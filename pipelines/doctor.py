"""Check of a cluster: what is missing for a run; `mixprint doctor --cluster` asks it.

It reads the variables that `make pipeline-submit` reads: KFP_HOST, NAMESPACE, TOKEN, IMAGE_REPO.
What lies on the cluster (secrets, volumes) it asks of `kubectl`; of a secret it reads the names of
the keys and no value.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from components.image import IMAGE
from mixprint.errors import ConfigError, MixprintError
from mixprint.machine.doctor import Finding

if TYPE_CHECKING:
    from pipelines.cluster import Cluster

# Module -> package that has it.
PACKAGES = {"kfp": "kfp", "kfp.kubernetes": "kfp-kubernetes"}
REQUEST_TIMEOUT_S = 10
# What a run cannot do without, for runs and registry: a file of a pod ends with it.
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_THERE = "there"
_KEYS = f"go-template={_THERE}{{{{range $key, $_ := .data}}}} {{{{$key}}}}{{{{end}}}}"
_NAME = "name"
_CLAIM = "jsonpath={.status.phase} {.spec.accessModes}"


class UnknownError(MixprintError):
    """Nothing can be said of what lies on the cluster."""


def check() -> list[Finding]:
    """Look at everything; see `mixprint.machine.doctor`."""
    return list(_look(os.environ))


def _look(environment: Mapping[str, str]) -> Iterator[Finding]:
    lost = [package for module, package in PACKAGES.items() if not _is_installed(module)]
    yield Finding(
        "packages",
        f"not installed: {', '.join(lost)}" if lost else "all there",
        "Run `make setup`" if lost else "",
    )
    if lost:
        return
    from pipelines.cluster import CLUSTER_FILE, Cluster

    try:
        nodes = environment.get("NODES", "")
        cluster = Cluster.load(
            CLUSTER_FILE,
            repository=environment.get("IMAGE_REPO", ""),
            nodes=int(nodes) if nodes.isdecimal() else 0,
        )
    except ConfigError as error:
        yield Finding("cluster.yaml", str(error), "Correct it")
        return
    yield Finding("cluster.yaml", f"{CLUSTER_FILE} is valid")
    image = cluster.image.full_name(IMAGE)
    yield Finding(
        "image",
        image,
        ""
        if cluster.image.repository
        else "Nodes cannot pull a name without a registry: push the image, and set "
        "image.repository in cluster.yaml, or IMAGE_REPO",
    )
    yield _server(environment)
    try:
        yield from _on_cluster(cluster, environment.get("NAMESPACE", ""))
    except UnknownError as error:
        yield Finding(
            "kubectl",
            f"{error}, so nothing is known of the volumes and secrets on the cluster",
            "Install it, and choose a cluster that lets you in with `kubectl config use-context`",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _server(environment: Mapping[str, str]) -> Finding:
    from pipelines.submit import TOKEN_VARIABLE, ClusterError, Server

    host = environment.get("KFP_HOST", "")
    if not host:
        return Finding("KFP_HOST", "not set", "Set it to the address of Kubeflow Pipelines")
    server = Server(
        host=host,
        namespace=environment.get("NAMESPACE", ""),
        token=environment.get(TOKEN_VARIABLE, ""),
    )
    try:
        server.check()
    except (ClusterError, ConfigError) as error:
        return Finding("KFP_HOST", str(error), "Correct that, then ask again")
    return Finding("KFP_HOST", f"{server.url} answers")


def _on_cluster(cluster: "Cluster", namespace: str) -> Iterator[Finding]:
    """Look for the volumes, secrets and the runtime that cluster.yaml names.

    Raises:
        UnknownError: kubectl is not there, or the cluster does not answer it.
    """
    if shutil.which("kubectl") is None:
        raise UnknownError("not found")
    for volume in cluster.volumes:
        told = _kubectl(namespace, "persistentvolumeclaim", volume.claim, _CLAIM)
        what = f"volume {volume.claim}"
        if told is None:
            yield Finding(what, "not found", "Create it, as docs/cluster.md shows")
        elif "ReadWriteMany" not in told:
            yield Finding(what, f"is {told}", "Pods on several nodes need ReadWriteMany")
        else:
            yield Finding(what, f"is {told}")
    given = set(cluster.env)
    for secret in cluster.secrets:
        told = _kubectl(namespace, "secret", secret.name, _KEYS)
        what = f"secret {secret.name}"
        keys = set() if told is None else set(told.split()) - {_THERE}
        given |= {variable for variable, key in secret.env.items() if key in keys}
        lost = sorted(set(secret.env.values()) - keys)
        if told is None:
            if secret.optional:
                yield Finding(what, "not found, and optional")
            else:
                yield Finding(what, "not found", "Create it, as docs/cluster.md shows")
        elif lost and not secret.optional:
            yield Finding(what, f"has no keys {lost}", "Add them")
        else:
            yield Finding(what, f"has {sorted(keys)}")
    for name in cluster.image.pull_secrets:
        found = _kubectl(namespace, "secret", name, _KEYS) is not None
        yield Finding(
            f"secret {name}",
            "is there" if found else "not found",
            "" if found else "Create it: without it the image cannot be pulled",
        )
    if cluster.training.nodes > 1:
        runtime = cluster.training.runtime
        is_there = _kubectl(namespace, "trainingruntime", runtime, _NAME) is not None
        yield Finding(
            f"runtime {runtime}",
            "is there" if is_there else "not found",
            ""
            if is_there
            else "Several nodes train in it: `kubectl apply -f "
            "pipelines/mixprint-trainer.yaml`, where Kubeflow's Trainer is installed",
        )
    yield Finding(
        TRACKING_VARIABLE,
        "given to the steps" if TRACKING_VARIABLE in given else "not given to the steps",
        ""
        if TRACKING_VARIABLE in given
        else "Give it by a secret or by `env` in cluster.yaml: runs and the registry of encoders "
        "would be lost with their pod",
    )


def _kubectl(namespace: str, kind: str, name: str, output: str) -> str | None:
    """Ask for an object; None if it is not there.

    Raises:
        UnknownError: the cluster does not answer, or does not tell us.
    """
    command = ["kubectl", "get", kind, name, f"--output={output}", "--ignore-not-found"]
    command.append(f"--request-timeout={REQUEST_TIMEOUT_S}s")
    if namespace:
        command.append(f"--namespace={namespace}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise UnknownError(f"could not ask for the {kind} {name}: {lines[-1]}")
    return done.stdout.strip() or None
