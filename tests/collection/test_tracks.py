from pathlib import Path

from mixprint.collection.shards import SegmentRef
from mixprint.collection.tracks import tracks_of_split
from tests.encoder.conftest import make_track


def segments(track_id: str, *numbers: int) -> list[SegmentRef]:
    return [SegmentRef(Path("shard"), 0, track_id, number, 10.0 * number) for number in numbers]


def test_the_split_is_respected_and_single_segments_are_left_out() -> None:
    tracks = [
        make_track("b0", "b", "train"),
        make_track("a0", "a", "train"),
        make_track("a1", "a", "train"),
        make_track("c0", "c", "valid"),
    ]
    references = [
        *segments("a0", 1, 0),
        *segments("a1", 0),
        *segments("b0", 0, 1),
        *segments("c0", 0, 1),
        *segments("unlisted", 0, 1),
    ]
    train = tracks_of_split(references, tracks, "train")
    assert [(t.track_id, t.song) for t in train] == [("a0", "a"), ("b0", "b")]
    assert all([r.segment for r in t.references] == [0, 1] for t in train)
    assert [t.track_id for t in tracks_of_split(references, tracks, "valid")] == ["c0"]
