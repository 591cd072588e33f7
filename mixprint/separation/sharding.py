"""A song of a collection, on its way from the separator into a stem shard.

Shape suffixes: S stem, C channel, T sample.
"""

from torch import Tensor

from mixprint.collection.segments import SegmentCutter
from mixprint.collection.shards import StemShardWriter
from mixprint.errors import AudioError
from mixprint.separation.nulltest import NullTest, StemLevels


class ShardedSong:
    """Takes a separated song piece by piece and adds its segments to a shard.

    Memory holds one segment and one piece, however long the song is.
    """

    def __init__(
        self, writer: StemShardWriter, track_id: str, *, segment_s: float, sample_rate_hz: int
    ) -> None:
        """Begin a song.

        Args:
            writer: takes the segments.
            track_id: the song.
            segment_s: length of a segment in seconds.
            sample_rate_hz: of the pieces.
        """
        self._writer, self._track_id = writer, track_id
        self._cutter = SegmentCutter(segment_s, sample_rate_hz)
        self._null_test, self._levels = NullTest(), StemLevels()

    def add(self, mixture_CT: Tensor, stems_SCT: Tensor) -> None:
        """Take the next piece, as `Separator.stream` gives it.

        Raises:
            AudioError: a sample is NaN or infinite (``not_finite``).
        """
        if not stems_SCT.isfinite().all():
            raise AudioError(
                "not_finite",
                f"track {self._track_id}: expected finite stems of the separator, found NaN or an "
                "infinity",
            )
        self._null_test.add(stems_SCT, mixture_CT)
        self._levels.add(stems_SCT)
        for segment, start_s, segment_SCT in self._cutter.add(stems_SCT):
            self._writer.write(self._track_id, segment, start_s, segment_SCT)

    def finish(self) -> None:
        """End the song: write what is left, and put the null test into the shard's marker.

        `clipped_samples` counts the stems' samples beyond full scale. The segments hold them in
        full, each with its gain.

        Raises:
            AudioError: the song is shorter than a segment (``too_short``).
        """
        for segment, start_s, segment_SCT in self._cutter.finish():
            self._writer.write(self._track_id, segment, start_s, segment_SCT)
        self._writer.report(
            self._track_id,
            {
                # Sums over pieces: their last digits depend on the pieces, so on the batch size.
                "null_depth_db": round(self._null_test.depth_db, 2),
                "clipped_samples": self._levels.num_clipped,
            },
        )
