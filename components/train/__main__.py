"""Train what mixprint learns: `python -m components.train --task separator --help`."""

import argparse

from components.step import clear_errors
from components.train.job import TASKS, find_task, run_command


def main() -> None:
    """Read the task, and leave the rest of the command line to it."""
    parser = argparse.ArgumentParser(
        prog="python -m components.train", description=__doc__, add_help=False, allow_abbrev=False
    )
    parser.add_argument("--task", choices=sorted(TASKS), help="what to train; it has more options")
    parser.add_argument("-h", "--help", action="store_true", help="show help; with --task, its own")
    args, rest = parser.parse_known_args()
    if args.task is None:
        if not args.help:
            parser.error("expected --task")
        parser.print_help()
        return
    if args.help:
        rest.append("--help")
    with clear_errors():
        run_command(find_task(args.task), rest)


if __name__ == "__main__":
    main()
