"""MUSDB18 in its own form; a stand-in for stempeg reads files of arrays by that name."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mixprint.errors import ConfigError, DataError
from mixprint.separation.material import musdb
from mixprint.separation.material.musdb import STREAMS
from mixprint.separation.material.songs import (
    find_songs,
    read_mixture,
    read_stems,
    training_songs,
)
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

NUM_SAMPLES = 8_820
STEMPEG = """
import numpy as np
import ffmpeg

class Info:
    def __init__(self, path):
        try:
            self.audio_STC = np.load(open(path, "rb"))
        except ValueError:
            raise ffmpeg.Error(b"banner\\n" + path.encode() + b": Invalid data") from None

    def audio_stream_idx(self):
        return [10 + number for number in range(len(self.audio_STC))]

    def duration(self, number):
        return DURATION_S

def read_stems(path, stem_id, dtype, info, always_3d):
    assert always_3d
    return info.audio_STC[[stem_id - 10]].astype(dtype), 44100
"""
FFMPEG = """
class Error(Exception):
    def __init__(self, stderr):
        super().__init__("see stderr")
        self.stderr = stderr
"""


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, package: bool, programs: bool
) -> None:
    """Have the stand-in installed, or nothing."""
    folder.mkdir()
    for name, text in (("stempeg", STEMPEG), ("ffmpeg", FFMPEG)):
        monkeypatch.delitem(sys.modules, name, raising=False)
        text = text.replace("DURATION_S", str(NUM_SAMPLES / SAMPLE_RATE_HZ))
        (folder / f"{name}.py").write_text(text)
    if package:
        monkeypatch.syspath_prepend(folder)
    else:
        monkeypatch.setattr(musdb, "find_spec", lambda name: None)
    for name in ("ffmpeg", "ffprobe") if programs else ():
        (folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIXPRINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "stand-in", monkeypatch, package=True, programs=True)


def write_song(path: Path, *, num_streams: int = 5, num_samples: int = NUM_SAMPLES) -> np.ndarray:
    """Write a song whose streams are noise, each at a level of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    audio_STC = rng.uniform(-1, 1, (num_streams, num_samples, 2)).astype(np.float32)
    audio_STC *= np.linspace(0.5, 0.1, num_streams, dtype=np.float32)[:, None, None]
    with path.open("wb") as file:
        np.save(file, audio_STC)
    return audio_STC


def test_streams_become_the_stems_of_their_names(tmp_path: Path, decoder: None) -> None:
    audio_STC = write_song(tmp_path / "songs" / "a - b.Stem.MP4")
    (song,) = find_songs(tmp_path / "songs")
    assert song.composition == "a - b"
    expected_SCT = torch.from_numpy(audio_STC[[STREAMS.index(s) for s in STEMS]]).mT
    assert (read_stems(song) - expected_SCT).abs().max() < 2**-15
    mixture_CT = torch.from_numpy(audio_STC[0]).T
    assert (read_mixture(song, 100, 50) - mixture_CT[:, 100:150]).abs().max() < 2**-15
    # A caller that has its path finds the song again.
    assert find_songs(song.path) == [song]


def test_peaks_above_full_scale_lower_all_streams_alike(tmp_path: Path, decoder: None) -> None:
    audio_STC = write_song(tmp_path / "a.stem.mp4")
    audio_STC[0, 7, 0] = 1.25
    with (tmp_path / "a.stem.mp4").open("wb") as file:
        np.save(file, audio_STC)
    (song,) = find_songs(tmp_path / "a.stem.mp4")
    gain = (1 - 2**-15) / 1.25
    assert read_mixture(song)[0, 7].item() == pytest.approx(1 - 2**-15, abs=2**-16)
    drums_CT = torch.from_numpy(audio_STC[1]).T * gain
    assert (read_stems(song)[STEMS.index("drums")] - drums_CT).abs().max() < 2**-15


def test_only_songs_to_train_on_are_decoded_and_only_once(
    tmp_path: Path, cache: Path, decoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Train/a - b", "Train/Leaf - Summerghost", "Test/c - d"):
        write_song(tmp_path / "songs" / f"{name}.stem.mp4")
    (tmp_path / "songs" / "Train" / "._a - b.stem.mp4").write_text("of macOS")
    found = training_songs(tmp_path / "songs", 1)
    assert [[song.composition for song in part] for part in found] == [
        ["a - b"],
        ["Leaf - Summerghost"],
    ]
    assert len([path for path in (cache / "musdb18").iterdir() if path.is_dir()]) == 2
    # What is decoded needs no decoder any more, unless its file is another one since.
    install(tmp_path / "nothing", monkeypatch, package=False, programs=False)
    assert training_songs(tmp_path / "songs", 1) == found
    os.utime(tmp_path / "songs" / "Train" / "a - b.stem.mp4", (0, 0))
    with pytest.raises(ConfigError, match="pip install stempeg"):
        training_songs(tmp_path / "songs", 1)


def test_songs_for_tests_alone_are_refused(tmp_path: Path, decoder: None) -> None:
    write_song(tmp_path / "test" / "a.stem.mp4")
    with pytest.raises(DataError, match=r"test: expected a folder train with songs beside it"):
        training_songs(tmp_path, 0)


@pytest.mark.parametrize(
    ("package", "programs", "missing"),
    [
        (False, True, r"the Python package stempeg \(`\S+ -m pip install stempeg`\);"),
        (True, False, r"ffmpeg and ffprobe \(Debian: `apt-get install -y ffmpeg`\);"),
        (False, False, r"the Python package stempeg .*, nor ffmpeg and ffprobe"),
    ],
)
def test_one_error_says_what_to_install(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: bool,
    programs: bool,
    missing: str,
) -> None:
    for name in "ab":
        write_song(tmp_path / "songs" / f"{name}.stem.mp4")
    install(tmp_path / "stand-in", monkeypatch, package=package, programs=programs)
    with pytest.raises(ConfigError, match=f"did not find {missing}"):
        find_songs(tmp_path / "songs", max_bad_fraction=1.0)


def test_a_file_that_is_no_song_is_left_out_and_leaves_nothing(
    tmp_path: Path, cache: Path, decoder: None, caplog: pytest.LogCaptureFixture
) -> None:
    write_song(tmp_path / "songs" / "a.stem.mp4", num_streams=4)
    write_song(tmp_path / "songs" / "b.stem.mp4", num_samples=NUM_SAMPLES // 4)
    (tmp_path / "songs" / "c.stem.mp4").write_bytes(b"no audio at all")
    write_song(tmp_path / "songs" / "d.stem.mp4")
    (song,) = find_songs(tmp_path / "songs", max_bad_fraction=0.75)
    assert song.path.name == "d.stem.mp4"
    assert (
        "a.stem.mp4: expected 5 audio streams (mixture, drums, bass, other, vocals), found 4"
        in (caplog.text)
    )
    assert "b.stem.mp4: expected 0.20 s of mixture, found 0.05 s" in caplog.text
    assert "c.stem.mp4: expected a song in the form of MUSDB18, found: " in caplog.text
    assert "c.stem.mp4: Invalid data" in caplog.text
    (folder,) = (path for path in (cache / "musdb18").iterdir() if path.is_dir())
    assert sf.info(folder / "vocals.flac").frames == NUM_SAMPLES
