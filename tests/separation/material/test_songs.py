"""Songs with true stems: what is found, what is held out, what is refused."""

from pathlib import Path

import pytest
import soundfile as sf
import torch

from mixprint.errors import DataError
from mixprint.separation.material import songs
from mixprint.separation.material.songs import (
    download_songs,
    find_songs,
    long_enough,
    read_mixture,
    read_stems,
    split_songs,
    training_songs,
)
from mixprint.stems import STEMS
from tests.separation.trials import make_songs


@pytest.fixture
def songs_dir(tmp_path: Path) -> Path:
    return make_songs(tmp_path / "songs", 4, compositions=3)


def test_split_keeps_compositions_together(songs_dir: Path) -> None:
    songs = find_songs(songs_dir)
    train, valid = split_songs(songs, 1)
    assert {s.composition for s in train}.isdisjoint(s.composition for s in valid)
    assert len(train) + len(valid) == 4
    assert split_songs(list(reversed(songs)), 1)[1] == list(reversed(valid))
    with pytest.raises(DataError, match="hold out"):
        split_songs(songs, 3)


def test_mono_stems_are_read_as_stereo(tmp_path: Path) -> None:
    for stem in STEMS:
        sf.write(tmp_path / f"{stem}.wav", torch.ones(100).numpy() * 0.5, 44_100)
    assert read_stems(find_songs(tmp_path)[0], 10, 20).shape == (4, 2, 20)


def test_what_is_wrong_with_the_data_is_said(tmp_path: Path) -> None:
    make_songs(tmp_path, 1, duration_s=0.1)
    with pytest.raises(DataError, match=r"at least 0\.2 s, found 1 shorter"):
        long_enough(find_songs(tmp_path), 8_820)
    sf.write(tmp_path / "song0" / "bass.wav", torch.zeros(100, 2).numpy(), 48_000)
    with pytest.raises(DataError, match="48000"):
        find_songs(tmp_path)
    sf.write(tmp_path / "song0" / "bass.wav", torch.zeros(0, 2).numpy(), 44_100)
    with pytest.raises(DataError, match=r"bass\.wav: expected audio, found none"):
        find_songs(tmp_path)
    (tmp_path / "song0" / "bass.wav").unlink()
    with pytest.raises(DataError, match=r"bass\.wav: .*, found no such file"):
        find_songs(tmp_path)


def test_a_folder_without_songs_says_what_it_holds_instead(tmp_path: Path) -> None:
    def reason(folder: Path) -> str:
        with pytest.raises(DataError, match=r"expected folders with vocals\.wav or ") as raised:
            find_songs(folder)
        return str(raised.value).partition("found none: ")[2]

    assert reason(tmp_path / "misspelt") == "there is no such folder"
    assert reason(tmp_path) == "it is empty"
    # What a killed download has half unpacked is hidden, and no song.
    make_songs(tmp_path / ".hidden", 1)
    assert reason(tmp_path) == "it holds 4 other files, such as .hidden/song0/bass.wav"
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked").symlink_to(make_songs(tmp_path / "songs", 1))
    assert reason(other) == "links to folders are not followed: linked"


def test_songs_are_downloaded_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_unpacked(archive: object, folder: Path) -> None:
        make_songs(folder / "train", 2)

    monkeypatch.setattr(songs, "fetch_unpacked", fetch_unpacked)
    download_songs(tmp_path / "new")
    assert [song.path.parent for song in training_songs(tmp_path / "new", 0)[0]] == [
        tmp_path / "new" / "musdb18hq" / "train"
    ] * 2
    # A second time it would find its folder full.
    download_songs(tmp_path / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.stem.mp4").touch()
    download_songs(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["a.stem.mp4"]


def test_songs_of_the_validation_split_alone_are_nothing_to_train_on(tmp_path: Path) -> None:
    (make_songs(tmp_path, 1) / "song0").rename(tmp_path / "Leaf - Summerghost")
    with pytest.raises(DataError, match=r"beside those of MUSDB18's validation split"):
        training_songs(tmp_path, 1)
    assert len(training_songs(tmp_path, 0)[0]) == 1


def test_a_few_songs_that_cannot_be_used_are_left_out(
    songs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (songs_dir / "song1" / "vocals.wav").unlink()
    (songs_dir / "song2" / "drums.wav").write_bytes(b"no audio")
    with caplog.at_level("WARNING", "mixprint.separation.material.songs"):
        songs = find_songs(songs_dir, max_bad_fraction=0.5)
    assert [song.path.name for song in songs] == ["song0", "song3"]
    assert "song1/vocals.wav" in caplog.text
    assert "song2/drums.wav" in caplog.text
    with pytest.raises(DataError, match=r"at most 1 of 4 songs to be unusable, found 2: .*song1"):
        find_songs(songs_dir, max_bad_fraction=0.1)


def test_of_musdb_only_the_training_songs_are_looked_at(tmp_path: Path) -> None:
    make_songs(tmp_path / "train", 3)
    make_songs(tmp_path / "test", 2)
    train, held_out = training_songs(tmp_path, 1)
    assert len(train) == 2
    assert len(held_out) == 1
    assert {song.path.parent.name for song in [*train, *held_out]} == {"train"}
    (tmp_path / "train" / "song1").rename(tmp_path / "train" / "Leaf - Summerghost")
    train, held_out = training_songs(tmp_path, 2)
    assert [song.path.name for song in train] == ["song0", "song2"]
    assert [song.path.name for song in held_out] == ["Leaf - Summerghost"]
    assert training_songs(tmp_path, 0)[1] == []


@pytest.mark.parametrize("content", ["[]", '{"song": ["a"]}', "{"])
def test_settings_that_are_none_make_a_song_unusable(tmp_path: Path, content: str) -> None:
    folder = make_songs(tmp_path, 2)
    (folder / "song1" / "settings.json").write_text(content)
    found = find_songs(folder, max_bad_fraction=0.5)
    assert [song.path.name for song in found] == ["song0"]


@pytest.mark.parametrize("root", [".", "musdb18hq", "a/b"])
@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "test")])
def test_songs_for_tests_are_not_trained_on_whatever_the_case_and_depth_of_their_folder(
    tmp_path: Path, root: str, train: str, test: str
) -> None:
    make_songs(tmp_path / root / train, 3)
    make_songs(tmp_path / root / test, 2)
    (tmp_path / root / test / "song0" / "bass.wav").unlink()
    found = [song for part in training_songs(tmp_path, 1) for song in part]
    assert sorted(song.path for song in found) == [
        tmp_path / root / train / f"song{index}" for index in range(3)
    ]


@pytest.mark.parametrize("test", ["test", "Test", "musdb18hq/TEST"])
@pytest.mark.parametrize("beside", ["", "other", "train"])
def test_a_test_folder_without_songs_to_train_on_beside_it_is_refused(
    tmp_path: Path, test: str, beside: str
) -> None:
    make_songs(tmp_path / test, 3)
    if beside == "train":
        (tmp_path / test).with_name(beside).mkdir()
    elif beside:
        make_songs((tmp_path / test).with_name(beside), 2)
    with pytest.raises(DataError, match=rf"{test}: expected a folder train .* beside it"):
        training_songs(tmp_path, 1)


def test_a_song_may_be_called_train_or_test(tmp_path: Path) -> None:
    make_songs(tmp_path, 2)
    (tmp_path / "song0").rename(tmp_path / "Test")
    (tmp_path / "song1").rename(tmp_path / "Train")
    assert [song.path.name for song in training_songs(tmp_path, 0)[0]] == ["Test", "Train"]


@pytest.mark.parametrize("suffix", ["flac", "FLAC", "WAV", "Wav"])
def test_stems_of_any_suffix_in_any_case_are_trained_on(tmp_path: Path, suffix: str) -> None:
    expected_SCT = read_stems(find_songs(make_songs(tmp_path / "wav", 1))[0])
    for stem in STEMS:
        source = tmp_path / "wav" / "song0" / f"{stem}.wav"
        target = tmp_path / "other" / "song0" / f"{stem}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, *sf.read(source, dtype="int16"), format=suffix, subtype="PCM_16")
    (song,) = training_songs(tmp_path / "other", 0)[0]
    assert torch.equal(read_stems(song), expected_SCT)
    mixture = tmp_path / "other" / "song0" / f"mixture.{suffix}"
    sf.write(mixture, torch.full((22_050, 2), 0.25).numpy(), 44_100, format=suffix)
    (song,) = find_songs(tmp_path / "other")
    assert read_mixture(song).unique().item() == 0.25


def test_of_a_stem_in_two_formats_the_wav_is_read(tmp_path: Path) -> None:
    folder = make_songs(tmp_path, 1) / "song0"
    sf.write(folder / "bass.flac", torch.zeros(10, 2).numpy(), 44_100)
    (song,) = find_songs(tmp_path)
    assert song.files["bass"] == folder / "bass.wav"
    assert song.num_samples == 22_050
