import pytest
import torch
from torch import Tensor

from mixprint.collection.segments import SegmentCutter, segment_starts
from mixprint.errors import AudioError


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (10.0, [0.0]),
        (10.9, [0.0]),  # a rest below 1 s is left out
        (11.0, [0.0, 1.0]),  # aligned with the end
        (20.0, [0.0, 10.0]),
        (24.0, [0.0, 10.0, 14.0]),
        (29.9999999, [0.0, 10.0, 20.0]),  # 30 s up to rounding
    ],
)
def test_starts(duration_s: float, expected: list[float]) -> None:
    assert segment_starts(duration_s, 10.0) == pytest.approx(expected)


def test_no_segment_reaches_beyond_the_end() -> None:
    for num_frames in (441_000, 485_099, 485_100, 1_000_001, 5_864_815):
        for start_s in segment_starts(num_frames / 44_100, 10.0):
            assert round(start_s * 44_100) + 441_000 <= num_frames


def test_too_short_is_refused_and_not_padded() -> None:
    with pytest.raises(AudioError, match=r"9\.900 s") as caught:
        segment_starts(9.9, 10.0)
    assert caught.value.reason == "too_short"


@pytest.mark.parametrize("values", [(10.0, 0.0), (float("inf"), 10.0), (float("nan"), 10.0)])
def test_senseless_values(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        segment_starts(*values)


def cut_by_pieces(
    song_SCT: Tensor, piece: int, segment_s: float
) -> list[tuple[int, float, Tensor]]:
    cutter = SegmentCutter(segment_s, 100)
    found = [segment for part_SCT in song_SCT.split(piece, -1) for segment in cutter.add(part_SCT)]
    return found + list(cutter.finish())


@pytest.mark.parametrize("piece", [1, 7, 40, 1_000])
@pytest.mark.parametrize(
    ("num_samples", "segment_s"),
    [
        (100, 1.0),
        (239, 1.0),  # a rest that becomes a segment of its own, aligned with the end
        (205, 1.0),  # and one that is left out
        (300, 1.0),
        (100, 0.333),  # no whole number of samples
        (401, 1.0049),
    ],
)
def test_pieces_are_cut_as_the_whole_would_be(
    monkeypatch: pytest.MonkeyPatch, num_samples: int, segment_s: float, piece: int
) -> None:
    monkeypatch.setattr("mixprint.collection.segments.MIN_REST_S", 0.1)
    song_SCT = torch.arange(num_samples).expand(4, 2, -1)
    length = round(segment_s * 100)
    cut = cut_by_pieces(song_SCT, piece, segment_s)
    assert [index for index, _, _ in cut] == list(range(len(cut)))
    assert [start_s for _, start_s, _ in cut] == segment_starts(num_samples / 100, segment_s)
    for _, start_s, segment_SCT in cut:
        first = min(round(start_s * 100), num_samples - length)
        assert torch.equal(segment_SCT, song_SCT[..., first : first + length])


def test_what_is_held_does_not_grow_with_the_song() -> None:
    cutter = SegmentCutter(1.0, 100)
    segments = [segment for _ in range(50) for segment in cutter.add(torch.zeros(4, 2, 30))]
    assert len(segments) == 15
    most = max(segment_SCT.untyped_storage().nbytes() for _, _, segment_SCT in segments)
    assert most <= (100 + 100 + 30) * 4 * 2 * 4


def test_pieces_that_are_no_song() -> None:
    with pytest.raises(AudioError, match=r"0\.000 s"):
        list(SegmentCutter(1.0, 100).finish())
    with pytest.raises(AudioError, match=r"0\.990 s"):
        cut_by_pieces(torch.zeros(4, 2, 99), 10, 1.0)
