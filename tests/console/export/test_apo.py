"""Text for Equalizer APO."""

from mixprint.console.export.apo import to_apo
from mixprint.console.settings import Settings

CHANGES = {
    "voice.trim_db": 2.0,
    "voice.fader_db": -4.5,
    "voice.eq.highpass_hz": 80.0,
    "voice.eq.low.gain_db": 3.0,
    "voice.eq.bell2.gain_db": -2.25,
    "voice.eq.bell2.freq_hz": 1_234.5,
    "voice.eq.bell2.q": 2.5,
    "voice.eq.high.gain_db": 1.5,
    "voice.comp.slope": 0.5,
    "master.eq.bell1.gain_db": 1.0,
    "master.output_db": -1.0,
}


def test_a_track_is_written_as_filters() -> None:
    texts = to_apo(Settings.neutral(["voice"]).edit(CHANGES))
    assert texts == {
        "voice": "Preamp: -2.50 dB\n"
        "Filter 1: ON HPQ Fc 80.00 Hz Q 0.7071\n"
        "Filter 2: ON LSC Fc 120.00 Hz Gain 3.00 dB Q 0.7071\n"
        "Filter 3: ON PK Fc 1234.50 Hz Gain -2.25 dB Q 2.5000\n"
        "Filter 4: ON HSC Fc 6000.00 Hz Gain 1.50 dB Q 0.7071\n",
        "master": "Preamp: -1.00 dB\nFilter 1: ON PK Fc 400.00 Hz Gain 1.00 dB Q 1.0000\n",
    }
