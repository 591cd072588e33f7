"""Settings in words."""

from pathlib import Path

import pytest

from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.console.words import in_words, markdown
from mixprint.errors import DataError
from mixprint.storage.atomic import read_json, write_json


def test_settings_are_said_in_the_order_of_the_sound() -> None:
    settings = Settings.neutral(["vocals", "bass"]).edit(
        {
            "vocals.trim_db": 3.0,
            "vocals.eq.highpass_hz": 80.0,
            "vocals.eq.high.gain_db": 2.1,
            "vocals.eq.high.freq_hz": 5_000.0,
            "vocals.eq.bell1.gain_db": -3.0,
            "vocals.comp.slope": 2 / 3,
            "vocals.comp.threshold_db": -24.0,
            "vocals.room.send_db": -12.0,
            "vocals.room.time_s": 1.5,
            "vocals.room.high_ratio": 0.4,
            "vocals.pan": -0.2,
            "vocals.fader_db": -1.5,
            "master.comp.slope": -0.5,
            "master.output_db": 1.0,
        }
    )
    assert in_words(settings) == {
        "vocals": [
            "brought to its working level by +3.0 dB",
            "cut below 80 Hz",
            "-3.0 dB at 250 Hz, Q 1.0",
            "+2.1 dB shelf above 5 kHz",
            "compressed 3.0:1 above -24.0 dBFS, attack 10 ms, release 150 ms, knee 6.0 dB",
            "in a room of 1.5 s, sent at -12.0 dB, 0.6 s above 4 kHz",
            "20 % to the left",
            "fader at -1.5 dB",
        ],
        "bass": [],
        "master": [
            "expanded 1:1.5 above -20.0 dBFS, attack 10 ms, release 150 ms, knee 6.0 dB",
            "output at +1.0 dB",
        ],
    }
    sheet = markdown(settings)
    assert "## bass\n\n- nothing\n" in sheet
    assert "- +2.1 dB shelf above 5 kHz\n" in sheet


def test_a_room_is_said_as_far_as_it_is_heard() -> None:
    for send_db, said in (
        (-30.0, ["in a room of 2 s, sent at -30.0 dB"]),
        (-30.1, ["faintly in a room, sent at -30.1 dB"]),
        (-40.0, ["faintly in a room, sent at -40.0 dB"]),
        (-40.1, []),
    ):
        room = {"vocals.room.send_db": send_db, "vocals.room.time_s": 2.0}
        assert in_words(Settings.neutral(["vocals"]).edit(room))["vocals"] == said


def test_a_prediction_is_said_with_its_spread_until_it_is_changed(tmp_path: Path) -> None:
    predicted = Settings.neutral(["vocals"]).edit(
        {
            "vocals.eq.highpass_hz": 80.0,
            "vocals.eq.high.gain_db": 2.1,
            "vocals.comp.slope": 0.5,
            "vocals.room.send_db": -12.0,
            "vocals.pan": 0.2,
            "vocals.fader_db": -1.5,
            "master.output_db": 1.0,
        }
    )
    of_vocals = {
        "eq.highpass_hz": 15.0,
        "eq.high.gain_db": 0.84,
        "comp.slope": 0.25,
        "comp.threshold_db": 3.0,
        "room.send_db": 2.0,
        "room.time_s": 0.31,
        "pan": 0.05,
        "fader_db": 1.0,
    }
    Spread(predicted, {"vocals": of_vocals, "master": {"output_db": 0.5}}).save(
        tmp_path / "spread.json"
    )
    spread = Spread.beside(tmp_path / "settings.json")
    assert in_words(predicted, spread) == {
        "vocals": [
            "cut below 80 Hz (66 Hz to 96 Hz)",
            "+2.1 dB +-0.8 shelf above 6 kHz",
            "compressed 2.0:1 (1.3:1 to 4.0:1) above -20.0 dBFS +-3.0, attack 10 ms, "
            "release 150 ms, knee 6.0 dB",
            "in a room of 1 s (0.74 s to 1.4 s), sent at -12.0 dB +-2.0",
            "20 % +-5 to the right",
            "fader at -1.5 dB +-1.0",
        ],
        "master": ["output at +1.0 dB +-0.5"],
    }
    changed = predicted.edit({"vocals.fader_db": -3.0})
    sheet = markdown(changed, spread, {"Why": ["because"]})
    assert "- fader at -3.0 dB\n" in sheet
    assert "+2.1 dB +-0.8 shelf" in sheet
    assert "## Why\n\n- because\n" in sheet
    values = read_json(tmp_path / "spread.json")
    wrong: tuple[object, ...] = (
        {"vocals": {"eq.high": 1.0}},
        {"bass": {}},
        {"vocals": {"pan": -1}},
        3,
    )
    for broken in wrong:
        write_json(tmp_path / "spread.json", values | {"spread": broken})
        with pytest.raises(DataError, match=r"spread\.json: .*expected"):
            Spread.beside(tmp_path / "settings.json")
    write_json(tmp_path / "spread.json", values | {"version": 9})
    with pytest.raises(DataError, match=r"spread\.json: expected version 1, found 9"):
        Spread.beside(tmp_path / "settings.json")
