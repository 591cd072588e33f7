"""Shared rooms: few rooms that many tracks are sent to, as hosts have them.

Tracks share a room where `rooms` is `sends` and their reverb times and band ratios are equal. A
send lies behind width, pan and fader; an insert before them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mixprint.console.settings import MAX_SHARED_ROOMS, ROOM_SHAPE, Settings, Strip


@dataclass(frozen=True)
class SharedRoom:
    """A room, and who is sent to it.

    Attributes:
        time_s: reverb time.
        low_ratio: that of low frequencies, in parts of it.
        high_ratio: that of high frequencies.
        send_db: track -> level of its send, behind its fader.
    """

    time_s: float
    low_ratio: float
    high_ratio: float
    send_db: Mapping[str, float]


def shared_rooms(settings: Settings) -> list[SharedRoom]:
    """Return the rooms that tracks are sent to, the longest first."""
    sends: dict[tuple[float, float, float], dict[str, float]] = {}
    for name, strip in settings.tracks.items():
        if not strip.is_neutral("room.send_db"):
            time_s, low_ratio, high_ratio = (strip[each] for each in ROOM_SHAPE)
            shape = time_s, low_ratio, high_ratio
            sends.setdefault(shape, {})[name] = strip["room.send_db"]
    return [
        SharedRoom(time_s, low_ratio, high_ratio, sends[time_s, low_ratio, high_ratio])
        for time_s, low_ratio, high_ratio in sorted(sends, reverse=True)
    ]


def with_shared_rooms(settings: Settings) -> tuple[Settings, list[str]]:
    """Turn rooms that are inserts into shared ones, at most `MAX_SHARED_ROOMS`.

    Reverb times are grouped so that the squares of their logarithms' errors, weighted by what is
    sent, are least. A send gets the power that the insert had behind width, pan and fader; where
    it came from, left or right, a shared room does not tell.

    Args:
        settings: with inserts; those with sends are returned as they are.

    Returns:
        the settings, and a sentence for each track whose room or send has changed.
    """
    if settings.rooms == "sends":
        return settings, []
    sent = {n: s for n, s in settings.tracks.items() if not s.is_neutral("room.send_db")}
    names = sorted(sent, key=lambda name: sent[name]["room.time_s"])
    weights = {name: 10 ** ((s["room.send_db"] + s["fader_db"]) / 10) for name, s in sent.items()}
    tracks = dict(settings.tracks)
    told = []
    same: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        same.setdefault(tuple(sent[name][each] for each in ROOM_SHAPE), []).append(name)
    are_few = len(same) <= MAX_SHARED_ROOMS
    groups = list(same.values()) if are_few else _groups(names, sent, weights)
    for group in groups:
        total = sum(weights[name] for name in group)
        shape = {
            each: math.exp(sum(weights[n] * math.log(sent[n][each]) for n in group) / total)
            for each in ROOM_SHAPE
        }
        for name in group:
            before = sent[name]
            send_db = before["room.send_db"] + _behind_fader_db(before)
            send_db = before.field("room.send_db").held(send_db)
            own = {each: before[each] for each in ROOM_SHAPE} if are_few else shape
            tracks[name] = before.with_values({**own, "room.send_db": send_db}, name)
            told += _told(name, before, tracks[name])
    return replace(settings, tracks=tracks, rooms="sends"), told


def _groups(
    names: Sequence[str], strips: Mapping[str, Strip], weights: Mapping[str, float]
) -> list[list[str]]:
    """Part names, in the order of their times, into a few groups of least error."""
    logs = [math.log(strips[name]["room.time_s"]) for name in names]
    heard = [weights[name] for name in names]

    def error(start: int, stop: int) -> float:
        total = sum(heard[start:stop])
        mean = sum(w * x for w, x in zip(heard[start:stop], logs[start:stop], strict=True)) / total
        return sum(
            w * (x - mean) ** 2 for w, x in zip(heard[start:stop], logs[start:stop], strict=True)
        )

    # best[stop]: least error of the first `stop` names, and where their groups begin.
    best: list[tuple[float, list[int]]] = [(0.0, []), *((math.inf, []) for _ in names)]
    for _ in range(MAX_SHARED_ROOMS):
        best = [
            min(
                [
                    best[stop],
                    *(
                        (best[start][0] + error(start, stop), [*best[start][1], start])
                        for start in range(stop)
                    ),
                ]
            )
            for stop in range(len(names) + 1)
        ]
    ends = [*best[-1][1], len(names)]
    return [list(names[start:stop]) for start, stop in pairwise(ends)]


def _behind_fader_db(strip: Strip) -> float:
    """Return what a send needs in addition where width and pan come before the room.

    The wet sound's channels have nothing in common, so width and balance change its power as they
    change that of its middle and side, of left and right. A shared room is fed with the middle of
    what is panned.
    """
    far = 1 - abs(strip["pan"])
    power = (1 + strip["width"] ** 2) / 2 * (1 + far**2) / 2
    return 10 * math.log10(power) - 20 * math.log10((1 + far) / 2)


def _told(name: str, before: Strip, after: Strip) -> list[str]:
    told = []
    time_s, shared_s = before["room.time_s"], after["room.time_s"]
    if abs(shared_s / time_s - 1) > 0.005:
        told.append(
            f"{name}: reverb time {shared_s:.2f} s in place of {time_s:.2f} s "
            f"({100 * (shared_s / time_s - 1):+.0f} %)"
        )
    for band in ("low", "high"):
        ratio, shared = (strip[f"room.{band}_ratio"] for strip in (before, after))
        if abs(shared / ratio - 1) > 0.005:
            told.append(f"{name}: {band} ratio of its room {shared:.2f} in place of {ratio:.2f}")
    change_db = after["room.send_db"] - before["room.send_db"]
    if abs(change_db) > 0.05:
        told.append(f"{name}: send {change_db:+.1f} dB, for it lies behind pan and width now")
    return told
