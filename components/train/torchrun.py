"""`torchrun` without its report on a worker that has failed: the worker has told why itself.

It takes the same arguments: `python -m components.train.torchrun --standalone -m MODULE JOB`.
"""

import logging
import os

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from components.train.launch import STEP_VARIABLE
from mixprint.machine.processes import SIGNAL_BASE, end_with_starter

# Its lines: that a worker has failed, and that the others are ended.
REPORTS = "torch.distributed.elastic.multiprocessing.api"


def main() -> None:
    """Start the workers; end with the code that a shell gives the first failure, or a signal."""
    step = os.environ.get(STEP_VARIABLE)
    end_with_starter(None if step is None else int(step))
    logging.getLogger(REPORTS).setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(None))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code > 0 else SIGNAL_BASE - code) from error
    except SignalException as error:
        # Whoever ended it knows; the workers have been ended, too.
        raise SystemExit(SIGNAL_BASE + error.sigval) from error


if __name__ == "__main__":
    main()
