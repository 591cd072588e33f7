"""Exports as folders: dry tracks side by side, the mix, every format, and whose files they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixprint.audio.files import probe, read_audio, write_audio
from mixprint.console.export.folder import CONSOLE_EXPORT, write_export
from mixprint.console.export.registry import FORMATS, chosen_formats, chosen_plugins
from mixprint.console.importing.apo import read_apo
from mixprint.console.importing.dawproject import read_dawproject
from mixprint.console.importing.reaper import read_reaper
from mixprint.console.rendering import render
from mixprint.console.results import write_mix
from mixprint.console.settings import Settings
from mixprint.console.tracks import read_in_step
from mixprint.errors import ConfigError, DataError
from mixprint.storage.atomic import TEMPORARY_PREFIX, name_digest
from mixprint.storage.outputs import UNFINISHED_NAME

RATE_HZ = 8_000
NAMES = ("Größe 1", "vox", "Vox", "Master")
SETTINGS = Settings.neutral(NAMES).edit(
    {
        "vox.eq.low.gain_db": 3.0,
        "Vox.eq.high.gain_db": -2.0,
        "Vox.room.send_db": -12.0,
        "Vox.room.time_s": 0.15,
        "Master.fader_db": -6.0,
        "master.output_db": -3.0,
    }
)
AS_WRITTEN = replace(SETTINGS, sample_rate_hz=RATE_HZ)


@pytest.fixture
def tracks(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for place, name in enumerate(NAMES):
        found[name] = tmp_path / "song" / f"{place}.wav"
        audio_CT = 0.1 * torch.randn(2, 4_000 - place, generator=torch.Generator().manual_seed(1))
        write_audio(found[name], audio_CT, RATE_HZ // (1 + place // 3), subtype="PCM_24")
    return found


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_lies_side_by_side(tmp_path: Path, tracks: dict[str, Path]) -> None:
    out = tmp_path / "out"
    notes = write_export(tracks, SETTINGS, out, list(FORMATS.values()), title="Lied", tempo_bpm=90)
    stems = {"Größe 1": "Größe 1", "vox": "vox", "Vox": "Vox (2)", "Master": "Master"}
    assert files_in(out) == {
        *(f"Effects/mixprint/{each}-v1.jsfx" for each in ("strip", "room", "master")),
        "song.rpp",
        *(f"dry/{stem}.wav" for stem in stems.values()),
        *(f"impulses/{stem}.eq.wav" for stem in stems.values()),
        *("impulses/Vox (2).room.wav", "impulses/Vox (2).eq-and-room.wav"),
        *("apo/Größe 1.txt", "apo/vox.txt", "apo/Vox (2).txt", "apo/Master (2).txt"),
        *("apo/master.txt", "song.dawproject", "song_pedalboard.py", "mix.wav", "sheet.md"),
        *("settings.json", "notes.md", "export.json"),
    }
    dry_NCT = torch.cat(list(read_in_step(list(tracks.values()), RATE_HZ)), dim=-1)
    assert dry_NCT.shape[-1] == 2 * (4_000 - 3)
    for name, dry_CT in zip(NAMES, dry_NCT, strict=True):
        path = out / "dry" / f"{stems[name]}.wav"
        assert (probe(path).sample_rate_hz, probe(path).num_frames) == (RATE_HZ, 7_994)
        assert torch.equal(read_audio(path, sample_rate_hz=RATE_HZ), dry_CT)
    mix_CT = render(dry_NCT, SETTINGS, RATE_HZ).sum(dim=0)
    found_CT = read_audio(out / "mix.wav", sample_rate_hz=RATE_HZ)
    torch.testing.assert_close(found_CT.double(), mix_CT, rtol=0, atol=1e-6)
    assert Settings.load(out / "settings.json") == AS_WRITTEN
    assert read_dawproject(out / "song.dawproject").settings == AS_WRITTEN
    assert read_reaper(out / "song.rpp").settings == AS_WRITTEN
    script = (out / "song_pedalboard.py").read_text()
    assert "'dry/Vox (2).wav'" in script
    assert "RATE = 8000" in script
    assert 'open("mix.wav"' not in script
    assert '"mix_pedalboard.wav", "w"' in script
    record = json.loads((out / "export.json").read_text())
    assert record["notes"] == notes
    assert record["formats"] == list(FORMATS)
    assert all(f"- {note}" in (out / "notes.md").read_text() for note in notes)


def test_texts_come_back_under_the_names_of_the_tracks(
    tmp_path: Path, tracks: dict[str, Path]
) -> None:
    write_export(tracks, SETTINGS, tmp_path / "out", chosen_formats(["apo"]), title="x")
    expected = SETTINGS.edit({"Vox.room.send_db": -60.0, "Vox.room.time_s": 1.0})
    found = read_apo(tmp_path / "out" / "apo")
    assert found.settings.tracks == expected.tracks
    assert found.settings.master == expected.master
    # Formats without audio copy none.
    assert not (tmp_path / "out" / "dry").exists()


def test_a_project_for_reaper_has_the_plug_ins_that_are_asked_for(
    tmp_path: Path, tracks: dict[str, Path]
) -> None:
    formats = chosen_formats(["reaper"])
    write_export(tracks, SETTINGS, tmp_path / "own", formats, title="x")
    notes = write_export(
        tracks, SETTINGS, tmp_path / "stock", formats, title="x", plugins=chosen_plugins("stock")
    )
    assert "<JS mixprint/strip-v1.jsfx" in (tmp_path / "own" / "song.rpp").read_text()
    project = (tmp_path / "stock" / "song.rpp").read_text()
    assert "ReaEQ" in project
    assert "<JS" not in project
    assert not (tmp_path / "stock" / "Effects").exists()
    assert any(note.startswith("REAPER: ") and "dB" in note for note in notes)
    with pytest.raises(ConfigError, match="--plugins: expected jsfx or stock, found 'vst'"):
        chosen_plugins("vst")


def test_an_export_is_replaced_when_asked_and_nothing_else_is(
    tmp_path: Path, tracks: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    write_export(tracks, SETTINGS, out, list(FORMATS.values()), title="x")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="found an export of the console of another call"):
        write_export(tracks, SETTINGS, out, chosen_formats(["sheet"]), title="x")
    write_export(tracks, SETTINGS, out, chosen_formats(["sheet"]), title="x", overwrite=True)
    assert files_in(out) == {"sheet.md", "export.json", "mine.txt"}
    assert [path.name for path in out.iterdir() if path.is_dir()] == []


def test_what_a_killed_export_has_left_is_removed(tmp_path: Path, tracks: dict[str, Path]) -> None:
    out = tmp_path / "out"
    leftovers = [
        path.with_name(f"{TEMPORARY_PREFIX}{name_digest(path)}-{'0' * 32}{path.suffix}")
        for path in (out / "dry" / "vox.wav", out / "mix.wav", out / "song.dawproject")
    ]
    (out / "dry").mkdir(parents=True)
    for path in leftovers:
        path.write_text("half")
    (out / UNFINISHED_NAME).write_text(CONSOLE_EXPORT.noun)
    write_export(tracks, SETTINGS, out, chosen_formats(["dawproject"]), title="x")
    assert not any(path.exists() for path in leftovers)


def test_settings_that_are_read_are_not_written_over(
    tmp_path: Path, tracks: dict[str, Path]
) -> None:
    SETTINGS.save(tmp_path / "settings.json")
    with pytest.raises(DataError, match="expected another folder than that of an input"):
        write_export(
            tracks,
            SETTINGS,
            tmp_path,
            chosen_formats([]),
            title="x",
            inputs=[tmp_path / "settings.json"],
        )
    with pytest.raises(DataError, match=r"found other files there: settings\.json"):
        write_export(tracks, SETTINGS, tmp_path, chosen_formats([]), title="x")
    assert files_in(tmp_path) >= {"settings.json"}
    assert not (tmp_path / "mix.wav").exists()


def test_an_export_is_not_taken_for_a_mix(tmp_path: Path, tracks: dict[str, Path]) -> None:
    out = tmp_path / "out"
    write_export(tracks, SETTINGS, out, chosen_formats(["settings", "reaper"]), title="x")
    before = files_in(out)
    with pytest.raises(DataError, match=r"found other files there: mix\.wav, settings\.json"):
        write_mix(tracks, SETTINGS, out, overwrite=True)
    assert files_in(out) == before


def test_names_that_are_paths_stay_inside(tmp_path: Path, tracks: dict[str, Path]) -> None:
    names = ("/etc/passwd", "..\\..\\x".replace(".", ""), "a/b", "a:b", "CON", " ", "x" * 200)
    settings = replace(Settings.neutral(names), sample_rate_hz=RATE_HZ)
    given = dict.fromkeys(names, tracks["vox"])
    formats = chosen_formats(["apo, impulses", "dawproject"])
    write_export(given, settings, tmp_path / "out", formats, title="x")
    assert {path.name for path in (tmp_path / "out" / "dry").iterdir()} == {
        *("_etc_passwd.wav", "___x.wav"[1:], "a_b.wav", "a_b (2).wav", "CON_.wav", "_.wav"),
        f"{'x' * 200}.wav",
    }
    assert read_dawproject(tmp_path / "out" / "song.dawproject").settings == settings


def test_wrong_calls_are_told_before_the_work(tmp_path: Path, tracks: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"--to: expected .*dawproject.*, found 'cubase'"):
        chosen_formats(["apo,cubase"])
    with pytest.raises(ConfigError, match="tempo_bpm: expected 10 to 1000, found 0"):
        write_export(tracks, SETTINGS, tmp_path / "out", chosen_formats([]), title="x", tempo_bpm=0)
    with pytest.raises(ConfigError, match="expected those of the tracks"):
        write_export(
            tracks, Settings.neutral(["other"]), tmp_path / "out", chosen_formats([]), title="x"
        )
    assert not (tmp_path / "out").exists()


def test_a_project_has_the_rate_of_its_audio(tmp_path: Path) -> None:
    audio_CT = 0.1 * torch.randn(2, 3_000, generator=torch.Generator().manual_seed(1))
    write_audio(tmp_path / "song" / "a.wav", audio_CT, 48_000, subtype="PCM_24")
    tracks, settings = {"a": tmp_path / "song" / "a.wav"}, Settings.neutral(["a"])
    out = tmp_path / "out"
    write_export(tracks, settings, out, [FORMATS["reaper"], FORMATS["settings"]], title="x")
    assert "SAMPLERATE 48000" in (out / "song.rpp").read_text()
    assert Settings.load(out / "settings.json").sample_rate_hz == 48_000
    assert read_reaper(out / "song.rpp").settings.sample_rate_hz == 48_000


def test_the_folder_of_the_tracks_is_refused(tmp_path: Path, tracks: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="expected another folder than that of the tracks"):
        write_export(tracks, SETTINGS, tmp_path / "song", [FORMATS["reaper"]], title="x")
