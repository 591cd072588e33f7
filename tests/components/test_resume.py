"""A run that is killed in the middle goes on where it stopped, and ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.features.main import FeaturesConfig
from components.features.main import run as run_features
from components.layout import catalogue_manifest, stems_manifest
from components.separate.main import ALL_SHARDS, SeparateConfig
from components.separate.main import run as run_separate
from mixprint.collection.catalogue import read_catalogue
from mixprint.collection.shards import done_path, list_shards, read_index
from mixprint.features import FEATURE_NAMES
from mixprint.features.table import read_features
from tests.components.workplace import REPOSITORY, ingest, make_workplace, separate, shard_hashes

NUM_SONGS, NUM_SHARDS = 6, 3


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, write_song: Callable[..., Path]
) -> tuple[Path, Path]:
    return make_workplace(
        tmp_path_factory.mktemp("workplace"),
        write_song,
        num_songs=NUM_SONGS,
        duration_s=7.0,
        num_shards=NUM_SHARDS,
        segment_s=3.0,
    )


def test_killed_separation_goes_on(tmp_path: Path, workplace: tuple[Path, Path]) -> None:
    songs, params = workplace
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for root in (undisturbed, killed):
        ingest(root, songs, params)
    # The fan-out of the DAG, then the whole of it at once: the same shards.
    whole = [separate(undisturbed, params, shard)[0] for shard in range(NUM_SHARDS)]

    command = [sys.executable, "-m", "components.separate.main"]
    command += ["--root", str(killed), "--params", str(params)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
    folder = killed / "stems"
    deadline_s = time.monotonic() + 300
    while not list(folder.glob("*.done.json")):
        assert process.poll() is None, "the step ended before it could be killed"
        assert time.monotonic() < deadline_s, "no shard was finished in five minutes"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.done.json")}
    assert 1 <= len(finished) < NUM_SHARDS, "killed in the middle"

    assert separate(killed, params, ALL_SHARDS) == whole
    assert shard_hashes(killed) == shard_hashes(undisturbed)
    for name, mtime_ns in finished.items():
        assert (folder / name).stat().st_mtime_ns == mtime_ns, "finished shards are kept"


def test_steps_up_to_the_features(tmp_path: Path, workplace: tuple[Path, Path]) -> None:
    songs, params = workplace
    ingest(tmp_path, songs, params)
    tracks = read_catalogue(tmp_path / "catalogue")
    assert len(tracks) == NUM_SONGS
    separate(tmp_path, params, ALL_SHARDS)
    made = run_features(
        root=str(tmp_path),
        config=FeaturesConfig.load(params),
        catalogue=catalogue_manifest(tmp_path),
        stems=stems_manifest(tmp_path),
    )
    references = read_index(tmp_path / "stems")
    # 7 s are two whole segments of 3 s and one that ends with the song.
    assert len(references) == 3 * NUM_SONGS
    assert sorted({r.start_s for r in references}) == [0.0, 3.0, 4.0]
    table = read_features(tmp_path / "features" / "features.parquet")
    assert table.features_BD.shape == (len(references), len(FEATURE_NAMES))
    assert made.counts["segments"] == len(references)

    # Another number of shards: the old set is removed, and the features stay the same.
    config = SeparateConfig.load(params)
    run_separate(
        root=str(tmp_path),
        config=config,
        num_shards=2,
        catalogue=catalogue_manifest(tmp_path),
        shard=ALL_SHARDS,
    )
    paths = list_shards(tmp_path / "stems")
    assert len(paths) == 2
    assert all(done_path(path).exists() for path in paths)
