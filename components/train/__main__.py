"""Train what mixprint learns: `python -m components.train --task separator --help`."""

import argparse

from components.step import clear_errors
from components.train import main as encoder
from components.train import separator

TASKS = {"encoder": encoder.main, "separator": separator.main}


def main() -> None:
    """Read the task, and leave the rest of the command line to it."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    args, rest = parser.parse_known_args()
    with clear_errors():
        TASKS[args.task](rest)


if __name__ == "__main__":
    main()
