"""Text for Equalizer APO: written, and read back to the precision that it is written in."""

import pytest

from mixprint.console.export.apo import from_apo, to_apo
from mixprint.console.settings import Settings
from mixprint.errors import DataError

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


def test_what_was_written_is_read_back() -> None:
    settings = Settings.neutral(["voice"]).edit(CHANGES)
    found = from_apo(to_apo(settings)["voice"], "voice.txt")
    read = Settings.neutral(["voice"]).edit({f"voice.{k}": v for k, v in found.items()})
    expected = settings.edit({"voice.trim_db": 0.0, "voice.fader_db": -2.5, "voice.comp.slope": 0})
    assert read.tracks["voice"].values == pytest.approx(expected.tracks["voice"].values, abs=1e-4)


def test_files_of_others_are_read() -> None:
    text = """# from another program
Preamp: -6 dB
Filter: ON PK Fc 105 Hz Gain -3.5 dB Q 1.41
Filter 2: OFF PK Fc 300 Hz Gain 9 dB Q 1
Filter 3: ON LS Fc 60 Hz Gain 2 dB
Channel: L
"""
    assert from_apo(text, "x.txt") == {
        "fader_db": -6.0,
        "eq.bell1.freq_hz": 105.0,
        "eq.bell1.gain_db": -3.5,
        "eq.bell1.q": 1.41,
        "eq.low.freq_hz": 60.0,
        "eq.low.gain_db": 2.0,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Filter: ON PK Fc 70 Hz Gain 1 dB Q 1\n" * 2, "found another at 70 Hz"),
        ("Filter: ON LSC Fc 70 Hz Gain 1 dB\n" * 2, "expected one filter for eq.low"),
    ],
)
def test_more_than_a_track_has_is_refused(line: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^x.txt: .*{message}"):
        from_apo(line, "x.txt")
