"""Logging: one handler for all of mixprint, set up once, in `main`."""

import logging
import sys
from typing import TextIO


def setup_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the lines of all `mixprint` loggers to one stream; a second call changes nothing.

    Only an entry point calls this: a library that is imported leaves logging to its host.

    Args:
        level: the lowest level that is shown.
        stream: where the lines go; standard error by default.
    """
    root = logging.getLogger("mixprint")
    if root.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False
