"""Generate the data set: `python -m mixprint.synthesis --out data`."""

import argparse
import os
from pathlib import Path

from mixprint.config import BASE_PROFILE
from mixprint.log import setup_logging
from mixprint.synthesis.dataset import DataConfig, generate


def main() -> None:
    """Read the command line and generate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--profile", default=BASE_PROFILE)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    setup_logging()
    generate(args.out, DataConfig.load(args.params, args.profile, args.set), args.workers)


if __name__ == "__main__":
    main()
