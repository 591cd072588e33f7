"""Where a song is cut into segments of equal length."""

import math

from mixprint.errors import AudioError

MIN_REST_S = 1.0
# Durations come from sample counts divided by a rate: 30.0 may read 29.999999999.
TOLERANCE_S = 1.0e-6


def segment_starts(duration_s: float, segment_s: float) -> list[float]:
    """Cut a song into whole segments, never padded.

    Segments follow each other without gaps. If at least `MIN_REST_S` remains at the end, one
    more segment is aligned with the end of the song and overlaps its predecessor, so that the
    last bars of a song count too; a shorter rest is left out.

    Args:
        duration_s: length of the song in seconds.
        segment_s: length of every segment in seconds.

    Returns:
        the start of each segment in seconds, ascending.

    Raises:
        ValueError: segment_s is not positive, or duration_s not finite.
        AudioError: the song is shorter than one segment (``too_short``).
    """
    if not (segment_s > 0 and math.isfinite(segment_s) and math.isfinite(duration_s)):
        raise ValueError(f"need finite values, segment_s > 0; got {duration_s=}, {segment_s=}")
    num_whole = math.floor((duration_s + TOLERANCE_S) / segment_s)
    if num_whole == 0:
        raise AudioError(
            "too_short", f"expected at least one segment of {segment_s} s, found {duration_s:.3f} s"
        )
    starts = [index * segment_s for index in range(num_whole)]
    if duration_s - num_whole * segment_s >= MIN_REST_S - TOLERANCE_S:
        starts.append(duration_s - segment_s)
    return starts
