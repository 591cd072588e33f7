"""The tracks of a split, each with its segments."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SegmentRef

log = logging.getLogger("mixprint.collection")

ROUNDING_S = 1e-6  # of the times at which segments start


@dataclass(frozen=True)
class TrackSegments:
    """The segments of one track, in order of time.

    Attributes:
        track_id: the track.
        song: what it is a mix of.
        references: its segments.
        style: its known style, or empty.
    """

    track_id: str
    song: str
    references: tuple[SegmentRef, ...]
    style: str = ""


def tracks_of_split(
    references: Iterable[SegmentRef], tracks: Iterable[Track], split: str
) -> list[TrackSegments]:
    """Gather the segments of each track of a split.

    Args:
        references: all segments of the shards.
        tracks: the catalogue.
        split: `train`, `valid` or `test`.

    Returns:
        tracks with at least two segments, sorted by track id: one segment has no positive.
    """
    by_track: dict[str, list[SegmentRef]] = defaultdict(list)
    for reference in references:
        by_track[reference.track_id].append(reference)
    found = [
        TrackSegments(
            track.track_id,
            track.song,
            tuple(sorted(by_track[track.track_id], key=lambda r: r.segment)),
            track.style,
        )
        for track in sorted(tracks, key=lambda t: t.track_id)
        if track.split == split and track.track_id in by_track
    ]
    usable = [track for track in found if len(track.references) > 1]
    if len(usable) < len(found):
        log.warning(
            "%s: %d of %d tracks left out, they have one segment only",
            split,
            len(found) - len(usable),
            len(found),
        )
    return usable


def overlapping(a: SegmentRef, b: SegmentRef, segment_s: float) -> bool:
    """Tell whether two segments of one track share audio."""
    return abs(a.start_s - b.start_s) < segment_s - ROUNDING_S
