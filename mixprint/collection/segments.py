"""Cuts of a song into segments of equal length.

Shape suffixes: S stem, C channel, T sample.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mixprint.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

MIN_REST_S = 1.0
# Durations come from sample counts divided by a rate: 30.0 may read 29.999999999.
TOLERANCE_S = 1.0e-6

# Index of the segment, its start in seconds, and its stems_SCT.
Segment = tuple[int, float, "Tensor"]


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
    num_whole = _num_whole(duration_s, segment_s)
    if num_whole == 0:
        raise AudioError(
            "too_short", f"expected at least one segment of {segment_s} s, found {duration_s:.3f} s"
        )
    starts = [index * segment_s for index in range(num_whole)]
    if duration_s - num_whole * segment_s >= MIN_REST_S - TOLERANCE_S:
        starts.append(duration_s - segment_s)
    return starts


class SegmentCutter:
    """Cuts a song that comes in pieces where `segment_starts` would cut the whole.

    How long the song is need not be known: beside the piece that came last, only the length of
    one segment is held, because the last segment may have to be aligned with the song's end.
    """

    def __init__(self, segment_s: float, sample_rate_hz: int) -> None:
        """Start a song.

        Args:
            segment_s: length of every segment in seconds.
            sample_rate_hz: rate of the pieces in Hz.
        """
        self._segment_s, self._sample_rate_hz = segment_s, sample_rate_hz
        self._num_samples = round(segment_s * sample_rate_hz)
        self._held_SCT: Tensor | None = None
        self._end = 0  # of what has come
        self._index = 0  # of the next segment

    def add(self, stems_SCT: "Tensor") -> "Iterator[Segment]":
        """Take the next piece.

        Args:
            stems_SCT: consecutive with the last one, of any length.

        Yields:
            the segments that are whole now. Take all of them before the next piece.
        """
        import torch

        held_SCT = stems_SCT
        if self._held_SCT is not None:
            held_SCT = torch.cat([self._held_SCT, stems_SCT], dim=-1)
        self._end += stems_SCT.shape[-1]
        begin = self._end - held_SCT.shape[-1]
        # Where a segment is no whole number of samples, rounding may need one sample more.
        while (
            self._index < _num_whole(self._end / self._sample_rate_hz, self._segment_s)
            and (first := self._next_first) + self._num_samples <= self._end
        ):
            start_s = self._index * self._segment_s
            yield self._index, start_s, held_SCT[..., first - begin :][..., : self._num_samples]
            self._index += 1
        needed = min(self._next_first, self._end - self._num_samples)
        # A copy, so that what is held does not keep the memory of what is done.
        self._held_SCT = held_SCT[..., max(needed - begin, 0) :].clone()

    def finish(self) -> "Iterator[Segment]":
        """End the song.

        Yields:
            the segments that were left.

        Raises:
            AudioError: the song is shorter than one segment (``too_short``).
        """
        starts_s = segment_starts(self._end / self._sample_rate_hz, self._segment_s)
        for start_s in starts_s[self._index :]:
            assert self._held_SCT is not None
            # The last start is a rounded quotient; it must not reach beyond the song's end.
            first = min(round(start_s * self._sample_rate_hz), self._end - self._num_samples)
            offset = first - (self._end - self._held_SCT.shape[-1])
            yield self._index, start_s, self._held_SCT[..., offset : offset + self._num_samples]
            self._index += 1

    @property
    def _next_first(self) -> int:
        """First sample of the next segment, unless it has to be aligned with the end."""
        return round(self._index * self._segment_s * self._sample_rate_hz)


def _num_whole(duration_s: float, segment_s: float) -> int:
    return math.floor((duration_s + TOLERANCE_S) / segment_s)
