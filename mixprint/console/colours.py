"""Colours of tracks: the same on the page and in projects for other programs."""

from collections.abc import Iterable

from mixprint.pages.colours import PALETTE

# Black would not be seen on a dark page.
_COLOURS = PALETTE[:-1]


def track_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour of each track, as `#RRGGBB`."""
    return {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
