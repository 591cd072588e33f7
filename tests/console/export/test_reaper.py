"""Projects for REAPER, read by another reader than ours."""

from pathlib import Path

import pytest
import torch

from mixprint.audio.files import write_audio
from mixprint.console.export.jsfx import MASTER_NAME, STRIP_NAME, plug_ins
from mixprint.console.export.reaper import write_reaper
from mixprint.console.export.song import Export
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS
from mixprint.console.settings import Settings, Strip
from mixprint.errors import ConfigError, DataError
from tests.console.test_rendering import EVERYTHING

NAMES = {"a": "lead vocal", "b": 'Gesang "groß"', "c": "it's `c`"}


def settings_and_stems(folder: Path) -> tuple[Settings, dict[str, Path]]:
    """A console with odd names, and a second of silence for each track."""
    changes = {
        f"{NAMES.get(path[0], 'master')}.{path.partition('.')[2]}": value
        for path, value in EVERYTHING.items()
    }
    settings = Settings.neutral(list(NAMES.values())).edit(changes)
    settings = settings.edit({f"{NAMES['a']}.eq.bell1.q": 1 / 3, f"{NAMES['a']}.pan": 1e-7})
    stems = {name: folder / "tracks" / f"{name}.wav" for name in settings.tracks}
    for path in stems.values():
        write_audio(path, torch.zeros(2, 4_410), 44_100)
    return settings, stems


def test_another_reader_finds_the_settings(tmp_path: Path) -> None:
    rpp = pytest.importorskip("rpp")
    settings, stems = settings_and_stems(tmp_path)
    write_reaper(
        Export(settings=settings, stems=stems, out_dir=tmp_path, title="A 'song'", tempo_bpm=97.5)
    )
    project = rpp.loads((tmp_path / "song.rpp").read_text(encoding="utf-8"))
    assert project.find("TEMPO")[1] == "97.5"
    assert project.find("SAMPLERATE")[1] == "44100"
    found = {}
    for track in project.findall("TRACK"):
        name = track.find("NAME")[1]
        effect = track.find("FXCHAIN").find("JS")
        assert effect.attrib == [STRIP_NAME, ""]
        assert len(effect.children[0]) == 64
        values = tuple(map(float, effect.children[0][: len(TRACK_FIELDS)]))
        found[name] = Strip(TRACK_FIELDS, values)
        assert track.find("VOLPAN")[1:3] == ["1", "0"]
        assert track.find("ITEM").find("SOURCE").find("FILE")[1] == f"tracks/{name}.wav"
        assert float(track.find("ITEM").find("LENGTH")[1]) == pytest.approx(0.1)
    effect = project.find("MASTERFXLIST").find("JS")
    assert effect.attrib == [MASTER_NAME, ""]
    values = tuple(map(float, effect.children[0][: len(MASTER_FIELDS)]))
    assert Settings(found, Strip(MASTER_FIELDS, values)) == settings


def test_the_plug_ins_lie_beside_it(tmp_path: Path) -> None:
    settings, stems = settings_and_stems(tmp_path)
    notes = write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path, title="song"))
    for name, text in plug_ins().items():
        assert (tmp_path / "Effects" / name).read_text(encoding="utf-8") == text
    assert len(notes) == 1
    assert "copy that folder" in notes[0]


def test_a_name_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    name = "\"'`"
    write_audio(tmp_path / "a.wav", torch.zeros(2, 100), 44_100)
    settings = Settings.neutral([name])
    notes = write_reaper(
        Export(settings=settings, stems={name: tmp_path / "a.wav"}, out_dir=tmp_path, title="song")
    )
    assert notes[1].startswith(f"track {name}: is called \"'' there")


def test_files_elsewhere_and_other_tracks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_audio(tmp_path / "a.wav", torch.zeros(2, 100), 44_100)
    settings, stems = Settings.neutral(["a"]), {"a": tmp_path / "a.wav"}
    with pytest.raises(DataError, match=r"a\.wav: expected a file below"):
        write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path / "out", title="song"))
    with pytest.raises(ConfigError, match="expected those of the tracks b, found those of a"):
        write_reaper(
            Export(
                settings=settings, stems={"b": tmp_path / "a.wav"}, out_dir=tmp_path, title="song"
            )
        )
    assert not (tmp_path / "out" / "song.rpp").exists()
