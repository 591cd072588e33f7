"""Comparison of settings by their effects."""

import pytest
import torch

from mixprint.console.settings import Settings
from mixprint.errors import ConfigError
from mixprint.evaluation.console_comparison import compare, table
from tests.console.test_rendering import RATE_HZ, tracks

NEUTRAL = Settings.neutral(("a", "b"))


def differences(found: Settings, true: Settings) -> dict[str, float]:
    """Effects on track a that differ."""
    dry_NCT = tracks(1, RATE_HZ, 2)
    dry_NCT[1] = dry_NCT[1, :1]  # both sides alike
    effects = compare(dry_NCT, found, true, RATE_HZ)
    assert "width" not in {each.name for each in effects if each.track == "b"}
    return {each.name: each.difference for each in effects if each.difference > 0.01}


def test_the_same_sound_by_other_numbers_is_the_same() -> None:
    true = NEUTRAL.edit({"a.fader_db": -6.0, "a.pan": 0.5, "b.comp.slope": 0.5})
    found = true.edit({"a.trim_db": -4.0, "a.fader_db": -2.0, "a.eq.low.freq_hz": 300.0})
    assert differences(found, true) == {}
    # In any order.
    turned = Settings(dict(reversed(found.tracks.items())))
    assert differences(turned, true) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"a.fader_db": -3.0}, {"level in the mix": 3.0}),
        ({"a.pan": 0.5}, {"level in the mix": 2.0, "pan": 0.5}),
        ({"a.room.send_db": -50.0}, {}),
        ({"a.room.send_db": -30.0}, {"room send": 30.0}),
    ],
)
def test_each_effect_is_measured(changes: dict[str, float], expected: dict[str, float]) -> None:
    found = differences(NEUTRAL.edit(changes), NEUTRAL)
    assert found.keys() - {"level in the mix"} == expected.keys() - {"level in the mix"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.1)


def test_tone_is_told_from_level_and_compression() -> None:
    found = differences(NEUTRAL.edit({"a.eq.high.gain_db": 6.0}), NEUTRAL)
    # The curve lies as much higher at 8 kHz as a shelf of 6 dB above 6 kHz has risen there.
    assert 3.0 < found["tone at 8000 Hz"] + found["tone at 1000 Hz"] < 6.0
    assert found["tone at 100 Hz"] == pytest.approx(found["tone at 1000 Hz"], abs=0.1)
    assert "compression" not in found
    squeezed = {"a.comp.slope": 0.5, "a.comp.threshold_db": -60.0}
    assert differences(NEUTRAL.edit(squeezed), NEUTRAL)["compression"] > 10.0


def test_the_table_and_other_tracks() -> None:
    effects = compare(torch.zeros(2, 2, 2_000), NEUTRAL, NEUTRAL, RATE_HZ)
    assert ("a", "pan", "0.00", "0.00") in table(effects)
    assert ("b", "level in the mix, dBFS", "-120.0", "-120.0") in table(effects)
    with pytest.raises(ConfigError, match="expected those of the tracks a, b, found those of b, c"):
        compare(torch.zeros(2, 2, 9), Settings.neutral(["b", "c"]), NEUTRAL, RATE_HZ)
