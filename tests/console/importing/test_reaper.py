"""Projects of REAPER: our own come back exactly; of others what is understood, and a list."""

import base64
import math
import struct
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from mixprint.console.export.jsfx import ROOM_NAME, STRIP_NAME
from mixprint.console.export.reaper import write_reaper
from mixprint.console.export.song import Export
from mixprint.console.importing import reaper as importing
from mixprint.console.importing.imported import Imported
from mixprint.console.importing.reaper import read_reaper
from mixprint.console.schema import MASTER, TRACK_FIELDS
from mixprint.console.settings import MAX_NAME_LENGTH, MAX_TRACKS, Settings
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
        write_reaper(Export(settings=each, stems=stems, out_dir=tmp_path, title="song"))
        assert read_reaper(tmp_path / "song.rpp") == Imported(each, ())


def test_what_was_moved_in_reaper_is_added(tmp_path: Path) -> None:
    settings, stems = settings_and_stems(tmp_path)
    write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path, title="song"))
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


def test_sends_that_were_moved_in_reaper_are_read(tmp_path: Path) -> None:
    """Level, mute and place of a send, the fader of a room, and what else no send has."""
    settings, stems = settings_and_stems(tmp_path)
    first, second, third = settings.tracks
    shape = {"time_s": 0.8, "high_ratio": 0.5}
    settings = replace(settings, rooms="sends").edit(
        {f"{name}.room.{k}": v for name in (first, second, third) for k, v in shape.items()}
    )
    settings = settings.edit({f"{first}.room.send_db": -6.1})
    write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path, title="song"))
    text = (tmp_path / "song.rpp").read_text(encoding="utf-8")
    before, room, after = text.partition('NAME "room 1"')
    lines = [line for line in after.splitlines() if "AUXRECV" in line]
    assert [line.split()[1] for line in lines] == ["0", "1", "2"]
    room += after.replace(lines[0], "AUXRECV 0 0 0.25 0 0 0 0 0 0 -1:U 0 -1 ''")
    room = room.replace(lines[1], "AUXRECV 1 3 1 0.5 0 0 1 0 0 -1:U 0 -1 ''")
    room = room.replace(lines[2], "AUXRECV 2 0 1 0 1 0 0 0 0 -1:U 0 -1 ''\nAUXRECV 9 0 1 0 0 0 0")
    room = room.replace("VOLPAN 1 0 -1", "VOLPAN 0.5 0 -1", 1)
    read = read_text(tmp_path, before + room)
    half_db = 20 * math.log10(0.5)
    strips = list(read.settings.tracks.values())
    assert read.settings.rooms == "sends"
    assert strips[0]["room.send_db"] == pytest.approx(3 * half_db)
    assert strips[1]["room.send_db"] == pytest.approx(half_db)
    assert [strip["room.time_s"] for strip in strips] == [0.8, 0.8, 0.8]
    assert strips[2].is_neutral("room.send_db")
    assert read.notes == (
        f"track room 1: the send of {second}, before its fader: read as behind it",
        f"track room 1: the send of {second}, with a pan: not read",
        f"track room 1: the send of {second}, with its polarity inverted: not read",
        "track room 1: a send of track 10, which has no audio: left out",
    )


def test_of_several_rooms_of_a_track_the_loudest_send_is_read(tmp_path: Path) -> None:
    strip, room = (f'<JS "{name}" ""\n' for name in (STRIP_NAME, ROOM_NAME))
    values = [each.neutral for each in TRACK_FIELDS]
    values[[each.name for each in TRACK_FIELDS].index("room.send_db")] = -3.0
    own = chain(f"{strip}{' '.join(map(str, values))} 0\n>")
    rooms = ""
    for name, level, time_s, extra in (
        ("near", 0.25, 0.4, ""),
        ("far", 0.5, 2.5, ""),
        ("off", 1.0, 3.0, "MUTESOLO 1 0 0"),
        ("fourth", 1.0, 4.0, ""),
    ):
        held = chain(f"{room}{time_s} 1 1\n>")
        rooms += f"<TRACK\nNAME {name}\nAUXRECV 0 0 {level} 0\n{extra}\n{held}\n>\n"
    read = read_text(tmp_path, project(f"NAME a\n{own}").removesuffix(">\n") + rooms + ">\n")
    found = read.settings.tracks["a"]
    assert read.settings.rooms == "sends"
    assert found["room.send_db"] == pytest.approx(20 * math.log10(0.5))
    assert found["room.time_s"] == 2.5
    assert read.notes == (
        "track fourth: is left out: more than 3 rooms",
        "track off: is muted: its sends are off",
        "track a: its send to near: it is sent to far too, left out",
        "track a: its own room: it is sent to far too, left out",
    )


def test_of_a_foreign_project_is_read_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "foreign.rpp").write_text(FOREIGN, encoding="utf-8")
    read = read_reaper(tmp_path / "foreign.rpp")
    expected = Settings.neutral(["Lead Vox_ 1", "drums", "drums 2"]).edit(
        {
            # ReaEQ is before ReaComp, so its level is too.
            "Lead Vox_ 1.trim_db": -1.0,
            "Lead Vox_ 1.fader_db": -6.0,
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
        "track 1, 'Lead Vox. 1', is called 'Lead Vox_ 1'",
        "track 3, 'drums', is called 'drums 2'",
        "track Lead Vox_ 1: automation (VOLENV2): not read",
        "track Lead Vox_ 1: levels, speed or effects of its items: not read",
        "ReaEQ: band of kind 6 at 50 Hz: not understood",
        "ReaEQ: bell of +6.0 dB at 260 Hz: the console has no free band there",
        "ReaEQ: high shelf of +2.0 dB at 7000 Hz: read with the console's slope",
        "ReaComp: averages levels over 5.0 ms",
        "VST: ReaEQ (Cockos): is bypassed",
        "VST3: Pro-Q 3 (FabFilter): not understood",
        "track drums: is muted",
        "track Verb: has no audio and is left out",
        "master: loser/masterLimiter: not understood",
    ):
        assert part in notes
    assert len(read.notes) == 13


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VOLPAN 1 0", "VOLPAN nan 0", "drums: expected a number, found 'nan'"),
        ("VOLPAN 1 0", "VOLPAN 1 7", "drums: expected a pan of -1 to 1, found 7"),
        ("VOLPAN 1 0", "VOLPAN -2 0", "drums: expected a level of 0 or more, found -2"),
        ("    <ITEM", "    <ITEMS", "expected 1 to 32 tracks with audio, found 0"),
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
    write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path, title="song"))
    text = (tmp_path / "song.rpp").read_text(encoding="utf-8")
    (tmp_path / "song.rpp").write_text(text.replace("        3 60 20000", "        99 60 20000"))
    read = read_reaper(tmp_path / "song.rpp")
    assert read.settings["lead vocal.trim_db"] == 60.0
    assert read.notes == ("track lead vocal: trim_db: 99 is beyond -60 to 60 dB, held there",)


def read_text(folder: Path, text: str) -> Imported:
    (folder / "x.rpp").write_text(text, encoding="utf-8")
    return read_reaper(folder / "x.rpp")


def project(*inner: str, head: str = "") -> str:
    """A project of tracks with audio."""
    tracks = "".join(f"<TRACK\n{each}\n<ITEM\n>\n>\n" for each in inner)
    return f"<REAPER_PROJECT 0.1\n{head}\n{tracks}>\n"


def chain(*effects: str, name: str = "FXCHAIN") -> str:
    inner = "".join(f"BYPASS 0 0 0\n{each}\n" for each in effects)
    return f"<{name}\n{inner}>"


LOUDER = vst("ReaEQ", 1919247729, 0xFEED5EEE, bands(level=10 ** (12 / 20)))


@pytest.mark.parametrize(
    ("effects", "trim_db", "fader_db"),
    [((LOUDER, COMP), 12.0, 0.0), ((COMP, LOUDER), 0.0, 12.0), ((LOUDER,), 0.0, 12.0)],
)
def test_a_level_before_a_compressor_is_the_trim(
    tmp_path: Path, effects: tuple[str, ...], trim_db: float, fader_db: float
) -> None:
    strip = read_text(tmp_path, project(f"NAME a\n{chain(*effects)}")).settings.tracks["a"]
    assert strip["trim_db"] == pytest.approx(trim_db)
    assert strip["fader_db"] == pytest.approx(fader_db)
    if COMP in effects:
        assert strip["comp.threshold_db"] == pytest.approx(-20.0)


def test_a_level_before_the_master_s_compressor_lowers_its_threshold(tmp_path: Path) -> None:
    text = project("NAME a", head=chain(LOUDER, COMP, name="MASTERFXLIST"))
    master = read_text(tmp_path, text).settings.master
    assert master["comp.threshold_db"] == pytest.approx(-32.0)
    assert master["output_db"] == pytest.approx(12.0)


def test_a_level_beyond_the_trim_s_range_is_held_and_said(tmp_path: Path) -> None:
    loud = vst("ReaEQ", 1919247729, 0xFEED5EEE, bands(level=10**4))
    read = read_text(tmp_path, project(f"NAME a\n{chain(loud, COMP)}"))
    assert read.settings["a.trim_db"] == 60.0
    assert "track a: trim_db: 80 is beyond -60 to 60 dB, held there" in read.notes


def test_an_equaliser_behind_the_compressor_is_said(tmp_path: Path) -> None:
    read = read_text(tmp_path, project(f"NAME a\n{chain(COMP, EQ)}"))
    assert "track a: ReaEQ: stands behind ReaComp, its bands are read as before it" in read.notes


def test_what_stands_beside_the_console_s_own_plug_in_is_said(tmp_path: Path) -> None:
    own = f'<JS {STRIP_NAME} ""\n3 - -\n>'
    read = read_text(tmp_path, project(f"NAME a\n{chain(EQ, own, COMP)}"))
    assert read.settings == Settings.neutral(["a"]).edit({"a.trim_db": 3.0})
    assert read.notes == (
        "track a: VST: ReaComp (Cockos): there is another one before it, left out",
        "track a: ReaEQ: stands before the console's own plug-in, left out",
    )


def test_bypassed_chains_are_left_out_and_said(tmp_path: Path) -> None:
    head = f"MASTER_FX 0\n{chain(COMP, name='MASTERFXLIST')}"
    text = project(
        f"NAME a\nVOLPAN 1 0.5 -1 -1 1\nFX 0\n{chain(EQ, COMP)}",
        f"NAME b\nFX 1\n{chain(LOUDER)}",
        f"NAME c\nFX 0\n{chain()}",
        head=head,
    )
    read = read_text(tmp_path, text)
    expected = Settings.neutral(["a", "b", "c"]).edit({"a.pan": 0.5})
    assert read.settings.tracks["a"] == expected.tracks["a"]
    assert read.settings["b.fader_db"] == pytest.approx(12.0)
    assert read.settings.master == expected.master
    assert read.notes == (
        "track a: its plug-ins are all bypassed, left out",
        "master: its plug-ins are all bypassed, left out",
    )


@pytest.mark.parametrize(
    ("head", "inner", "note"),
    [
        ("MASTERMUTESOLO 1", "", "master: is muted or soloed: not read"),
        ("MASTERMUTESOLO 0", "", None),
        ("", "MUTESOLO 0 2 0", "track a: is soloed: not read, the others are not muted"),
        ("PANLAW 0.707", "", "PANLAW '0.707': not read, pans are read as a balance"),
        ("PANMODE 5", "", "PANMODE '5': not read, pans are read as a balance"),
        ("MASTER_PANMODE 6", "", "MASTER_PANMODE '6': not read, pans are read as a balance"),
        ("PANLAW 1.00000000\nPANMODE 3", "PANMODE 3\nVOLPAN 1 0 1 -1 1", None),
        ("", "PANMODE 6", "track a: PANMODE '6': not read, its pan is read as a balance"),
        ("", "VOLPAN 1 0 0.5 -1 1", "track a: a pan law of its own ('0.5'): not read"),
        ("", "ISBUS 1 1", "track a: is a folder of tracks: not read as such"),
        ("", "ISBUS 2 -1", None),
    ],
)
def test_what_is_played_in_another_way_is_said(
    tmp_path: Path, head: str, inner: str, note: str | None
) -> None:
    read = read_text(tmp_path, project(f"NAME a\n{inner}", head=head))
    assert read.settings == Settings.neutral(["a"])
    assert read.notes == (() if note is None else (note,))


def test_no_project_brings_more_notes_than_a_person_reads(tmp_path: Path) -> None:
    empty = "<TRACK\nNAME bus\n>\n" * 6_000
    notes = read_text(tmp_path, project("NAME a", head=empty)).notes
    assert notes[0] == "track bus: has no audio and is left out, with all that it does to others"
    assert len(notes) == 201
    assert notes[-1] == "and 5800 more"
    long = read_text(tmp_path, project("NAME a", head=f"<TRACK\nNAME {'x' * 10**6}\n>")).notes
    assert [len(note) for note in long] == [303]


def test_too_many_tracks_are_refused_before_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = read_text(tmp_path, project(*["NAME a"] * MAX_TRACKS))
    assert len(most.settings.tracks) == MAX_TRACKS
    named: list[object] = []
    monkeypatch.setattr(importing, "console_names", named.append)
    message = rf"x\.rpp: expected 1 to {MAX_TRACKS} tracks with audio, found 6000"
    with pytest.raises(DataError, match=message):
        read_text(tmp_path, project(*["NAME a"] * 6_000))
    assert named == []


def test_tracks_without_audio_do_not_count(tmp_path: Path) -> None:
    text = project("NAME a").removesuffix(">\n") + "<TRACK\nNAME bus\n>\n" * 40 + ">\n"
    read = read_text(tmp_path, text)
    assert list(read.settings.tracks) == ["a"]
    assert len(read.notes) == 40


def test_names_are_made_as_of_other_programs(tmp_path: Path) -> None:
    longest, decomposed = "x" * MAX_NAME_LENGTH, unicodedata.normalize("NFD", "Chör")
    names = [longest, decomposed, "a\x1b[2J\u202e", MASTER, "", "x" * (MAX_NAME_LENGTH + 1)]
    read = read_text(tmp_path, project(*(f'NAME "{each}"' for each in names)))
    assert list(read.settings.tracks) == [
        longest,
        unicodedata.normalize("NFC", "Chör"),
        r"a\x1b[2J\u202e",
        "master track",
        "track 5",
        "x" * (MAX_NAME_LENGTH - 8),
    ]
    assert len(read.notes) == 4
    assert all(note.isprintable() for note in read.notes)
