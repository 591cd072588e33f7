"""Text for Equalizer APO, read: mixprint's own to the precision that it is written in."""

from pathlib import Path

import pytest

from mixprint.console.export.apo import apo_heading, to_apo
from mixprint.console.importing.apo import MAX_BYTES, read_apo
from mixprint.console.settings import Settings
from mixprint.errors import DataError
from tests.console.export.test_apo import CHANGES

FOREIGN = """# from another program
Preamp: -6 dB
Filter: ON PK Fc 105 Hz Gain -3.5 dB Q 1.41
Filter 2: OFF PK Fc 300 Hz Gain 9 dB Q 1
Filter 3: ON LS Fc 60 Hz Gain 2 dB
Channel: L
GraphicEQ: 20 -10; 200 3
"""


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    settings = Settings.neutral(["voice"]).edit(CHANGES)
    for place, (name, text) in enumerate(to_apo(settings).items()):
        (tmp_path / f"{place}.txt").write_text(apo_heading(name) + text)
    found = read_apo(tmp_path)
    expected = settings.edit({"voice.trim_db": 0.0, "voice.fader_db": -2.5, "voice.comp.slope": 0})
    assert found.notes == ()
    for name, strip in expected.strips().items():
        assert found.settings.strips()[name].values == pytest.approx(strip.values, abs=1e-4)


def test_a_file_of_others_is_read_and_the_rest_of_it_listed(tmp_path: Path) -> None:
    (tmp_path / "bass.v2.txt").write_text(FOREIGN)
    found = read_apo(tmp_path / "bass.v2.txt")
    assert found.settings == Settings.neutral(["bass_v2"]).edit(
        {
            "bass_v2.fader_db": -6.0,
            "bass_v2.eq.bell1.freq_hz": 105.0,
            "bass_v2.eq.bell1.gain_db": -3.5,
            "bass_v2.eq.bell1.q": 1.41,
            "bass_v2.eq.low.freq_hz": 60.0,
            "bass_v2.eq.low.gain_db": 2.0,
        }
    )
    assert found.notes == (
        "track 1, 'bass.v2', is called 'bass_v2'",
        "bass_v2: 'Channel: L' is not understood",
        "bass_v2: 'GraphicEQ: 20 -10; 200 3' is not understood",
    )


def test_bells_find_places_where_there_is_an_assignment(tmp_path: Path) -> None:
    # The first bell of the file would take the only one that reaches the second.
    lines = [f"Filter: ON PK Fc {f} Hz Gain 3 dB Q 1" for f in (600, 100, 2_500)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    found = read_apo(tmp_path / "a.txt")
    assert found.notes == ()
    freqs = [found.settings[f"a.eq.bell{n}.freq_hz"] for n in (1, 2, 3)]
    assert freqs == [100.0, 600.0, 2_500.0]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("Filter: ON PK Fc 70 Hz Gain 1 dB Q 1\n" * 2, "a bell of +1.0 dB at 70 Hz finds no place"),
        ("Filter: ON LSC Fc 70 Hz Gain 1 dB\n" * 2, "a low shelf of +1.0 dB at 70 Hz finds no"),
        ("Filter: ON HP Fc 70 Hz Q 2\n", "a high-pass at 70 Hz has Q 2; the console's has 0.707"),
        ("Preamp: -300 dB\n", "fader_db -300 is out of range (-60 to 24 dB): -60"),
        ("Filter: ON PK Fc 100 Hz Gain 40 dB Q 99\n", "eq.bell1.q 99 is out of range"),
        ("Filter: ON PK Fc 0 Hz Gain 4 dB Q 1\n", "'Filter: ON PK Fc 0 Hz Gain 4 dB Q 1' is not"),
        ("Filter: ON PK Fc 18000 Hz Gain 4 dB Q 1\n", "at 18000 Hz finds no place"),
    ],
)
def test_what_a_track_does_not_have_is_said(tmp_path: Path, text: str, note: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    notes = read_apo(tmp_path / "a.txt").notes
    assert any(note in each for each in notes), notes


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 1 to 32 files \*\.txt, found 0"):
        read_apo(tmp_path)
    (tmp_path / "master.txt").write_text("Preamp: 0 dB")
    with pytest.raises(DataError, match="expected a track beside the master"):
        read_apo(tmp_path)
    (tmp_path / "long.txt").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(DataError, match="expected at most 262144 bytes"):
        read_apo(tmp_path / "long.txt")
