"""Learn what a mix sounds like, and give one song the mix of another.

The functions for programs are here: `separate`, `measure`, `embed` and `transfer_style`, and those
of the mixing console, `recover`, `render` and `mix`, with their `Settings`, `describe`, and
`process_vocal` and `AudioProcessor` for single voices. What they need is imported
when the first of them is asked for.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixprint.api.console import Mixed, Recovered, mix, recover, render
    from mixprint.api.description import Description, describe
    from mixprint.api.songs import embed, measure, separate
    from mixprint.api.transfers import Transferred, transfer_style
    from mixprint.api.vocals import AudioProcessor, ProcessedVocal, process_vocal
    from mixprint.console.settings import Settings

__all__ = [
    "AudioProcessor",
    "Description",
    "Mixed",
    "ProcessedVocal",
    "Recovered",
    "Settings",
    "Transferred",
    "__version__",
    "describe",
    "embed",
    "measure",
    "mix",
    "process_vocal",
    "recover",
    "render",
    "separate",
    "transfer_style",
]

_HOMES = {
    "embed": "mixprint.api.songs",
    "measure": "mixprint.api.songs",
    "Description": "mixprint.api.description",
    "describe": "mixprint.api.description",
    "mix": "mixprint.api.console",
    "process_vocal": "mixprint.api.vocals",
    "recover": "mixprint.api.console",
    "render": "mixprint.api.console",
    "separate": "mixprint.api.songs",
    "AudioProcessor": "mixprint.api.vocals",
    "Mixed": "mixprint.api.console",
    "ProcessedVocal": "mixprint.api.vocals",
    "Recovered": "mixprint.api.console",
    "Settings": "mixprint.console.settings",
    "Transferred": "mixprint.api.transfers",
    "transfer_style": "mixprint.api.transfers",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # A copy of the sources that is not installed has none, and works.
        return version("mixprint")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
