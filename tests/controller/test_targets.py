import pytest
import torch

from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS
from mixprint.console.settings import Settings
from mixprint.controller.targets import MASTER, TRACK, Targets

CHANGES = {
    "a.trim_db": -3.0,
    "a.eq.low.gain_db": 4.0,
    "a.eq.low.freq_hz": 90.0,
    "a.comp.slope": 0.6,
    "a.comp.attack_ms": 3.0,
    "a.pan": -0.4,
    "b.room.send_db": -14.0,
    "b.room.time_s": 2.5,
    "b.fader_db": 24.0,
    "master.eq.bell2.gain_db": -2.0,
}


def test_the_layouts_follow_from_the_tables() -> None:
    assert TRACK.gates == ("eq", "comp", "drive", "room")
    assert MASTER.gates == ("eq", "comp")
    assert len(TRACK.fields) == len(TRACK_FIELDS) - 1
    assert MASTER.fields == MASTER_FIELDS
    for layout in (TRACK, MASTER):
        places = sorted(place for each in layout.processors for place in each.places)
        assert places == list(range(len(layout.fields)))


def test_settings_come_back_from_positions_and_gates() -> None:
    settings = Settings.neutral(["a", "b"]).edit(CHANGES)
    targets = Targets.of(settings)
    assert targets.track_gate_NG.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert targets.master_gate_G.tolist() == [1, 0]
    found = targets.settings(["a", "b"], [-3.0, 0.0], 44_100)
    for name, strip in settings.strips().items():
        for field, value in strip.items():
            assert found[f"{name}.{field.name}"] == pytest.approx(value, rel=1e-5, abs=1e-4)


def test_a_closed_gate_is_neutral_to_the_bit_and_a_half_open_one_half_way() -> None:
    targets = Targets.of(Settings.neutral(["a", "b"]).edit(CHANGES))
    half = Targets(
        targets.track_NK,
        torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0] * 4]),
        targets.master_K,
        torch.zeros(2),
    )
    found = half.settings(["a", "b"], [0.0, 0.0], 44_100)
    assert found["a.eq.low.gain_db"] == pytest.approx(2.0, abs=1e-4)
    assert found["a.comp.slope"] == found["b.eq.highpass_hz"] - 10.0 == 0.0
    assert found["b.room.send_db"] == -60.0
    assert found["master.eq.bell2.gain_db"] == 0.0
    # What has no gate stays.
    assert found["a.pan"] == pytest.approx(-0.4, abs=1e-6)


def test_positions_beyond_a_range_are_held_and_find_back() -> None:
    position_NK = TRACK.neutral_K[None].clone() + 2.0
    position_NK.requires_grad_()
    values = TRACK.values(position_NK)
    assert values["fader_db"].tolist() == [24.0]
    sum(value_N.sum() for value_N in values.values()).backward()
    assert position_NK.grad is not None
    assert position_NK.grad.isfinite().all()
    assert (position_NK.grad != 0).all()


def test_a_spread_is_given_in_units() -> None:
    position_K = TRACK.positions(list(Settings.neutral(["a"]).tracks.values()))[0]
    spread = TRACK.spreads(position_K, torch.full_like(position_K, 0.05))
    assert spread["eq.low.gain_db"] == pytest.approx(0.05 * 30.0, rel=1e-4)
    # At the end of its range a cut can only go one way.
    assert spread["eq.highpass_hz"] == pytest.approx((100.0**0.05 - 1) * 10.0 / 2, rel=1e-4)
