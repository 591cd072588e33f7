"""Shared rooms: grouping of reverb times, and sends that keep the wet sound's power."""

import math
from dataclasses import replace

import pytest
import torch

from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.console.sharing import SharedRoom, shared_rooms, with_shared_rooms
from mixprint.errors import ConfigError

RATE_HZ = 44_100


def sent(**times: float) -> Settings:
    neutral = Settings.neutral(list(times))
    return neutral.edit(
        {
            f"{name}.{key}": value
            for name, time_s in times.items()
            for key, value in (("room.send_db", -12.0), ("room.time_s", time_s))
        }
    )


def test_three_rooms_stay_as_they_are() -> None:
    settings = sent(a=0.5, b=1.0, c=2.0)
    found, told = with_shared_rooms(settings)
    assert found == replace(settings, rooms="sends")
    assert told == []
    assert with_shared_rooms(found) == (found, [])
    assert shared_rooms(found) == [
        SharedRoom(2.0, 1.0, 1.0, {"c": -12.0}),
        SharedRoom(1.0, 1.0, 1.0, {"b": -12.0}),
        SharedRoom(0.5, 1.0, 1.0, {"a": -12.0}),
    ]


def test_near_reverb_times_are_grouped_by_what_is_sent() -> None:
    settings = sent(a=0.5, b=1.0, c=1.2, d=3.0).edit({"b.room.send_db": -6.0})
    found, told = with_shared_rooms(settings)
    # b is sent with four times the power of c.
    weight = 10 ** (-0.6) + 10 ** (-1.2)
    expected_s = math.exp(10 ** (-1.2) * math.log(1.2) / weight)
    assert [room.time_s for room in shared_rooms(found)] == pytest.approx([3.0, expected_s, 0.5])
    assert [sentence.partition(":")[0] for sentence in told] == ["b", "c"]


def test_rooms_of_one_time_and_other_bands_stay_two() -> None:
    settings = sent(a=1.0, b=1.0).edit({"a.room.low_ratio": 2.0, "b.room.low_ratio": 0.5})
    assert with_shared_rooms(settings) == (replace(settings, rooms="sends"), [])
    more = sent(a=1.0, b=1.0, c=2.0, d=3.0).edit({"a.room.low_ratio": 4.0})
    found, told = with_shared_rooms(more)
    assert found["a.room.low_ratio"] == found["b.room.low_ratio"] == pytest.approx(2.0)
    assert [sentence.partition(":")[0] for sentence in told] == ["a", "b"]


def test_no_sends_need_no_room() -> None:
    neutral = Settings.neutral(["a", "b"])
    assert with_shared_rooms(neutral) == (replace(neutral, rooms="sends"), [])
    assert shared_rooms(neutral) == []


def test_what_is_not_sent_needs_no_room() -> None:
    settings = sent(a=0.5, b=1.0, c=2.0, d=3.0, e=4.0)
    settings = settings.edit({"a.room.send_db": -60.0, "b.room.send_db": -60.0})
    found, told = with_shared_rooms(settings)
    assert told == []
    assert found["a.room.time_s"] == 0.5


def test_too_many_shared_rooms_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"room: expected at most 3 different rooms .* found 4"):
        replace(sent(a=0.5, b=1.0, c=2.0, d=3.0), rooms="sends")


@pytest.mark.parametrize(("width", "pan"), [(1.0, 0.0), (0.3, 0.0), (1.0, -0.7), (1.6, 0.4)])
def test_the_wet_sound_keeps_its_power(width: float, pan: float) -> None:
    click_NCT = torch.zeros(1, 2, RATE_HZ)
    click_NCT[..., 10] = 1.0
    inserts = sent(a=1.0).edit({"a.width": width, "a.pan": pan})
    sends, _ = with_shared_rooms(inserts)
    dry_NCT = render(click_NCT, inserts.edit({"a.room.send_db": -60.0}), RATE_HZ)
    powers = [
        (render(click_NCT, settings, RATE_HZ) - dry_NCT).square().sum()
        for settings in (inserts, sends)
    ]
    assert 10 * abs(math.log10(powers[0] / powers[1])) < 0.5
