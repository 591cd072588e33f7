"""Tracks as files: named, read in step, rendered into a folder; and pairs found by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, write_audio
from mixprint.console.pairs import Pair, find_pairs, load_pair
from mixprint.console.recovery import recover_pair
from mixprint.console.results import CONSOLE_MIX, write_mix
from mixprint.console.settings import Settings
from mixprint.console.tracks import file_stems, find_tracks, read_in_step, read_whole
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.pages.page import is_page
from mixprint.storage.atomic import atomic_path
from mixprint.storage.outputs import UNFINISHED_NAME

RATE_HZ = 44_100


def write_noise(path: Path, seconds: float, *, rate_hz: int = RATE_HZ, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(seconds * rate_hz)
    level_T = torch.nn.functional.interpolate(
        torch.rand(1, 1, round(8 * seconds) + 2, generator=generator) ** 3, num_samples
    )[0, 0]
    audio_CT = 0.2 * level_T * torch.randn(2, num_samples, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, audio_CT, rate_hz, subtype="FLOAT")
    return audio_CT


def test_tracks_are_called_as_their_files(tmp_path: Path) -> None:
    for name in ("Schlagzeug – links.wav", "voice.v2.flac.wav", "notes.txt"):
        (tmp_path / "song" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "song" / name).touch()
    assert list(find_tracks([tmp_path / "song"])) == ["Schlagzeug – links", "voice_v2_flac"]
    with pytest.raises(ConfigError, match=r"expected different names, found .*a\.wav and .*a\.wav"):
        find_tracks([tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="expected audio files in it, found none"):
        find_tracks([tmp_path / "empty"])


def test_what_a_folder_of_tracks_holds_beside_them(tmp_path: Path) -> None:
    for name in ("._a.wav", "...And a.AIFC", "Cafe\u0301.w64", "readme.txt"):
        (tmp_path / name).touch()
    assert list(find_tracks([tmp_path])) == ["___And a", "Caf\u00e9"]
    (tmp_path / "lead.m4a").touch()
    with pytest.raises(AudioError, match=r"lead\.m4a: expected one of \.aif.*convert it"):
        find_tracks([tmp_path])


def test_names_of_tracks_become_names_of_files_on_any_system() -> None:
    names = ("Größe", "vox", "VOX", "vox (2)", "a/b", "a?b", "nul", " . ", "/", "ä" * 200)
    stems = file_stems(names)
    assert list(stems.values()) == [
        *("Größe", "vox", "VOX (2)", "vox (2) (2)", "a_b", "a_b (2)", "nul_", "_", "_ (2)"),
        "ä" * 100,
    ]
    assert len({stem.casefold() for stem in stems.values()}) == len(names)


def test_files_are_read_in_step(tmp_path: Path) -> None:
    long_CT = write_noise(tmp_path / "long.wav", 7.0)
    short_CT = write_noise(tmp_path / "short.wav", 1.0, seed=1)
    write_noise(tmp_path / "fast.wav", 2.0, rate_hz=48_000, seed=2)
    paths = [tmp_path / f"{name}.wav" for name in ("long", "short", "fast")]
    whole_NCT = read_whole(paths, RATE_HZ)
    assert torch.equal(torch.cat(list(read_in_step(paths, RATE_HZ)), dim=-1), whole_NCT)
    assert whole_NCT.shape == (3, 2, 7 * RATE_HZ)
    assert torch.equal(whole_NCT[0], long_CT)
    assert torch.equal(whole_NCT[1, :, :RATE_HZ], short_CT)
    assert float(whole_NCT[1, :, RATE_HZ:].abs().max()) == 0.0
    assert torch.equal(whole_NCT[2, :, : 2 * RATE_HZ], read_audio(paths[2], sample_rate_hz=RATE_HZ))


def test_a_mix_is_the_sum_of_its_tracks_and_tells_what_was_done(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b c")):
        write_noise(tmp_path / "song" / f"{name}.wav", 6.0 - seed, seed=seed)
    tracks = find_tracks([tmp_path / "song"])
    settings = Settings.neutral(list(tracks)).edit(
        {"a.eq.high.gain_db": 3.0, "b c.room.send_db": -9.0, "master.comp.slope": 0.5}
    )
    assert write_mix(tracks, settings, tmp_path / "out") == RATE_HZ
    mix_CT = read_audio(tmp_path / "out" / "mix.wav")
    parts = [read_audio(tmp_path / "out" / "tracks" / f"{name}.wav") for name in tracks]
    torch.testing.assert_close(parts[0] + parts[1], mix_CT, rtol=0, atol=1e-6)
    assert mix_CT.shape[-1] == 6 * RATE_HZ
    assert Settings.load(tmp_path / "out" / "settings.json") == settings
    assert "+3.0 dB shelf above 6 kHz" in (tmp_path / "out" / "sheet.md").read_text()
    assert is_page(tmp_path / "out" / "console.html", "Console: out")
    with pytest.raises(DataError, match="found a mix of the console of another call"):
        write_mix(tracks, settings, tmp_path / "out")
    write_mix(tracks, Settings.neutral(list(tracks)), tmp_path / "out", overwrite=True)
    neutral_CT = read_audio(tmp_path / "out" / "tracks" / "a.wav")
    assert torch.equal(neutral_CT, read_audio(tracks["a"]))


def test_what_a_killed_rendering_has_left_goes(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 0.5)
    tracks, out = find_tracks([tmp_path / "a.wav"]), tmp_path / "out"
    for name in ("mix.wav", "tracks/a.wav"):
        with atomic_path(out / name) as temporary:
            temporary.touch()
        (out / name).rename(temporary)  # as if killed before the end
    (out / UNFINISHED_NAME).write_text(CONSOLE_MIX.noun)
    write_mix(tracks, Settings.neutral(["a"]), out)
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    assert names == [
        *("console.html", "mix.wav", "settings.json", "sheet.md", "tracks", "tracks/a.wav")
    ]


def test_tracks_that_differ_in_letter_case_have_files_of_their_own(tmp_path: Path) -> None:
    for place, name in enumerate(("vox", "Vox")):
        write_noise(tmp_path / f"{place}" / f"{name}.wav", 1.0, seed=place)
    tracks = find_tracks([tmp_path / "0", tmp_path / "1"])
    write_mix(tracks, Settings.neutral(list(tracks)), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "tracks").iterdir()} == {
        *("vox.wav", "Vox (2).wav")
    }


def test_settings_of_other_tracks_are_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 1.0)
    with pytest.raises(ConfigError, match="expected those of the tracks a, found those of b"):
        write_mix(find_tracks([tmp_path / "a.wav"]), Settings.neutral(["b"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_of_the_tracks_is_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 1.0)
    with pytest.raises(DataError, match=r"another folder than that of the tracks, found .*a\.wav"):
        write_mix(find_tracks([tmp_path]), Settings.neutral(["a"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_folder_with_other_files_stays_as_it_is(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 1.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mix.wav").write_text("mine")
    with pytest.raises(DataError, match=r"found other files there: mix\.wav"):
        write_mix(find_tracks([tmp_path / "a.wav"]), Settings.neutral(["a"]), tmp_path / "out")
    assert (tmp_path / "out" / "mix.wav").read_text() == "mine"


def _made(path: Path) -> Path:
    """Make the folder of a file."""
    path.parent.mkdir(exist_ok=True)
    return path


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    raw, mixed = tmp_path / "raw", tmp_path / "mixed"
    voice_CT = write_noise(raw / "voice.wav", 12.0)
    parts = [write_noise(raw / "song" / f"{n}.wav", 12.0, seed=n) for n in (1, 2)]
    write_noise(raw / "alone.wav", 1.0)
    mixed.mkdir()
    write_audio(mixed / "voice.wav", -0.5 * voice_CT.roll(100, -1), RATE_HZ, subtype="FLOAT")
    write_audio(mixed / "song.wav", parts[0] + parts[1], RATE_HZ, subtype="FLOAT")
    write_noise(mixed / "nobody.wav", 1.0)
    pairs, unpaired = find_pairs(raw, mixed)
    assert [(pair.name, list(pair.tracks)) for pair in pairs] == [
        ("song", ["1", "2"]),
        ("voice", ["voice"]),
    ]
    assert [each.path.name for each in unpaired] == ["alone.wav", "nobody.wav"]
    assert "expected its mix alone.* or alone/ in" in unpaired[0].reason
    found = load_pair(pairs[1])
    assert round(found.alignment.delay_s * RATE_HZ) == 100
    assert found.alignment.polarity == -1
    torch.testing.assert_close(found.mix_CT[:, :-200], 0.5 * voice_CT[:, :-200])
    assert found.mixed_NCT is not None, "a lone track is all of its mix"
    assert load_pair(pairs[0]).mixed_NCT is None
    # The tracks as they sound in the mix, late as one, in place of their sum.
    (mixed / "song.wav").unlink()
    for name, part_CT in zip("21", reversed(parts), strict=True):
        part_CT = 0.1 * int(name) * part_CT.roll(50, -1)
        write_audio(_made(mixed / "song" / f"{name}.wav"), part_CT, RATE_HZ, subtype="FLOAT")
    (song, _), _ = find_pairs(raw, mixed)
    found = load_pair(song)
    assert round(found.alignment.delay_s * RATE_HZ) == 50
    assert found.mixed_NCT is not None
    torch.testing.assert_close(found.mixed_NCT.sum(dim=0), found.mix_CT)
    torch.testing.assert_close(found.mixed_NCT[1, :, :-100], 0.2 * parts[1][:, :-100])
    # Two mixes of one name: which is meant?
    (mixed / "voice.flac").touch()
    pairs, unpaired = find_pairs(raw, mixed)
    assert [pair.name for pair in pairs] == ["song"]
    assert "called voice, found voice.flac, voice.wav" in unpaired[0].reason
    with pytest.raises(DataError, match="nowhere: expected a folder, found none"):
        find_pairs(raw, tmp_path / "nowhere")


def test_a_mix_among_its_tracks_is_refused(tmp_path: Path) -> None:
    for name in ("a", "mix"):
        write_noise(tmp_path / f"{name}.wav", 1.0)
    pair = Pair("song", find_tracks([tmp_path]), tmp_path / "mix.wav")
    with pytest.raises(ConfigError, match=r"mix\.wav: expected a mix apart from its tracks"):
        recover_pair(pair, tmp_path / "out")
