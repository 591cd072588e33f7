"""Settings that were read from a file of another program."""

from dataclasses import dataclass

from mixprint.console.settings import Settings


@dataclass(frozen=True)
class Imported:
    """Settings that were read.

    Attributes:
        settings: what was understood.
        notes: what was not, or is meant in another way, in sentences.
    """

    settings: Settings
    notes: tuple[str, ...]
