"""Impulse responses: convolved with a track they give what the console gives."""

import math

import torch
from scipy.signal import fftconvolve

from mixprint.console.export.impulse import impulses
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from tests.console.test_rendering import RATE_HZ, error_db, tracks


def test_a_track_through_its_impulse_response_is_the_rendered_one() -> None:
    settings = Settings.neutral(("a", "b")).edit(
        {
            "a.eq.low.gain_db": 4.0,
            "a.eq.highpass_hz": 50.0,
            "b.eq.bell1.gain_db": -6.0,
            "b.room.send_db": -6.0,
            "b.room.time_s": 0.6,
        }
    )
    dry_NCT = tracks(1, RATE_HZ, 2)
    dry_NCT[:, 1] = dry_NCT[:, 0]  # mono: what is sent to the room is the track itself
    expected_NCT = render(dry_NCT, settings, RATE_HZ)
    found = impulses(settings, RATE_HZ)
    assert {name: set(each) for name, each in found.items()} == {
        "a": {"eq"},
        "b": {"eq", "room", "eq and room"},
    }
    for name, kind, dry_CT, expected_CT in (
        ("a", "eq", dry_NCT[0], expected_NCT[0]),
        ("b", "eq and room", dry_NCT[1], expected_NCT[1]),
    ):
        impulse_CK = found[name][kind].expand(2, -1)
        made_CT = torch.from_numpy(fftconvolve(dry_CT.numpy(), impulse_CK.numpy(), axes=-1))
        assert error_db(made_CT[:, :RATE_HZ], expected_CT) < -90


def test_an_impulse_response_ends_where_nothing_is_heard() -> None:
    settings = Settings.neutral(["a"]).edit({"a.room.send_db": 0.0, "a.room.time_s": 0.5})
    room_CK = impulses(settings, RATE_HZ)["a"]["room"]
    seconds = room_CK.shape[-1] / RATE_HZ
    assert 0.7 < seconds < 1.0
    assert impulses(settings, RATE_HZ)["a"]["eq"].shape[-1] == 1
    rest = float(room_CK[:, -1_000:].abs().max()) / float(room_CK.abs().max())
    assert 20 * math.log10(rest) < -60
