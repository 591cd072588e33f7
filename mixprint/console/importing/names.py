"""Names of tracks in other programs, made names of the console's."""

import unicodedata
from collections.abc import Iterable

from mixprint.console.schema import MASTER
from mixprint.console.settings import MAX_NAME_LENGTH
from mixprint.schema import shortened
from mixprint.text import printable

# Room for a number behind a name.
_NUMBER_LENGTH = 8


def console_names(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return a name for each track that settings take, and notes on those that were changed.

    Dots separate a track from its settings, `master` is the master, and names differ. Accents are
    written as in the names of files at hand (NFC).
    """
    found: list[str] = []
    notes = []
    for place, name in enumerate(names, start=1):
        plain = (
            printable(unicodedata.normalize("NFC", name)).strip().replace(".", "_")
            or f"track {place}"
        )
        plain = plain[: MAX_NAME_LENGTH - _NUMBER_LENGTH] if len(plain) > MAX_NAME_LENGTH else plain
        wanted, number = f"{plain} track" if plain == MASTER else plain, 1
        while wanted in found:
            number += 1
            wanted = f"{plain[: MAX_NAME_LENGTH - _NUMBER_LENGTH]} {number}"
        if wanted != name:
            notes.append(f"track {place}, {shortened(name)}, is called {wanted!r}")
        found.append(wanted)
    return found, notes
