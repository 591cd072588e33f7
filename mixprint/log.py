"""Logging: one handler for all of mixprint, set up once, in `main`."""

import logging
import sys
from typing import TextIO

from mixprint.progress import CLEAR_LINE, Progress, is_terminal
from mixprint.text import printable

LOGGER_NAME = "mixprint"


class _PlainFormatter(logging.Formatter):
    """Formats lines that hold nothing which a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def setup_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the lines of all `mixprint` loggers to one stream; a second call changes nothing.

    Only an entry point calls this: a library that is imported leaves logging to its host.

    Args:
        level: the lowest level that is shown.
        stream: where the lines go; standard error by default.
    """
    root = logging.getLogger(LOGGER_NAME)
    if root.handlers:
        return
    handler = _LineHandler(stream or sys.stderr)
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


def logging_level() -> int | None:
    """Tell what `setup_logging` was given in this process, for `follow_logging` in another."""
    root = logging.getLogger(LOGGER_NAME)
    return root.level if root.handlers else None


def follow_logging(level: int | None) -> None:
    """Log in a process that was started for another one as that one does.

    Args:
        level: that one's `logging_level`.
    """
    if level is not None:
        setup_logging(level)


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines in place of the progress bar, which comes back below them."""

    def emit(self, record: logging.LogRecord) -> None:
        with Progress.bar_cleared():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        # The bar may also be that of the process which has started this one.
        return CLEAR_LINE + line if is_terminal(self.stream) else line
