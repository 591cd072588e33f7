"""Songs that are made on the fly: which there are at a step, and who makes them."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import soundfile as sf
import torch

from mixprint.errors import ConfigError, DataError
from mixprint.separation.material.pool import MadePool, SynthesisWriter
from mixprint.separation.material.songs import find_songs
from mixprint.stems import STEMS
from mixprint.synthesis.training_songs import SongSource
from mixprint.training.pool import MakingAhead
from tests.separation.trials import separator_config

CONFIG = replace(separator_config().songs, pool_size=4, refresh_steps=10, new_songs=2)


class ToneWriter:
    """Writes songs of a constant, the number, slowly; notes each time that it does."""

    fingerprint = "tone" * 4

    def __call__(self, number: int, folder: Path) -> None:
        with (folder.parent / "written.txt").open("a") as file:
            file.write(f"{number}\n")
        for stem in STEMS:
            sf.write(folder / f"{stem}.wav", torch.full((100, 2), number / 100).numpy(), 44_100)
            time.sleep(0.02)


class BrokenWriter:
    fingerprint = "broken" * 4

    def __call__(self, number: int, folder: Path) -> None:
        raise OSError(28, "No space left on device")


def _pool(folder: Path) -> MadePool:
    return MadePool(folder, ToneWriter(), CONFIG, first_number=2)


def _written(pool: MadePool) -> list[int]:
    return [int(line) for line in (pool.folder / "written.txt").read_text().split()]


@pytest.mark.parametrize(
    ("step", "first"), [(0, 2), (9, 2), (10, 4), (19, 4), (20, 6), (1000, 202)]
)
def test_numbers_of_a_step(tmp_path: Path, step: int, first: int) -> None:
    assert _pool(tmp_path).numbers(step) == range(first, first + 4)
    still = MadePool(tmp_path, ToneWriter(), replace(CONFIG, refresh_steps=0), first_number=2)
    assert still.numbers(step) == range(2, 6)


def test_a_song_is_made_when_it_is_asked_for_and_once(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    song = pool.song(10, 3)
    assert song.path.name == "00000007"
    assert song.num_samples == 100
    assert pool.song(20, 1) == song
    assert _pool(tmp_path).song(10, 3) == song
    assert _written(pool) == [7]


def test_songs_that_nobody_can_ask_for_again_are_removed(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    for number in (0, 2, 5, 6):
        pool.make(number)
    pool.forget_before(20)
    assert sorted(int(p.name) for p in pool.folder.glob("[0-9]*")) == [0, 6]


def test_a_song_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    half = pool.folder / ".writing-00000003"
    half.mkdir(parents=True)
    (half / "vocals.wav").write_bytes(b"half")
    assert pool.song(0, 1).num_samples == 100
    assert not half.exists()


def _make(pool: MadePool) -> None:
    for number in range(2, 6):
        pool.make(number)


def test_of_several_processes_one_makes_a_song(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_make, args=(pool,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(_written(pool)) == [2, 3, 4, 5]


def test_songs_are_made_before_they_are_asked_for(tmp_path: Path) -> None:
    pool = _pool(tmp_path)
    assert pool.next_missing(0, 0, 1) == 2
    assert pool.next_missing(0, 1, 2) == 3
    with MakingAhead(pool, 1, step=0) as ahead:
        ahead.reached(20)
        deadline_s = time.monotonic() + 120
        while pool.next_missing(20, 0, 1) is not None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    # From 6 on for step 20, and what the four refreshes after it bring.
    assert set(range(6, 18)) <= set(_written(pool))
    assert max(_written(pool)) == 17


KILLED = """
import sys, time
from pathlib import Path
from mixprint.training.pool import MakingAhead
from tests.separation.material.test_pool import _pool

if __name__ == "__main__":
    ahead = MakingAhead(_pool(Path(sys.argv[1])), 1, step=0).__enter__()
    print(ahead._processes[0].pid, flush=True)
    time.sleep(600)
"""


def test_no_process_outlives_a_training_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    repository = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "songs")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert process.stdout is not None
    maker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()
    maker.wait(timeout=120)


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    pool = MadePool(tmp_path, BrokenWriter(), CONFIG, first_number=0)
    with pytest.raises(DataError, match=r"00000001: expected to make a song, found: .*No space"):
        pool.song(0, 1)
    with pytest.raises(ConfigError, match=r"songs\.new_songs: expected 1 or more, found 0"):
        separator_config({"songs": {"new_songs": 0}})


@pytest.mark.parametrize("sampled", [False, True])
def test_songs_of_the_synthesis_depend_on_seed_and_number(tmp_path: Path, sampled: bool) -> None:
    source = SongSource(seed=3, duration_s=1.0, sampled=sampled)
    writer = SynthesisWriter(source, num_held_out=1)
    try:
        writer.check_installed()
    except ConfigError as error:
        pytest.skip(str(error))
    contents = []
    for name, number in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        writer(number, tmp_path / name)
        contents.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())})
    assert {f"{stem}.wav" for stem in STEMS} <= set(contents[0])
    assert len(find_songs(tmp_path)) == 3
    assert contents[0] == contents[1] != contents[2]
    names = [json.loads(content["settings.json"])["song"] for content in (contents[0], contents[2])]
    assert names == ["valid3-00000", "train3-00001"]
    other = SynthesisWriter(replace(source, seed=4), num_held_out=1)
    assert writer.fingerprint != other.fingerprint
    assert writer.fingerprint != replace(writer, num_held_out=2).fingerprint


def test_the_synthesis_is_imported_only_by_who_uses_it() -> None:
    program = (
        "import sys, mixprint.separation.material.pool; print('mixprint.synthesis' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True).strip() == "False"
