"""Compile the DAG: `python -m pipelines.compile --out pipelines/mixprint.yaml`."""

import argparse
import logging
from pathlib import Path

from kfp import compiler

from mixprint.atomic import atomic_path
from mixprint.log import setup_logging
from pipelines.mix_style import mix_style

log = logging.getLogger("mixprint.pipelines")


def main() -> None:
    """Read the command line and write the YAML; the same DAG gives the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    setup_logging()
    with atomic_path(args.out) as temporary:
        compiler.Compiler().compile(mix_style, str(temporary))
    log.info("wrote %s", args.out)


if __name__ == "__main__":
    main()
