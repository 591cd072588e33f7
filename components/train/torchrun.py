"""`torchrun` without its report on a worker that has failed: the worker has told why itself.

It takes the same arguments: `python -m components.train.torchrun --standalone -m MODULE JOB`.
"""

import logging

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from components.train.launch import end_with_parent

# Its lines: that a worker has failed, and that the others are ended.
REPORTS = "torch.distributed.elastic.multiprocessing.api"
SIGNAL_BASE = 128


def main() -> None:
    """Start the workers; end with the code of the first that failed, as a shell gives it."""
    end_with_parent()
    logging.getLogger(REPORTS).setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(None))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code > 0 else SIGNAL_BASE - code) from error


if __name__ == "__main__":
    main()
