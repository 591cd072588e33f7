"""Text for people: what files, tables and tags say, made safe for a terminal and a line.

A title, a tag or a file's name may hold escape sequences that a terminal obeys, marks that turn
the direction of what follows, and bytes that are no text, which no stream in UTF-8 takes.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

NUM_FINDINGS_SHOWN = 5

# Characters of these categories move the cursor, begin sequences, or are half a character.
_ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "") -> str:
    r"""Escape what a terminal would obey or cannot show; all other text stays as it is.

    Args:
        text: any.
        keep: characters that stay, such as line breaks in a traceback.

    Returns:
        valid Unicode: an escape character reads ``\x1b``, and a byte of a name that is no text
        ``\udce9``, which JSON takes for the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if _is_odd(c) and c not in keep else c for c in text)


def shown(path: Path | str) -> str:
    r"""Return a path as `printable` text; a byte that is no text reads ``\xe9``."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _is_odd(character: str) -> bool:
    return unicodedata.category(character) in _ESCAPED or character in _DIRECTIONS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def first_of(findings: Sequence[str], separator: str = "; ") -> str:
    """Join the first findings, and say how many there are beyond them."""
    more = len(findings) - NUM_FINDINGS_SHOWN
    rest = [f"and {more} more"] if more > 0 else []
    return separator.join([*findings[:NUM_FINDINGS_SHOWN], *rest])
