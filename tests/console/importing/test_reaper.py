"""Projects of REAPER: our own come back exactly; of others what is understood, and a list."""

import base64
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from mixprint.console.export.reaper import write_reaper
from mixprint.console.importing.imported import Imported
from mixprint.console.importing.reaper import read_reaper
from mixprint.console.settings import Settings
from mixprint.errors import DataError
from tests.console.export.test_reaper import settings_and_stems


def vst(title: str, number: int, magic: int, state: bytes) -> str:
    """A plug-in as REAPER writes it, its state in lines of 128 letters."""
    header = struct.pack("<IIIQQIQQIII", number, magic, 2, 1, 2, 2, 1, 2, len(state), 1, 1 << 20)
    text = base64.b64encode(state).decode()
    lines = [base64.b64encode(header).decode()]
    lines += [text[place : place + 128] for place in range(0, len(text), 128)]
    lines.append(base64.b64encode(b"\0Program 1\0\x10\0\0\0").decode())
    inner = "\n".join(f"        {line}" for line in lines)
    return f'<VST "VST: {title} (Cockos)" x.dll 0 "" {number}<00> ""\n{inner}\n      >'


def bands(*rows: tuple[int, int, float, float, float], level: float = 1.0) -> bytes:
    """State of a ReaEQ: kind, whether it is on, Hz, amplitude, octaves."""
    state = struct.pack("<ii", 33, len(rows))
    for row in rows:
        state += struct.pack("<iidddb", *row, 1)
    return state + struct.pack("<iid", 1, 1, level) + bytes(16)


EQ = vst(
    "ReaEQ",
    1919247729,
    0xFEED5EEE,
    bands(
        (4, 1, 90.0, 1.0, 1.9),
        (8, 1, 250.0, 10 ** (-4 / 20), 1.0),
        (8, 1, 700.0, 10 ** (3 / 20), 0.5),
        (8, 1, 260.0, 2.0, 1.0),
        (1, 1, 7_000.0, 10 ** (2 / 20), 0.9),
        (8, 0, 3_000.0, 4.0, 1.0),
        (6, 1, 50.0, 1.0, 0.1),
        level=10 ** (-1 / 20),
    ),
)
COMP = vst(
    "ReaComp",
    1919247213,
    0xFEED5EEF,
    struct.pack("<II", 0xDEADBEEF, 0xDEADF00D)
    + struct.pack("<19f", 0.1, 3 / 99, 0.02, 0.04, *[0.0] * 7, 1.0, 0.0, 0.05, 0.25, *[0.0] * 4),
)
FOREIGN = f"""<REAPER_PROJECT 0.1 "7.22/win64" 1726000000
  RIPPLE 0
  SAMPLERATE 48000 0 0
  TEMPO 120 4 4
  <MASTERFXLIST
    BYPASS 0 0 0
    <JS loser/masterLimiter ""
      0 0 0 - -
    >
  >
  MASTER_VOLUME 0.5 0 -1 -1 1
  <TRACK {{1}}
    NAME "Lead Vox. 1"
    VOLPAN 0.50118723362727 -0.25 -1 -1 1
    MUTESOLO 0 0 0
    <VOLENV2
      PT 0 1 0
    >
    <FXCHAIN
      BYPASS 0 0 0
      {EQ}
      BYPASS 0 0 0
      {COMP}
      BYPASS 1 0 0
      {EQ}
      BYPASS 0 0 0
      <VST "VST3: Pro-Q 3 (FabFilter)" "Pro-Q 3.vst3" 0 "" 1234{{ABC}} ""
        AAAA
      >
    >
    <ITEM
      POSITION 1
      VOLPAN 0.5 0 1 -1
      <SOURCE WAVE
        FILE "vox.wav"
      >
    >
  >
  <TRACK
    NAME drums
    VOLPAN 1 0 -1 -1 1
    MUTESOLO 1 0 0
    <ITEM
      VOLPAN 1.000000 0 1.000000 -1
    >
  >
  <TRACK
    NAME drums
    <ITEM
    >
  >
  <TRACK
    NAME Verb
    AUXRECV 0 0 1 0 0 0 0 0 0 -1:U 0 -1 ''
  >
>
"""


def test_our_own_project_comes_back_exactly(tmp_path: Path) -> None:
    settings, stems = settings_and_stems(tmp_path)
    for each in (settings, replace(settings, rooms="sends", sample_rate_hz=48_000)):
        write_reaper(each, stems, tmp_path, title="song")
        assert read_reaper(tmp_path / "song.rpp") == Imported(each, ())


def test_what_was_moved_in_reaper_is_added(tmp_path: Path) -> None:
    settings, stems = settings_and_stems(tmp_path)
    write_reaper(settings, stems, tmp_path, title="song")
    text = (tmp_path / "song.rpp").read_text(encoding="utf-8")
    # The first track: fader -6 dB and 20 % to the left; its own pan is 0.0000001.
    text = text.replace("VOLPAN 1 0 -1", f"VOLPAN {10**-0.3!r} -0.2 -1", 1)
    text = text.replace("MASTER_VOLUME 1 0", "MASTER_VOLUME 2 0")
    (tmp_path / "moved.rpp").write_text(text, encoding="utf-8")
    read = read_reaper(tmp_path / "moved.rpp").settings
    strip = read.tracks["lead vocal"]
    before = settings.tracks["lead vocal"]
    assert strip["fader_db"] == pytest.approx(before["fader_db"] - 6.0, abs=1e-5)
    assert strip["pan"] == pytest.approx(-0.2, abs=1e-6)
    assert read.master["output_db"] == pytest.approx(-2.0 + 20 * math.log10(2))
    assert read.tracks[list(read.tracks)[1]] == settings.tracks[list(read.tracks)[1]]


def test_of_a_foreign_project_is_read_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "foreign.rpp").write_text(FOREIGN, encoding="utf-8")
    read = read_reaper(tmp_path / "foreign.rpp")
    expected = Settings.neutral(["Lead Vox_ 1", "drums", "drums 2"]).edit(
        {
            "Lead Vox_ 1.fader_db": -7.0,
            "Lead Vox_ 1.pan": -0.25,
            "Lead Vox_ 1.eq.highpass_hz": 90.0,
            "Lead Vox_ 1.eq.bell1.freq_hz": 250.0,
            "Lead Vox_ 1.eq.bell1.gain_db": -4.0,
            "Lead Vox_ 1.eq.bell1.q": 2**0.5,
            "Lead Vox_ 1.eq.bell2.freq_hz": 700.0,
            "Lead Vox_ 1.eq.bell2.gain_db": 3.0,
            "Lead Vox_ 1.eq.bell2.q": 2**0.25 / (2**0.5 - 1),
            "Lead Vox_ 1.eq.high.freq_hz": 7_000.0,
            "Lead Vox_ 1.eq.high.gain_db": 2.0,
            "Lead Vox_ 1.comp.threshold_db": -20.0,
            "Lead Vox_ 1.comp.slope": 0.75,
            "Lead Vox_ 1.comp.attack_ms": 10.0,
            "Lead Vox_ 1.comp.release_ms": 200.0,
            "Lead Vox_ 1.comp.knee_db": 6.0,
            "drums.fader_db": -60.0,
            "master.output_db": 20 * math.log10(0.5),
        }
    )
    assert read.settings.sample_rate_hz == 48_000
    assert list(read.settings.tracks) == list(expected.tracks)
    for name, strip in expected.strips().items():
        assert read.settings.strips()[name].values == pytest.approx(strip.values, rel=1e-5)
    notes = "\n".join(read.notes)
    for part in (
        "track Lead Vox_ 1: automation (VOLENV2): not read",
        "track Lead Vox_ 1: levels, speed or effects of its items: not read",
        "ReaEQ: band of kind 6 at 50 Hz: not understood",
        "ReaEQ: bell of +6.0 dB at 260 Hz: the console has no free band there",
        "ReaEQ: highshelf of +2.0 dB at 7000 Hz: read with the console's slope",
        "ReaComp: averages levels over 5.0 ms",
        "VST: ReaEQ (Cockos): is bypassed",
        "VST3: Pro-Q 3 (FabFilter): not understood",
        "track drums: is muted",
        "track Verb: has no audio and is left out",
        "master: loser/masterLimiter: not understood",
    ):
        assert part in notes
    assert len(read.notes) == 11


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VOLPAN 1 0", "VOLPAN nan 0", "drums: expected a number, found 'nan'"),
        ("VOLPAN 1 0", "VOLPAN 1 7", "drums: expected a pan of -1 to 1, found 7"),
        ("VOLPAN 1 0", "VOLPAN -2 0", "drums: expected a level of 0 or more, found -2"),
        ("    <ITEM", "    <ITEMS", "expected 1 to 32, found 0"),
        (EQ, vst("ReaEQ", 1919247729, 0xFEED5EEE, b"x"), "ReaEQ: expected a whole state"),
        (
            EQ,
            vst("ReaEQ", 1919247729, 0xFEED5EEE, struct.pack("<ii", 33, 1 << 30)),
            "ReaEQ: expected bands of 33 bytes",
        ),
        (
            EQ,
            vst("ReaEQ", 1919247729, 0xFEED5EEE, bands((8, 1, math.nan, 1.0, 1.0))),
            "band 1: expected a frequency, a gain and a width above 0, found nan",
        ),
        (COMP, '<VST "" "" 0 "" 1919247213\n?\n>', "ReaComp: expected a state in base64"),
    ],
)
def test_broken_projects_are_refused_by_name(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in FOREIGN
    (tmp_path / "broken.rpp").write_text(FOREIGN.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=rf"broken\.rpp: .*{message}"):
        read_reaper(tmp_path / "broken.rpp")


def test_values_beyond_a_range_are_held_and_said(tmp_path: Path) -> None:
    settings, stems = settings_and_stems(tmp_path)
    write_reaper(settings, stems, tmp_path, title="song")
    text = (tmp_path / "song.rpp").read_text(encoding="utf-8")
    (tmp_path / "song.rpp").write_text(text.replace("        3 60 20000", "        99 60 20000"))
    read = read_reaper(tmp_path / "song.rpp")
    assert read.settings["lead vocal.trim_db"] == 60.0
    assert read.notes == ("track lead vocal: trim_db: 99 is beyond -60 to 60 dB, held there",)
