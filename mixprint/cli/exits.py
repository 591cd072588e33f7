"""The end of a command: an exit code, and a sentence instead of a traceback."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from mixprint.errors import ConfigError, MixprintError
from mixprint.log import setup_logging
from mixprint.machine.processes import SIGNAL_BASE, sigterm_exits
from mixprint.progress import discard, echo
from mixprint.storage.atomic import write_errors_named

# As in sysexits.h: an error inside the program.
FAULT_CODE = 70
DEBUG_VARIABLE = "MIXPRINT_DEBUG"


def clear_exits(function: Callable[..., None]) -> Callable[..., None]:
    """Set up logging, and end with a sentence instead of a traceback.

    Exit code: 1 for what a person can mend, 2 if the call is wrong, `FAULT_CODE` for what nobody
    foresaw, and a shell's for Ctrl-C and for a pipe whose reader has gone.
    """

    @wraps(function)
    @sigterm_exits()
    def run(*args: Any, **kwargs: Any) -> None:
        setup_logging()
        try:
            with write_errors_named("a file"):
                function(*args, **kwargs)
        except MixprintError as error:
            echo(f"error: {error}", err=True)
            # As for an option that does not exist: 2 says that the call is wrong, not the data.
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
        except KeyboardInterrupt as error:
            echo("interrupted; what is finished is intact", err=True)
            raise typer.Exit(SIGNAL_BASE + signal.SIGINT) from error
        except BrokenPipeError as error:
            # Whoever read along has gone.
            discard(sys.stdout)
            raise typer.Exit(SIGNAL_BASE + signal.SIGPIPE) from error
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            echo(_fault_text(function.__name__, error), err=True)
            raise typer.Exit(FAULT_CODE) from error

    return run


def _fault_text(command: str, error: Exception) -> str:
    """Build the advice on how to report an unforeseen error; its traceback goes into a file."""
    from mixprint import __version__

    lines = traceback.format_exception(error)
    found = "".join(traceback.format_exception_only(error)).strip()
    try:
        handle, name = tempfile.mkstemp(prefix="mixprint-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines([f"mixprint {__version__} {command}\n\n", *lines])
        where = f"its traceback, which lies in {name}"
    except OSError:
        # Without a folder for temporary files.
        where = "the traceback below"
        found = "".join(lines)
    return (
        f"error: {command} of mixprint {__version__} met a fault of its own: {found}; please "
        f"report it with {where} ({DEBUG_VARIABLE}=1 shows it at once)"
    )
