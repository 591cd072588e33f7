"""The mixing console: settings in units, what they do to tracks, and how they are found.

`process_vocal` and `AudioProcessor` are found here, too. They need a network above the console, so
they stand in `mixprint.api.vocals`, which is imported when one of them is asked for.
"""

from importlib import import_module
from typing import Any

_HOME = "mixprint.api.vocals"
_FOUND_THERE = ("AudioProcessor", "process_vocal")


def __getattr__(name: str) -> Any:
    if name in _FOUND_THERE:
        return getattr(import_module(_HOME), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
