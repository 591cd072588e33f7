"""Write the runtime of a training on several nodes: `python -m pipelines.trainer --out FILE`.

It is a `TrainingRuntime` of Kubeflow's Trainer: what cluster.yaml gives each node, volumes and
secrets included. The step `train` submits TrainJobs that name it (`components.train.trainjob`).
"""

import logging
from pathlib import Path
from typing import Any

import yaml

from components.image import IMAGE
from components.step import clear_errors
from mixprint.log import setup_logging
from mixprint.storage.atomic import atomic_path
from pipelines import pods
from pipelines.cluster import TRAIN, Cluster
from pipelines.compile import cluster_parser, read_inputs

log = logging.getLogger("mixprint.pipelines")

# Names that Kubeflow's Trainer looks for.
NODE = "node"
LABELS = {"trainer.kubeflow.org/framework": "torch"}
STEP_LABELS = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}


def training_runtime(cluster: Cluster) -> dict[str, Any]:
    """Make the runtime.

    A pod that fails fails the job, and nothing of it is started again: the retries of the step
    count, and ranks that came back one by one would not find each other.

    Args:
        cluster: what it gives the step `train`.
    """
    place = cluster.steps[TRAIN]
    # The variables of the nodes: that which has several nodes started is not among them.
    container = pods.container(
        cluster,
        place,
        name=NODE,
        image=cluster.image.full_name(IMAGE),
        variables=dict(cluster.env),
    )
    pod = {
        "restartPolicy": "Never",
        "securityContext": _plain(pods.pod_security(cluster)),
        "containers": [_plain(container)],
        "volumes": [_plain(volume) for volume in pods.volumes(cluster, place)],
    }
    if place.node_selector:
        pod["nodeSelector"] = dict(place.node_selector)
    for key, found in (
        ("tolerations", pods.tolerations(place)),
        ("imagePullSecrets", pods.pull_secrets(cluster)),
    ):
        if found is not None:
            pod[key] = [_plain(part) for part in found]
    job = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": place.timeout_s,
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": cluster.training.runtime, "labels": LABELS},
        "spec": {
            "mlPolicy": {"numNodes": cluster.training.nodes, "torch": {}},
            "template": {
                "spec": {
                    "failurePolicy": {"maxRestarts": 0},
                    "replicatedJobs": [
                        {
                            "name": NODE,
                            "template": {"metadata": {"labels": STEP_LABELS}, "spec": job},
                        }
                    ],
                }
            },
        },
    }


def _plain(model: Any) -> dict[str, Any]:
    values: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return values


def main() -> None:
    """Read the command line and write the YAML."""
    parser = cluster_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    setup_logging()
    cluster, _ = read_inputs(args)
    with atomic_path(args.out) as temporary:
        temporary.write_text(yaml.safe_dump(training_runtime(cluster), sort_keys=True, width=100))
    log.info("wrote %s", args.out)


if __name__ == "__main__":
    with clear_errors():
        main()
