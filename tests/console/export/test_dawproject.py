"""DAWproject: valid by its published schemas, with the numbers of the settings and all audio."""

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import soundfile as sf
import torch
from lxml import etree
from torch import Tensor

from mixprint.audio.files import read_audio, write_audio
from mixprint.console.export.dawproject import write_dawproject
from mixprint.console.export.song import Export
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.errors import DataError

RATE_HZ = 8_000
SCHEMAS = Path(__file__).with_name("dawproject_schema")
NAMES = ("Gesang – Ümläute", "vocals", "Vocals", "a/b:c", "l\te")
CHANGES = {
    "vocals.trim_db": 5.0,
    "vocals.fader_db": -2.0,
    "vocals.pan": -0.5,
    "vocals.eq.highpass_hz": 80.0,
    "vocals.eq.bell2.gain_db": -3.0,
    "vocals.eq.bell2.freq_hz": 1_500.0,
    "vocals.eq.bell2.q": 2.0,
    "vocals.eq.high.gain_db": 2.5,
    "vocals.comp.slope": 0.75,
    "vocals.comp.threshold_db": -18.0,
    "vocals.comp.attack_ms": 5.0,
    "vocals.comp.release_ms": 120.0,
    "vocals.comp.knee_db": 8.0,
    "Vocals.trim_db": -30.0,
    "Vocals.fader_db": 20.0,
    "Vocals.comp.slope": 0.5,
    "Vocals.comp.threshold_db": -10.0,
    "a/b:c.fader_db": 12.0,
    "a/b:c.width": 0.5,
    "a/b:c.drive.mix": 0.5,
    "a/b:c.drive.drive_db": 6.0,
    "a/b:c.comp.slope": -0.5,
    "l\te.room.send_db": -6.0,
    "l\te.room.time_s": 0.4,
    "l\te.pan": 1.0,
    "l\te.comp.slope": 0.5,
    "master.eq.low.gain_db": 1.0,
    "master.comp.slope": 0.5,
    "master.output_db": -1.0,
}
SETTINGS = Settings.neutral(NAMES).edit(CHANGES)


def write_stems(folder: Path, settings: Settings = SETTINGS) -> dict[str, Path]:
    stems = {}
    for place, name in enumerate(settings.tracks):
        stems[name] = folder / "dry" / f"{place}.wav"
        audio_CT = 0.1 * torch.randn(2, RATE_HZ, generator=torch.Generator().manual_seed(place))
        write_audio(stems[name], audio_CT, RATE_HZ, subtype="FLOAT")
    return stems


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("song")
    notes = write_dawproject(
        Export(
            settings=SETTINGS,
            stems=write_stems(folder),
            out_dir=folder,
            title="Lied – 1",
            tempo_bpm=123,
        )
    )
    return folder, notes


def archive_of(folder: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(folder / "song.dawproject")


def project_of(folder: Path) -> ElementTree.Element:
    with archive_of(folder) as archive:
        return ElementTree.fromstring(archive.read("project.xml"))


def channel_of(folder: Path, name: str) -> ElementTree.Element:
    tracks = {track.get("name"): track for track in project_of(folder).iter("Track")}
    found = tracks[name].find("Channel")
    assert found is not None
    return found


def numbers(element: ElementTree.Element) -> dict[str, tuple[float, str | None]]:
    return {e.tag: (float(e.attrib["value"]), e.get("unit")) for e in element if e.get("unit")}


def assert_valid(xml: bytes, schema_name: str) -> None:
    schema = etree.XMLSchema(etree.parse(SCHEMAS / schema_name))
    schema.assertValid(etree.fromstring(xml))


def test_the_published_schemas_accept_it(written: tuple[Path, list[str]]) -> None:
    with archive_of(written[0]) as archive:
        assert_valid(archive.read("project.xml"), "Project.xsd")
        assert_valid(archive.read("metadata.xml"), "MetaData.xsd")
        assert "<Title>Lied – 1</Title>" in archive.read("metadata.xml").decode()
        wrong = archive.read("project.xml").replace(b"<Mute ", b"<Silent ")
    with pytest.raises(etree.DocumentInvalid):
        assert_valid(wrong, "Project.xsd")


def test_a_neutral_track_alone_is_valid_and_has_no_devices(tmp_path: Path) -> None:
    settings = Settings.neutral(["a"])
    notes = write_dawproject(
        Export(
            settings=settings, stems=write_stems(tmp_path, settings), out_dir=tmp_path, title="a"
        )
    )
    with archive_of(tmp_path) as archive:
        assert_valid(archive.read("project.xml"), "Project.xsd")
    project = project_of(tmp_path)
    assert list(project.iter("Devices")) == []
    assert project.find("Transport") is None
    assert [note.partition(":")[0] for note in notes] == ["DAWproject"]


def test_a_channel_has_the_numbers_of_its_track(written: tuple[Path, list[str]]) -> None:
    channel = channel_of(written[0], "vocals")
    assert numbers(channel) == {
        "Pan": (0.25, "normalized"),
        "Volume": (pytest.approx(10 ** (3 / 20)), "linear"),
    }
    bands = [(band.get("type"), numbers(band)) for band in channel.iter("Band")]
    butterworth = (pytest.approx(0.5**0.5), "linear")
    assert bands == [
        ("highPass", {"Freq": (80.0, "hertz"), "Q": butterworth}),
        (
            "bell",
            {"Freq": (1_500.0, "hertz"), "Gain": (-3.0, "decibel"), "Q": (2.0, "linear")},
        ),
        ("highShelf", {"Freq": (6_000, "hertz"), "Gain": (2.5, "decibel"), "Q": butterworth}),
    ]
    compressor = channel.find("Devices/Compressor")
    assert compressor is not None
    # A file that is 5 dB quieter than the console's working level is compressed 5 dB lower.
    assert numbers(compressor) == {
        "Attack": (0.005, "seconds"),
        "InputGain": (0.0, "decibel"),
        "OutputGain": (0.0, "decibel"),
        "Ratio": (75.0, "percent"),
        "Release": (0.12, "seconds"),
        "Threshold": (-23.0, "decibel"),
    }


def test_a_threshold_above_full_scale_is_a_gain_before_the_compressor(
    written: tuple[Path, list[str]],
) -> None:
    channel = channel_of(written[0], "Vocals")
    compressor = channel.find("Devices/Compressor")
    assert compressor is not None
    found = {tag: value for tag, (value, _) in numbers(compressor).items()}
    assert found["Threshold"] == 0.0
    assert found["Threshold"] - found["InputGain"] == 20.0
    volume_db = 20 * torch.tensor(numbers(channel)["Volume"][0]).log10()
    level_db = found["InputGain"] + found["OutputGain"] + float(volume_db)
    assert level_db == pytest.approx(-10.0, abs=1e-4)


def test_what_cannot_be_held_is_said(written: tuple[Path, list[str]]) -> None:
    notes = "\n".join(written[1])
    assert "the same numbers, not the same sound" in notes
    assert "vocals: the compressor's knee of 8.0 dB becomes hard: up to 0.75 dB less" in notes
    assert "a/b:c: saturation of 6.0 dB, 50 % of it, is left out" in notes
    assert "a/b:c: expansion by 1:1.5 above -20.0 dBFS is left out" in notes
    assert "a/b:c: width 50 % is left out" in notes
    assert "a/b:c: a volume ends at +6.0 dB; the 6.0 dB beyond it are an output gain" in notes
    assert "its room of 0.4 s is audio on the track 'l\\te room'" in notes
    assert "Gesang" not in notes


def test_tracks_clips_and_files_belong_together(written: tuple[Path, list[str]]) -> None:
    folder = written[0]
    project = project_of(folder)
    names = {track.attrib["id"]: track.attrib["name"] for track in project.iter("Track")}
    assert list(names.values()) == [
        *("Gesang – Ümläute", "vocals", "Vocals", "a/b:c", "l\\te", "l\\te room", "Master")
    ]
    files = {}
    for lane in project.iterfind("Arrangement/Lanes/Lanes"):
        file, clip = lane.find(".//File"), lane.find(".//Clip")
        assert file is not None
        assert clip is not None
        assert (clip.get("time"), float(clip.attrib["duration"])) == ("0.0", 1.0)
        files[names[lane.attrib["track"]]] = file.attrib["path"]
    assert len({path.casefold() for path in files.values()}) == 6
    assert files["a/b:c"] == "audio/a_b_c.wav"
    [tempo] = project.iter("Tempo")
    assert (float(tempo.attrib["value"]), tempo.get("unit")) == (123.0, "bpm")
    with archive_of(folder) as archive:
        assert archive.testzip() is None
        for place, name in enumerate(("Gesang – Ümläute", "vocals", "Vocals", "a/b:c", "l\\te")):
            assert archive.read(files[name]) == (folder / "dry" / f"{place}.wav").read_bytes()


def test_the_sound_of_a_room_is_what_the_console_adds(written: tuple[Path, list[str]]) -> None:
    folder = written[0]
    with archive_of(folder) as archive:
        audio_TC, rate_hz = sf.read(
            io.BytesIO(archive.read("audio/l_te room.wav")), dtype="float64"
        )
    assert rate_hz == RATE_HZ
    name = "l\te"
    alone = Settings({name: SETTINGS.tracks[name]})
    dry_NCT = read_audio(folder / "dry" / "4.wav", sample_rate_hz=RATE_HZ)[None]

    def sound(settings: Settings) -> Tensor:
        return render(dry_NCT, settings, RATE_HZ)[0]

    without = alone.edit({f"{name}.room.send_db": -60.0})
    expected_CT = sound(alone) - sound(without)
    assert float(expected_CT[1].abs().max()) > 0.01
    assert float(expected_CT[0].abs().max()) == 0.0
    torch.testing.assert_close(torch.from_numpy(audio_TC.T), expected_CT, rtol=0, atol=1e-7)


def test_stems_of_different_rates_are_refused(tmp_path: Path) -> None:
    settings = Settings.neutral(["a", "b"])
    stems = write_stems(tmp_path, settings)
    write_audio(stems["b"], torch.zeros(2, 100), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"expected stems of one rate, found \[8000, 16000\] Hz"):
        write_dawproject(Export(settings=settings, stems=stems, out_dir=tmp_path, title="a"))
    assert not (tmp_path / "song.dawproject").exists()
