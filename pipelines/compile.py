"""Compile the DAG for a cluster: `python -m pipelines.compile --out pipelines/mixprint.yaml`."""

import argparse
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler

from components.step import clear_errors
from mixprint.config import BASE_PROFILE, load_params
from mixprint.log import setup_logging
from mixprint.storage.atomic import atomic_path
from pipelines.cluster import CLUSTER_FILE, TRAIN, Cluster
from pipelines.mix_style import PARAMS_FILE, pipeline

log = logging.getLogger("mixprint.pipelines")

# What a run on a cluster reads, unless it is told otherwise.
SOURCE = "folder"


def compile_pipeline(
    path: Path, cluster: Cluster, params: Mapping[str, Mapping[str, Any]], *, name: str
) -> None:
    """Write the DAG as KFP's YAML; the same DAG gives the same bytes.

    Args:
        path: the file.
        cluster: what it gives each step.
        params: all sections; defaults of the pipeline's parameters.
        name: of the run whose folder is the default of `root`.
    """
    made = pipeline(
        cluster.place,
        root=f"{cluster.folders.runs}/{name}",
        source=SOURCE,
        locations=[cluster.folders.songs],
        params=params,
    )
    with atomic_path(path) as temporary:
        compiler.Compiler().compile(made, str(temporary))


def cluster_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the command line that all that compiles for a cluster shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cluster", type=Path, default=CLUSTER_FILE)
    parser.add_argument("--image-repository", default="", help="goes before the image's name")
    parser.add_argument("--nodes", type=int, default=0, help="that train together")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="of the training")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE)
    parser.add_argument("--profile", default=BASE_PROFILE, help="tiny, or an overlay in the params")
    parser.add_argument("--set", default="", help="section.key=value ..., laid over the params")
    return parser


def read_inputs(args: argparse.Namespace) -> tuple[Cluster, dict[str, dict[str, Any]]]:
    """Read what `cluster_parser` names.

    Raises:
        ConfigError: a file or a value does not fit, or the two files do not fit together.
    """
    cluster = Cluster.load(
        args.cluster,
        repository=args.image_repository,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
    )
    overrides = shlex.split(args.set)
    if args.gpus_per_node:
        # Each process takes a GPU; who wants fewer says so in --set, which counts more.
        overrides = [f"{TRAIN}.num_processes={args.gpus_per_node}", *overrides]
    params = load_params(args.params, args.profile, overrides)
    cluster.check_training(params)
    return cluster, params


def main() -> None:
    """Read the command line and write the YAML."""
    parser = cluster_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    setup_logging()
    cluster, params = read_inputs(args)
    compile_pipeline(args.out, cluster, params, name=args.profile)
    log.info("wrote %s", args.out)


if __name__ == "__main__":
    with clear_errors():
        main()
