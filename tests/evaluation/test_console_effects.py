"""What settings do: nothing for the true ones, and as much as was changed for others."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.console.settings import Settings
from mixprint.evaluation.console_effects import (
    EFFECTS,
    console_effects,
    effect_differences,
)
from mixprint.stems import SAMPLE_RATE_HZ

NAMES = ("a", "b")
TRUTH = Settings.neutral(NAMES).edit(
    {
        "a.eq.low.gain_db": 3.0,
        "a.comp.slope": 0.5,
        "a.comp.threshold_db": -30.0,
        "a.room.send_db": -12.0,
        "a.room.time_s": 1.0,
        "b.pan": 0.2,
        "master.comp.slope": 0.4,
        "master.comp.threshold_db": -20.0,
    }
)


@pytest.fixture(scope="module")
def tracks() -> Tensor:
    """Noise: the first in stereo, the second in mono."""
    generator = torch.Generator().manual_seed(0)
    noise_NCT = 0.1 * torch.randn(2, 2, SAMPLE_RATE_HZ, generator=generator)
    noise_NCT[1] = noise_NCT[1, :1]
    return noise_NCT


def compared(
    tracks_NCT: Tensor, changes: dict[str, Any], *, gain: float = 1.0, truth: Settings = TRUTH
) -> dict[str, Any]:
    expected = console_effects(tracks_NCT, truth, SAMPLE_RATE_HZ, 6_400)
    found = console_effects(gain * tracks_NCT, truth.edit(changes), SAMPLE_RATE_HZ, 6_400)
    return effect_differences(found, expected)


def test_true_settings_do_the_same(tracks: Tensor) -> None:
    found = compared(tracks, {})
    assert found.keys() == EFFECTS.keys()
    for name, values in found.items():
        for value in values:
            assert value is None or value == pytest.approx(0.0, abs=1e-6), name
    # A mono track without a room has no width and no reverb time.
    assert found["width"][1] is None
    assert found["time_percent"][1] is None
    assert found["time_percent"][0] == 0


def test_tracks_of_another_level_and_a_trim_are_the_same(tracks: Tensor) -> None:
    found = compared(tracks, {"a.trim_db": 6.0, "b.trim_db": 6.0}, gain=10 ** (-6 / 20))
    for name, values in found.items():
        for value in values:
            assert value is None or value == pytest.approx(0.0, abs=1e-3), name


@pytest.mark.parametrize(
    ("changes", "effect", "expected"),
    [
        ({"master.output_db": 2.0}, "level_db", [2.0, 2.0]),
        ({"a.pan": -0.3}, "pan", [0.3, 0.0]),
        ({"a.width": 1.4, "b.width": 0.2}, "width", [0.4, None]),
        ({"a.room.time_s": 1.2}, "time_percent", [20.0, None]),
        ({"a.room.send_db": -9.0}, "wet_db", [3.0, 0.0]),
        # A room that is too soft to hear is none.
        ({"b.room.send_db": -59.0}, "wet_db", [0.0, 0.0]),
    ],
    ids=str,
)
def test_a_change_is_measured_in_its_unit(
    tracks: Tensor, changes: dict[str, Any], effect: str, expected: list[float | None]
) -> None:
    for value, wanted in zip(compared(tracks, changes)[effect], expected, strict=True):
        assert (value is None) == (wanted is None)
        assert value is None or value == pytest.approx(wanted, abs=0.02)


def test_a_shelf_over_all_is_a_level_and_no_curve(tracks: Tensor) -> None:
    """Two shelves of 2 dB that meet raise everything by 2 dB, but for a dip between them."""
    raised = {"b.eq.low.gain_db": 2.0, "b.eq.low.freq_hz": 500.0}
    raised |= {"b.eq.high.gain_db": 2.0, "b.eq.high.freq_hz": 1_500.0}
    found = compared(tracks, raised, truth=TRUTH.edit({"master.comp.slope": 0.0}))
    assert found["level_db"][1] == pytest.approx(2.0, abs=0.5)
    assert found["eq_db"][1] < 0.4
    # A bell is a curve: of noise a sixth of the energy lies around 4 kHz.
    bell = compared(tracks, {"b.eq.bell3.gain_db": 6.0, "b.eq.bell3.freq_hz": 4_000.0})
    assert 1.5 < bell["eq_db"][1] < 4.0
    assert bell["eq_db"][0] == pytest.approx(0.0, abs=1e-6)


def test_reductions_are_those_of_track_and_master_together(tracks: Tensor) -> None:
    """Without either compressor what was taken away is missing; without one, the rest is there."""
    none = compared(tracks, {"a.comp.slope": 0.0, "master.comp.slope": 0.0})
    own = compared(tracks, {"a.comp.slope": 0.0})
    assert none["reduction_db"][0] > own["reduction_db"][0] > 3.0
    # The peaks of blocks of steady noise lie about 10 dB above its level of -20 dBFS and the
    # shelf's share: 20 dB over the threshold at a slope of a half.
    truth = console_effects(tracks, TRUTH.edit({"master.comp.slope": 0.0}), SAMPLE_RATE_HZ)
    steady_db = float(truth.reduction_db_NM[0].median())
    assert steady_db == pytest.approx(10.0, abs=1.5)
    assert truth.reduction_db_NM[1].abs().max() == 0
