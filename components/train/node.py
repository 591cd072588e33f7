"""One node of a training on several: `python3 -m components.train.node FILE`, in a TrainJob.

The file is what `components.train.trainjob` has written; Kubeflow's Trainer sets the variables that
`components.train.launch` reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from components.step import clear_errors
from components.train.launch import start_workers
from mixprint.atomic import read_json
from mixprint.device import resolve_device
from mixprint.log import setup_logging


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the processes of this node and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    path: Path = parser.parse_args(arguments).plan
    setup_logging()
    plan = read_json(path)
    # Where a step that only submits has none, the nodes may have GPUs.
    job = {**plan["job"], "device": resolve_device(plan["job"]["device"]).type}
    start_workers(plan["worker"], job, path.parent, plan["num_processes"])


if __name__ == "__main__":
    with clear_errors():
        main()
