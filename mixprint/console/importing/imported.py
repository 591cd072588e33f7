"""Settings that were read from another program's project."""

from dataclasses import dataclass

from mixprint.console.settings import Settings


@dataclass(frozen=True)
class Imported:
    """Settings, and what was not understood.

    Attributes:
        settings: of all tracks and the master.
        notes: for a person: what was left out or read in another form.
    """

    settings: Settings
    notes: tuple[str, ...]
