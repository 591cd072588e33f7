"""Many songs: names that do not collide, and jobs side by side."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import stream_audio
from mixprint.errors import CheckpointError, ConfigError
from mixprint.fingerprint import file_sha256
from mixprint.separation import batch, build_scnet, export_separator
from mixprint.separation.batch import SeparationJob, SeparatorSource, find_jobs, separate_files
from mixprint.separation.files import FileSettings
from mixprint.separation.report import REPORT_NAME
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

VALUES = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}


@pytest.fixture
def source(tmp_path: Path) -> SeparatorSource:
    torch.manual_seed(0)
    path = export_separator(build_scnet(VALUES, "plain"), tmp_path / "weights", window_s=0.5)
    return SeparatorSource(str(path), None, "cpu")


def names(songs: list[Path], out: Path) -> dict[Path, str]:
    jobs, failures = find_jobs(songs, out)
    assert failures == []
    return {job.song: str(job.folder.relative_to(out)) for job in jobs}


def test_songs_are_called_as_their_files(tmp_path: Path, write_song: Callable[..., Path]) -> None:
    music = tmp_path / "music"
    songs = [
        write_song(music / "one" / "01 intro.wav", 0.1),
        write_song(music / "two" / "01 intro.flac", 0.1, seed=1),
        write_song(music / "v1.2.wav", 0.1, seed=2),
    ]
    single = write_song(tmp_path / "single.wav", 0.1, seed=3)
    (music / "cover.jpg").write_bytes(b"")
    expected = dict(zip(songs, ["one/01 intro", "two/01 intro", "v1.2"], strict=True))
    assert names([music, single], tmp_path / "out") == {**expected, single: "single"}
    # A song that is named twice is one song.
    assert names([music, songs[0]], tmp_path / "out") == expected
    # What a separation has written is no song, but songs may lie in the folder that receives it.
    assert names([music], tmp_path) == expected
    (music / "two" / REPORT_NAME).write_text("{}")
    assert names([music], music) == {k: v for k, v in expected.items() if k != songs[1]}


def test_equal_names_are_told_apart_in_any_order(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    songs = [
        write_song(tmp_path / "a" / "song.wav", 0.1, seed=1),
        write_song(tmp_path / "b" / "Song.wav", 0.1, seed=2),
        write_song(tmp_path / "b" / "song.flac", 0.1, seed=1),
    ]
    found = names(songs, tmp_path / "out")
    assert found == {song: f"{song.stem}-{file_sha256(song)[:8]}" for song in songs}
    assert names(songs[::-1], tmp_path / "out") == found
    # Two copies of one file give one result.
    copy = tmp_path / "c" / "song.wav"
    copy.parent.mkdir()
    copy.write_bytes(songs[0].read_bytes())
    assert list(names([songs[0], copy], tmp_path / "out").values()) == [found[songs[0]]]


def test_no_song_is_written_into_the_folder_of_another(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    album = write_song(tmp_path / "music" / "Album.wav", 0.1)
    track = write_song(tmp_path / "music" / "album" / "track.wav", 0.1, seed=1)
    found = names([tmp_path / "music"], tmp_path / "out")
    assert found == {album: f"Album-{file_sha256(album)[:8]}", track: "album/track"}


@pytest.mark.parametrize("name", ["music", "music/loop.wav", "x" * 300])
def test_a_song_that_cannot_be_reached_fails_alone(
    tmp_path: Path, source: SeparatorSource, name: str
) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "loop.wav").symlink_to("loop.wav")
    jobs, failures = find_jobs([tmp_path / name], tmp_path / "out")
    outcomes = [*failures, *separate_files(jobs, source, FileSettings())]
    assert {outcome.status for outcome in outcomes} == {"failed"}


KILLED = """
import sys
from pathlib import Path
from mixprint.separation import batch
from mixprint.separation.files import FileSettings

def main():
    source = batch.SeparatorSource(sys.argv[1], None, "cpu")
    jobs = [batch.SeparationJob(Path(sys.argv[2]), Path(sys.argv[3]) / str(i)) for i in range(50)]
    for outcome in batch.separate_files(jobs, source, FileSettings(), num_processes=2):
        print(outcome.status, flush=True)

if __name__ == "__main__":
    main()
"""


def test_the_processes_of_a_killed_command_end(
    tmp_path: Path, write_song: Callable[..., Path], source: SeparatorSource
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    song = write_song(tmp_path / "song.wav", 1.0)
    command = [sys.executable, "killed.py", source.checkpoint, str(song), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"separated\n"
            workers = psutil.Process(process.pid).children(recursive=True)
            assert len(workers) >= 2
        finally:
            process.kill()
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_what_cannot_become_a_job(tmp_path: Path, write_song: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    write_song(tmp_path / "music" / "a.wav", 0.1)
    (tmp_path / "music" / "b.m4a").write_bytes(b"x")
    absent = [tmp_path / "x" / "gone.wav", tmp_path / "y" / "gone.wav"]
    jobs, failures = find_jobs([tmp_path / "empty", tmp_path / "music", *absent], tmp_path / "out")
    assert [job.song.name for job in jobs] == ["a.wav"]
    assert {f.song.name: f.status for f in failures} == dict.fromkeys(
        ("empty", "b.m4a", "gone.wav"), "failed"
    )
    assert "none" in failures[0].detail


def test_jobs_side_by_side_give_the_same_and_tell_of_progress_within_songs(
    tmp_path: Path,
    write_song: Callable[..., Path],
    source: SeparatorSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    class Noted(batch.Progress):
        def advance(self, units: int = 1) -> None:
            super().advance(units)
            seen.append(self.done)

    lengths_s = (4.0, 8.0, 4.0)
    songs = [write_song(tmp_path / f"song{i}.wav", s, seed=i) for i, s in enumerate(lengths_s)]
    (tmp_path / "bad.wav").write_bytes(b"none")
    songs.append(tmp_path / "bad.wav")
    statuses = {}
    for num_processes in (1, 2):
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(batch, "Progress", Noted)
            patch.setattr(batch, "BAR_EVERY_S", 0.001)
            jobs, _ = find_jobs(songs, tmp_path / str(num_processes))
            outcomes = separate_files(jobs, source, FileSettings(), num_processes=num_processes)
            statuses[num_processes] = {o.song.name: o.status for o in outcomes}
    assert statuses[1] == statuses[2]
    assert sorted(statuses[2].values()) == ["failed", "separated", "separated", "separated"]
    for name in (f"song{i}/{stem}.wav" for i in range(3) for stem in STEMS):
        first, second = (sf.read(tmp_path / side / name)[0] for side in ("1", "2"))
        assert (first == second).all()
    assert seen == sorted(seen)
    assert seen[-1] == 16
    assert any(done % 4 for done in seen), "within a song"
    again = separate_files(find_jobs(songs, tmp_path / "2")[0], source, FileSettings())
    assert sorted(outcome.status for outcome in again) == ["failed", *["present"] * 3]


class ShortOfMemory:
    """Stands for a separator that finds no memory for songs that are called so."""

    sample_rate_hz = SAMPLE_RATE_HZ
    window_s = 4.0
    stems = STEMS
    network = None
    precision = "float32"
    fingerprint = {"model": "short", "checkpoint_sha256": "0"}  # noqa: RUF012 (read only)

    def __init__(self, fail: Callable[[], object]) -> None:
        self.fail = fail

    def stream_file(self, path: Path, **_: object) -> Iterator[tuple[Tensor, Tensor]]:
        if path.stem == "large":
            self.fail()
        for block_CT in stream_audio(path):
            yield block_CT, block_CT.expand(len(STEMS), -1, -1) / len(STEMS)


def _no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


@pytest.mark.parametrize(
    "fail",
    [_no_gpu_memory, lambda: torch.empty(1 << 58), lambda: bytearray(1 << 60)],
    ids=["GPU", "CPU", "Python"],
)
def test_a_song_that_memory_does_not_suffice_for_fails_alone(
    tmp_path: Path,
    write_song: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[], object],
) -> None:
    for name in ("large", "small"):
        write_song(tmp_path / "songs" / f"{name}.wav", 0.5)
    jobs, _ = find_jobs([tmp_path / "songs"], tmp_path / "out")
    monkeypatch.setattr(SeparatorSource, "load", lambda _: ShortOfMemory(fail))
    outcomes = {o.song.stem: o for o in separate_files(jobs, SeparatorSource(), FileSettings())}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "large": "failed",
        "small": "separated",
    }
    assert re.search(
        r"large\.wav: expected memory for windows of 4 s.*smaller window", outcomes["large"].detail
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small"]


def test_errors_of_our_own_are_not_taken_for_a_song_that_fails(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    write_song(tmp_path / "large.wav", 0.5)
    monkeypatch.setattr(SeparatorSource, "load", lambda _: ShortOfMemory(fail))
    jobs = [SeparationJob(tmp_path / "large.wav", tmp_path / "out")]
    with pytest.raises(RuntimeError, match="shapes"):
        list(separate_files(jobs, SeparatorSource(), FileSettings()))


def test_a_bad_separator_is_said_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [SeparationJob(tmp_path / f"{i}.wav", tmp_path / str(i)) for i in range(2)]
    source = SeparatorSource("nowhere.safetensors", None, "cpu")
    for num_processes in (1, 2):
        with pytest.raises(CheckpointError, match="nowhere"):
            list(separate_files(jobs, source, FileSettings(), num_processes=num_processes))
    monkeypatch.setattr(batch, "resolve_device", lambda name: torch.device("cuda"))
    with pytest.raises(ConfigError, match="GPU"):
        list(separate_files(jobs, source, FileSettings(), num_processes=2))
    assert list(separate_files([], source, FileSettings())) == []
