"""Projects with REAPER's own plug-ins: what they hold, and how far they are from the console."""

import base64
import struct
from pathlib import Path

import pytest
import torch

from mixprint.audio.files import write_audio
from mixprint.console.export.reaper_stock import deviation_db, write_reaper_stock
from mixprint.console.export.song import Export
from mixprint.console.importing.reaper import read_reaper
from mixprint.console.reaper_plugins import (
    Compression,
    ReaEqBand,
    comp_block,
    comp_settings,
    eq_bands,
    eq_block,
    octaves,
    q_of,
    room_block,
)
from mixprint.console.settings import Settings
from tests.console.test_rendering import EVERYTHING, RATE_HZ, tracks


def test_bandwidth_and_q_are_each_other_s_inverse() -> None:
    assert octaves(2**0.5) == pytest.approx(1.0)  # Q of an octave
    assert q_of(octaves(0.3)) == pytest.approx(0.3)


def test_states_come_back_as_they_were() -> None:
    bands = [
        ReaEqBand("highpass", 80.0, 0.0, 1.9),
        ReaEqBand("bell", 1_234.5, -3.25, 0.7),
        ReaEqBand("high", 8e3, 2.0, 2.0, False),
    ]
    found, level_db, unknown = eq_bands(eq_block(bands, -2.5), "x")
    assert [vars(each) for each in found] == [pytest.approx(vars(each)) for each in bands]
    assert level_db == pytest.approx(-2.5)
    assert unknown == []
    comp = Compression(-18.0, 4.0, 12.0, 250.0, 6.0, rms_ms=5.0, wet_db=1.5)
    assert vars(comp_settings(comp_block(comp), "x")) == pytest.approx(vars(comp), rel=1e-5)


def test_a_state_lies_in_its_container_as_readers_of_projects_say() -> None:
    block = room_block(0.5, 0.25, 0.75)
    header, state, name = (base64.b64decode(line.name) for line in block.inner or [])
    assert struct.unpack("<IIIQQIQQIII", header) == (
        *(1920361016, 0xFEED5EEF, 2, 1, 2, 2, 1, 2),
        *(40, 0, 0x00100000),
    )
    assert struct.unpack("<II8f", state) == (0xDEADBEEF, 0xDEADF00D, 0.5, 1, 0.25, 0.75, 1, 0, 1, 0)
    assert name == b"\0\0\x10\0\0\0"
    header, *state_lines, _ = (base64.b64decode(line.name) for line in eq_block([]).inner or [])
    assert struct.unpack("<IIIQQIQQIII", header)[:2] == (1919247729, 0xFEED5EEE)
    assert sum(map(len, state_lines)) == struct.unpack("<III", header[-12:])[0] == 40


def test_what_its_plug_ins_can_do_differs_little_and_what_they_cannot_much() -> None:
    audio_CT = tracks(1, RATE_HZ // 4, 1)[0]
    plain = Settings.neutral(["a"]).edit({"a.trim_db": 3.0, "a.pan": 0.4, "a.fader_db": -3.0})
    equal = deviation_db(audio_CT, plain, "a")
    assert equal is not None
    assert equal < -200
    shelf = plain.edit({"a.eq.low.gain_db": 4.0, "a.eq.highpass_hz": 60.0})
    low = deviation_db(audio_CT, shelf, "a")
    assert low is not None
    assert low < -60
    compressed = plain.edit({"a.comp.slope": 0.5, "a.comp.threshold_db": -20.0})
    near = deviation_db(audio_CT, compressed, "a")
    assert near is not None
    assert -60 < near < -3
    # Width is left out: at 0 the whole side is there that should not be.
    mono = deviation_db(audio_CT, Settings.neutral(["a"]).edit({"a.width": 0.0}), "a")
    side, middle = (audio_CT[0] - audio_CT[1]) / 2, (audio_CT[0] + audio_CT[1]) / 2
    expected = 10 * torch.log10(side.square().sum() / middle.square().sum())
    assert mono == pytest.approx(float(expected))
    assert deviation_db(torch.zeros(2, 100), plain, "a") is None


def test_a_project_says_what_is_left_out_and_how_far_it_is(tmp_path: Path) -> None:
    settings = Settings.neutral(["a", "b", "c"]).edit({**EVERYTHING, "c.fader_db": 15.0})
    stems = {name: tmp_path / f"{name}.wav" for name in settings.tracks}
    for path, audio_CT in zip(stems.values(), tracks(2, RATE_HZ // 4), strict=True):
        write_audio(path, audio_CT.float(), RATE_HZ)
    notes = write_reaper_stock(
        Export(settings=settings, stems=stems, out_dir=tmp_path, title="song")
    )
    assert notes[0].startswith("REAPER's own plug-ins are near the console, not the same")
    for expected in (
        "a: drive is left out",
        "b: expansion is left out",
        "b: width is left out",
        "b: the room is ReaVerbate's, and not counted in the difference",
        "c: its level of +15.0 dB is written as +12 dB",
    ):
        assert expected in notes
    differences = [note for note in notes if "differs from the console's sound by" in note]
    assert [note[0] for note in differences] == ["a", "b", "c"]
    read = read_reaper(tmp_path / "song.rpp")
    found, wanted = read.settings.tracks["a"], settings.tracks["a"]
    for name in ("eq.highpass_hz", "eq.low.gain_db", "eq.bell1.gain_db", "comp.slope"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-5)
    assert found["trim_db"] == pytest.approx(wanted["trim_db"])
    assert found["fader_db"] == 0.0
    assert read.settings.tracks["b"]["pan"] == -0.5
    assert read.settings.master["output_db"] == pytest.approx(-2.0)
    assert any("ReaVerbate" in note for note in read.notes)


def test_a_trim_before_the_compressor_comes_back_as_one(tmp_path: Path) -> None:
    settings = Settings.neutral(["a"]).edit(
        {
            "a.trim_db": 12.0,
            "a.fader_db": -12.0,
            "a.comp.slope": 0.5,
            "a.comp.threshold_db": -20.0,
        }
    )
    write_audio(tmp_path / "a.wav", tracks(3, RATE_HZ // 4, 1)[0].float(), RATE_HZ)
    write_reaper_stock(
        Export(settings=settings, stems={"a": tmp_path / "a.wav"}, out_dir=tmp_path, title="song")
    )
    read = read_reaper(tmp_path / "song.rpp")
    assert read.settings.tracks["a"].values == pytest.approx(settings.tracks["a"].values, rel=1e-5)
    assert read.notes == ()
