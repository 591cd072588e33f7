"""Settings in words."""

from mixprint.console.settings import Settings
from mixprint.console.words import in_words, markdown


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
