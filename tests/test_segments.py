import pytest

from mixprint.errors import AudioError
from mixprint.segments import segment_starts


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
