"""Pods of steps where KFP does not make them: for Argo, and for Kubeflow's Trainer.

The parts are Hera's models, which check their form.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hera.workflows import models as m

from pipelines.cluster import SHM_PATH, SHM_VOLUME, Cluster, Place

# The root of a pod's file system cannot be written to; these folders can.
TMP_VOLUME, TMP_PATH = "tmp", "/tmp"


def pod_security(cluster: Cluster) -> m.PodSecurityContext:
    """Say who the processes of a pod are."""
    return m.PodSecurityContext(
        run_as_non_root=True,
        run_as_user=cluster.security.run_as_user,
        run_as_group=cluster.security.run_as_group,
        fs_group=cluster.security.fs_group,
        seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
    )


def pull_secrets(cluster: Cluster) -> list[m.LocalObjectReference] | None:
    """Name the secrets of the image's registry, if it has any."""
    return [m.LocalObjectReference(name=name) for name in cluster.image.pull_secrets] or None


def tolerations(place: Place) -> list[m.Toleration] | None:
    """List the taints that a step does not mind, if there are any."""
    return [
        m.Toleration(
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value or None,
            effect=toleration.effect or None,
        )
        for toleration in place.tolerations
    ] or None


def volumes(cluster: Cluster, place: Place) -> list[m.Volume]:
    """List what a pod can mount."""
    return [volume for volume, _ in _mounts(cluster, place)]


def container(
    cluster: Cluster,
    place: Place,
    *,
    name: str,
    image: str,
    variables: dict[str, str],
    command: Sequence[str] | None = None,
) -> m.Container:
    """Make a step's container, locked down.

    Args:
        cluster: what all steps get.
        place: what this one gets.
        name: of the container.
        image: as the cluster pulls it.
        variables: that are no secrets.
        command: what it runs; None: whoever starts the pod says it.
    """
    quantities: dict[str, Any] = place.resources
    return m.Container(
        name=name,
        image=image,
        image_pull_policy=cluster.image.pull_policy,
        command=None if command is None else list(command),
        env=list(_env(cluster, variables)) or None,
        resources=m.ResourceRequirements(requests=quantities, limits=quantities),
        security_context=m.SecurityContext(
            allow_privilege_escalation=False,
            capabilities=m.Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        ),
        volume_mounts=[mount for _, mount in _mounts(cluster, place)],
    )


def _env(cluster: Cluster, variables: dict[str, str]) -> Iterator[m.EnvVar]:
    for name, value in variables.items():
        yield m.EnvVar(name=name, value=value)
    for secret in cluster.secrets:
        for name, key in secret.env.items():
            selector = m.SecretKeySelector(name=secret.name, key=key, optional=secret.optional)
            yield m.EnvVar(name=name, value_from=m.EnvVarSource(secret_key_ref=selector))


def _mounts(cluster: Cluster, place: Place) -> Iterator[tuple[m.Volume, m.VolumeMount]]:
    """Return what a pod mounts, and where."""
    shm = m.EmptyDirVolumeSource(
        medium="Memory",
        size_limit=place.shm,  # type: ignore[arg-type]  # pydantic takes it
    )
    yield _mounted(SHM_PATH, name=SHM_VOLUME, empty_dir=shm)
    yield _mounted(TMP_PATH, name=TMP_VOLUME, empty_dir=m.EmptyDirVolumeSource())
    for number, volume in enumerate(cluster.volumes):
        claim = m.PersistentVolumeClaimVolumeSource(claim_name=volume.claim)
        yield _mounted(volume.path, name=f"claim-{number}", persistent_volume_claim=claim)
    for number, secret in enumerate(cluster.secrets):
        if secret.path:
            source = m.SecretVolumeSource(secret_name=secret.name, optional=secret.optional)
            yield _mounted(secret.path, name=f"secret-{number}", secret=source)


def _mounted(path: str, **volume: Any) -> tuple[m.Volume, m.VolumeMount]:
    return m.Volume(**volume), m.VolumeMount(name=volume["name"], mount_path=path)
