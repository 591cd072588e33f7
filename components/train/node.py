"""One node of a training on several: `python3 -m components.train.node ROOT NAME`, in a TrainJob.

The file is what `components.train.trainjob` has written into the run; Kubeflow's Trainer sets the
variables that `components.train.launch` reads. Of a run in a bucket each node has its own mirror,
and the first one's is published while the training goes on.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

from components.run_folder import open_run
from components.step import clear_errors
from components.train.launch import Node, ranks_device, start_workers, tell_error
from components.train.trainjob import NodePlan
from mixprint.errors import MixprintError
from mixprint.log import setup_logging
from mixprint.schema import read_record


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the processes of this node and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="of the run")
    parser.add_argument("name", help="of the file in the run")
    args = parser.parse_args(arguments)
    setup_logging()
    with open_run(args.root) as run:
        run.refresh(args.name)
        path = run.path / args.name
        plan = read_record(path, NodePlan)
        # Where a step that only submits has none, the nodes may have GPUs.
        job = {**plan.job, "device": ranks_device(plan.job.get("device", "auto"))}
        with ExitStack() as stack:
            stack.callback(run.publish)
            try:
                if Node.from_environment().is_first:
                    stack.enter_context(run.followed(f"nodes-{args.name.replace('/', '-')}"))
                job = run.localised(job)
            except MixprintError as error:
                tell_error(path.parent, str(error), is_users=True)
                raise
            start_workers(plan.worker, job, path.parent, plan.num_processes, run)


if __name__ == "__main__":
    with clear_errors():
        main()
