"""Colours of tracks, for programs that show them."""

import colorsys
from collections.abc import Iterable

# Neighbours on the circle of hues are far apart, however many tracks there are.
_GOLDEN_ANGLE = 0.381966
_SATURATION, _BRIGHTNESS = 0.55, 0.85


def track_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour of each track, as `#rrggbb`."""
    colours = {}
    for place, name in enumerate(names):
        rgb = colorsys.hsv_to_rgb(place * _GOLDEN_ANGLE % 1.0, _SATURATION, _BRIGHTNESS)
        colours[name] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return colours
