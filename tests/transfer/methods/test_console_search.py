"""Search for settings of a console: what is looked for."""

import pytest

from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings
from mixprint.transfer.methods.console_search import MASTER_SPREADS, TRACK_SPREADS, knobs_around


def test_a_prediction_is_trusted_within_bounds() -> None:
    """By half of how far settings move between styles at least, and by all of it at most."""
    spread = {
        "vocals": {"fader_db": 0.1, "pan": 0.75 * TRACK_SPREADS["pan"], "width": 9.0},
        "bass": {"fader_db": 0.1},
        MASTER: {"output_db": 0.0},
    }
    knobs = knobs_around(Settings.neutral(["vocals", "bass"]), spread, left_alone=["bass"])
    found = {f"{knob.strip}.{knob.field.name}": knob.spread for knob in knobs}
    assert found["vocals.fader_db"] == pytest.approx(0.5 * TRACK_SPREADS["fader_db"])
    assert found["vocals.pan"] == pytest.approx(0.75 * TRACK_SPREADS["pan"])
    assert found["vocals.width"] == TRACK_SPREADS["width"]
    # Of what the prediction does not name the usual spread.
    assert found["vocals.comp.slope"] == TRACK_SPREADS["comp.slope"]
    assert found["master.output_db"] == pytest.approx(0.5 * MASTER_SPREADS["output_db"])
    assert len(found) == len(TRACK_SPREADS) + len(MASTER_SPREADS)
