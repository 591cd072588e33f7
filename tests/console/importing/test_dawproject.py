"""DAWproject files, read: mixprint's own exactly, others as far as they are understood."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixprint.audio.files import write_audio
from mixprint.console.export.dawproject import write_dawproject
from mixprint.console.export.song import Export
from mixprint.console.importing import dawproject, safe_xml
from mixprint.console.importing.dawproject import read_dawproject
from mixprint.console.schema import TRACK_FIELDS
from mixprint.console.settings import Settings, Strip
from mixprint.errors import DataError
from tests.console.export.test_dawproject import RATE_HZ, SETTINGS, write_stems
from tests.console.test_rendering import EVERYTHING

# Long rooms take their time.
WITH_ALL = {**EVERYTHING, "b.room.time_s": 0.2, "c.room.time_s": 0.15}
CARRIED = {
    "a.trim_db": 7.5,
    "a.fader_db": -3.25,
    "a.pan": 0.3,
    "a.eq.highpass_hz": 33.3,
    "a.eq.low.gain_db": -4.0,
    "a.eq.bell1.gain_db": 2.0,
    "a.eq.bell1.freq_hz": 900.0,
    "a.eq.bell2.gain_db": -5.0,
    "a.eq.bell2.freq_hz": 700.0,
    "a.eq.bell2.q": 3.0,
    "a.comp.slope": 0.6,
    "a.comp.threshold_db": -31.0,
    "a.comp.attack_ms": 3.5,
    "a.comp.release_ms": 77.0,
    "master.eq.bell2.gain_db": 1.5,
    "master.output_db": -2.0,
}


def written(folder: Path, settings: Settings) -> Path:
    write_dawproject(
        Export(settings=settings, stems=write_stems(folder, settings), out_dir=folder, title="x")
    )
    return folder / "song.dawproject"


def edited(path: Path, change: Callable[[str], str], *, keeps_settings: bool = True) -> Path:
    """Save a project as another program does."""
    out = path.with_name("edited.dawproject")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        before = old.read("project.xml").decode()
        after = change(before)
        assert after != before or not keeps_settings
        new.writestr("project.xml", after)
        if keeps_settings:
            new.writestr("mixprint/settings.json", old.read("mixprint/settings.json"))
    return out


def project(tmp_path: Path, channel: str, *, tracks: str = "", head: str = "") -> Path:
    """Write a project of another program with one track."""
    path = tmp_path / "foreign.dawproject"
    xml = (
        f'<?xml version="1.0"?>{head}<Project version="1.0"><Application name="x" version="1"/>'
        f'<Structure><Track name="Lead Vox"><Channel role="regular">{channel}</Channel></Track>'
        f"{tracks}</Structure><Arrangement/></Project>"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("project.xml", xml)
    return path


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, Settings.neutral(["a", "b", "c"]).edit(WITH_ALL), Settings.neutral(["x"])],
)
def test_a_file_of_our_own_is_read_exactly(tmp_path: Path, settings: Settings) -> None:
    found = read_dawproject(written(tmp_path, settings))
    assert found.settings == settings
    assert found.notes == ()


def test_32_tracks_come_back(tmp_path: Path) -> None:
    names = [f"Spur {n:02} – Ä" for n in range(32)]
    settings = Settings.neutral(names).edit({f"{n}.pan": -1 + i / 16 for i, n in enumerate(names)})
    stem = tmp_path / "stem.wav"
    write_audio(stem, torch.zeros(2, 80), RATE_HZ)
    write_dawproject(
        Export(settings=settings, stems=dict.fromkeys(names, stem), out_dir=tmp_path, title="x")
    )
    assert read_dawproject(tmp_path / "song.dawproject").settings == settings


def test_the_xml_alone_holds_what_a_channel_can(tmp_path: Path) -> None:
    settings = Settings.neutral(["a"]).edit({**CARRIED, "a.eq.bell1.freq_hz": 300.0})
    path = edited(written(tmp_path, settings), lambda xml: xml, keeps_settings=False)
    found = read_dawproject(path)
    # The trim lies in fader and threshold, which sounds the same.
    expected = settings.edit({"a.trim_db": 0.0, "a.fader_db": 4.25, "a.comp.threshold_db": -38.5})
    for name, strip in expected.strips().items():
        assert found.settings.strips()[name].values == pytest.approx(strip.values, abs=1e-6)
    assert found.notes == ("without mixprint's settings, what DAWproject does not hold is neutral",)


def test_what_was_changed_in_a_program_is_taken_and_said(tmp_path: Path) -> None:
    settings = Settings.neutral(["a", "b"]).edit(
        {**CARRIED, "a.drive.mix": 0.5, "a.comp.knee_db": 3.0, "b.comp.slope": -0.3}
    )

    def change(xml: str) -> str:
        xml = xml.replace('value="33.300000000" unit="hertz"', 'value="70" unit="hertz"')
        # The second track becomes quieter; a program writes fewer digits.
        parts = xml.split('name="Volume"')
        parts[1] = re.sub(r'value="1\.0+"( unit="linear" min="0.0")', r'value="0.5"\1', parts[1])
        return re.sub(r'value="(\d+\.\d{6})\d+"', r'value="\1"', 'name="Volume"'.join(parts))

    found = read_dawproject(edited(written(tmp_path, settings), change))
    assert found.settings == settings.edit(
        {"a.eq.highpass_hz": 70.0, "b.fader_db": found.settings["b.fader_db"]}
    )
    assert found.settings["b.fader_db"] == pytest.approx(-6.0206, abs=1e-4)
    assert found.notes == (
        "a: changed since mixprint wrote it: eq.highpass_hz 33.3 -> 70",
        "b: changed since mixprint wrote it: fader_db 0 -> -6.0206",
    )


def test_tracks_that_came_and_went_are_said(tmp_path: Path) -> None:
    settings = Settings.neutral(["a", "b"]).edit({"a.room.send_db": -10.0, "b.drive.mix": 0.5})
    path = edited(written(tmp_path, settings), lambda xml: xml.replace('name="b"', 'name="c"'))
    found = read_dawproject(path)
    assert list(found.settings.tracks) == ["a", "c"]
    assert found.settings.tracks["a"] == settings.tracks["a"]
    assert found.settings.tracks["c"] == Strip.neutral(TRACK_FIELDS)
    assert found.notes == (
        "c: no track that mixprint wrote has this name",
        "tracks that mixprint wrote and that are gone: b",
    )


def test_a_project_of_another_program_is_read_as_far_as_it_is_understood(tmp_path: Path) -> None:
    channel = """<Devices>
      <Vst3Plugin deviceName="Pro-Q 3" deviceRole="audioFX"/>
      <Compressor deviceName="Comp" deviceRole="audioFX">
        <Attack unit="seconds" value="0.02"/><AutoMakeup value="true"/>
        <InputGain unit="decibel" value="4"/><OutputGain unit="decibel" value="-1"/>
        <Ratio unit="percent" value="75"/><Release unit="seconds" value="0.2"/>
        <Threshold unit="decibel" value="-20"/></Compressor>
      <Equalizer deviceName="EQ+" deviceRole="audioFX">
        <Band type="bell"><Freq unit="semitones" value="81"/><Gain unit="decibel" value="2"/>
          <Q unit="linear" value="2"/></Band>
        <Band type="bell"><Freq unit="hertz" value="5000"/><Gain unit="decibel" value="2"/>
          <Enabled value="false"/></Band>
        <Band type="notch"><Freq unit="hertz" value="50"/></Band>
        <Band type="lowShelf"><Freq unit="percent" value="50"/></Band></Equalizer>
      <Limiter deviceName="Lim" deviceRole="audioFX"><Enabled value="false"/></Limiter>
      </Devices><Mute value="true"/><Pan unit="normalized" value="0.25"/>
      <Sends><Send><Volume unit="linear" value="1"/></Send></Sends>
      <Volume unit="decibel" value="-inf"/>"""
    tracks = (
        '<Track name="Group" contentType="tracks"><Channel role="submix"/>'
        '<Track name="Lead Vox"><Channel><Volume unit="linear" value="0.5"/></Channel></Track>'
        '<Track name="master"><Channel/></Track></Track><Track name="FX"/>'
    )
    found = read_dawproject(project(tmp_path, channel, tracks=tracks))
    name = "Lead Vox"
    assert found.settings == Settings.neutral([name, "Lead Vox 2", "master track"]).edit(
        {
            f"{name}.fader_db": -60.0,
            f"{name}.pan": -0.5,
            f"{name}.eq.bell2.freq_hz": 880.0,
            f"{name}.eq.bell2.gain_db": 2.0,
            f"{name}.eq.bell2.q": 2.0,
            f"{name}.comp.slope": 0.75,
            f"{name}.comp.threshold_db": -24.0,
            f"{name}.comp.attack_ms": 20.0,
            f"{name}.comp.release_ms": 200.0,
            "Lead Vox 2.fader_db": found.settings["Lead Vox 2.fader_db"],
        }
    )
    assert found.settings["Lead Vox 2.fader_db"] == pytest.approx(-6.0206, abs=1e-4)
    text = "\n".join(found.notes)
    for part in (
        "Lead Vox: 'Pro-Q 3' ('Vst3Plugin') is not understood",
        "Lead Vox: 'Comp': automatic make-up gain is left out",
        "Lead Vox: 'EQ+': a band of the type 'notch' is not understood",
        "Lead Vox: 'EQ+': Freq '50' in 'percent' is not understood",
        "Lead Vox: 'EQ+' comes behind the compressor there, before it here",
        "Lead Vox: 'Lim' is off there, and left out",
        "Lead Vox: is muted there; here it is not",
        "Lead Vox: sends are left out",
        "Lead Vox: fader_db -117 is out of range (-60 to 24 dB): -60",
        "'Group': a track of the kind 'submix', or a group, is left out",
        "'FX': a track without a channel is left out",
        "track 2, 'Lead Vox', is called 'Lead Vox 2'",
        "track 3, 'master', is called 'master track'",
    ):
        assert part in text


def test_a_threshold_that_the_console_does_not_have_becomes_a_trim(tmp_path: Path) -> None:
    channel = """<Devices><Compressor deviceName="c" deviceRole="audioFX">
      <Ratio unit="linear" value="4"/><Threshold unit="decibel" value="6"/>
      </Compressor></Devices>"""
    found = read_dawproject(project(tmp_path, channel)).settings
    names = ("trim_db", "comp.threshold_db", "fader_db", "comp.slope")
    assert [found[f"Lead Vox.{name}"] for name in names] == [-6.0, 0.0, 6.0, 0.75]


def test_automation_is_said(tmp_path: Path) -> None:
    path = project(tmp_path, "")
    path = edited(
        path,
        lambda xml: xml.replace(
            "<Arrangement/>", "<Arrangement><Lanes><Points/></Lanes></Arrangement>"
        ),
        keeps_settings=False,
    )
    assert any("automation is left out" in note for note in read_dawproject(path).notes)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("channel", "head", "message"),
    [
        ("&b;", LAUGHS, "found: a document type 'x', which may define entities"),
        ("", '<!DOCTYPE x SYSTEM "file:///etc/passwd">', "a document type 'x'"),
        ("<a>" * 70 + "</a>" * 70, "", "more than 64 levels of nesting"),
        ("<a/>" * 1_001, "", "more than 1000 elements"),
        ("<a>", "", "expected XML, found: mismatched tag"),
    ],
)
def test_hostile_xml_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str, head: str, message: str
) -> None:
    monkeypatch.setattr(safe_xml, "MAX_ELEMENTS", 1_000)
    with pytest.raises(DataError, match=re.escape(message)):
        read_dawproject(project(tmp_path, channel, head=head))


def test_an_archive_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dawproject, "MAX_BYTES", 10_000)
    path = project(tmp_path, "<a/>" * 20_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"project\.xml: expected at most 10000 bytes, found more"):
        read_dawproject(path)


def test_an_archive_of_very_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dawproject, "MAX_DIRECTORY_BYTES", 1_000)
    path = project(tmp_path, "")
    read_dawproject(path)
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(20):
            archive.writestr(f"../../{n}", "")
    with pytest.raises(DataError, match="expected a list of files of at most 1000 bytes, found 1"):
        read_dawproject(path)
    # A record of 64 bits may say more than the one at the end.
    content = path.read_bytes()
    start = content.rfind(b"PK\x05\x06")
    record = b"PK\x06\x06" + bytes(36) + (1 << 40).to_bytes(8, "little") + bytes(8)
    locator = b"PK\x06\x07" + bytes(4) + start.to_bytes(8, "little") + bytes(4)
    small = content[start : start + 12] + bytes(4) + content[start + 16 :]
    path.write_bytes(content[:start] + record + locator + small)
    with pytest.raises(DataError, match="bytes, found 1099511627776"):
        read_dawproject(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a ZIP archive, found none"),
        (b"RIFF" + bytes(100), "expected a ZIP archive, found none"),
        (b"PK\x05\x06" + bytes(18), "expected project.xml in it, found none"),
        (b"PK\x05\x06" + b"\xff" * 8 + bytes(10), "expected"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.dawproject").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_dawproject(tmp_path / "x.dawproject")


def test_damaged_archives_end_in_a_sentence(tmp_path: Path) -> None:
    content = bytearray(project(tmp_path, "<Mute value='true'/>").read_bytes())
    path = tmp_path / "damaged.dawproject"
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in torch.randint(len(content), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(damaged)
        try:
            read_dawproject(path)
        except DataError:
            refused += 1
    assert refused > 30


def test_more_tracks_than_the_console_has_are_refused(tmp_path: Path) -> None:
    tracks = '<Track name="x"><Channel/></Track>' * 40
    with pytest.raises(DataError, match="expected 1 to 32 audio tracks, found 41"):
        read_dawproject(project(tmp_path, "", tracks=tracks))


def test_settings_of_another_version_are_left_and_the_rest_is_read(tmp_path: Path) -> None:
    path = project(tmp_path, '<Volume unit="linear" value="0.1"/>')
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("mixprint/settings.json", '{"format": "mixprint console", "version": 9}')
    found = read_dawproject(path)
    assert found.settings["Lead Vox.fader_db"] == pytest.approx(-20.0)
    assert "expected version 1, found 9" in found.notes[0]
