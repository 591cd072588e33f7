"""Settings that were read from another program's project."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixprint.console.settings import Settings
from mixprint.text import printable

_MAX_NOTES, _MAX_NOTE_LENGTH = 200, 300


@dataclass(frozen=True)
class Imported:
    """Settings, and what was not understood.

    Attributes:
        settings: of all tracks and the master.
        notes: for a person: what was left out or read in another form.
    """

    settings: Settings
    notes: tuple[str, ...]


def imported(settings: Settings, notes: Sequence[str]) -> Imported:
    """Return settings with notes that a terminal can show: printable, not too long or too many."""
    shown = [printable(note) for note in notes[:_MAX_NOTES]]
    shown = [n if len(n) <= _MAX_NOTE_LENGTH else f"{n[:_MAX_NOTE_LENGTH]}..." for n in shown]
    if len(notes) > _MAX_NOTES:
        shown.append(f"and {len(notes) - _MAX_NOTES} more")
    return Imported(settings, tuple(shown))
