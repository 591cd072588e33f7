"""A run that is killed in the middle goes on where it stopped, and ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from components.features.main import FeaturesConfig
from components.features.main import run as run_features
from components.ingest.main import IngestConfig
from components.ingest.main import run as run_ingest
from components.layout import catalogue_manifest, stems_manifest
from components.separate.main import ALL_SHARDS, SeparateConfig
from components.separate.main import run as run_separate
from mixprint.catalogue import read_catalogue
from mixprint.config import load_params
from mixprint.features import FEATURE_NAMES
from mixprint.features.table import read_features
from mixprint.fingerprint import file_sha256
from mixprint.separation import SCNetConfig, build_scnet, export_separator
from mixprint.shards import done_path, list_shards, read_index

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_SONGS, NUM_SHARDS = 6, 3


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, write_song: Callable[..., Path]
) -> tuple[Path, Path]:
    """Songs of 7 s and the parameters for them: a network far too small to separate anything."""
    folder = tmp_path_factory.mktemp("workplace")
    for index in range(NUM_SONGS):
        write_song(folder / "songs" / f"song {index}.wav", 7.0, seed=index)
    torch.manual_seed(0)
    network = build_scnet(SCNetConfig(dims=(4, 8, 8, 8), num_dplayer=2), "plain")
    export_separator(network, folder, window_s=2.0)
    params = load_params(REPOSITORY / "params.yaml")
    params["ingest"] |= {
        "min_duration_s": 3.0,
        "num_shards": NUM_SHARDS,
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
    }
    params["separate"] |= {
        "checkpoint": str(folder / "separator.safetensors"),
        "segment_s": 3.0,
        "window_s": 2.0,
        "device": "cpu",
    }
    params["features"] |= {"device": "cpu"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "songs", folder / "params.yaml"


def ingest(root: Path, songs: Path, params: Path) -> None:
    config = IngestConfig.load(params)
    run_ingest(root=str(root), config=config, source="folder", locations=[str(songs)])


def separate(root: Path, params: Path, shard: int) -> list[str]:
    """Separate in this process; returns the fingerprints of the shards."""
    manifests = run_separate(
        root=str(root),
        config=SeparateConfig.load(params),
        num_shards=NUM_SHARDS,
        catalogue=catalogue_manifest(root),
        shard=shard,
    )
    return [manifest.fingerprint for manifest in manifests]


def hashes(root: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in list_shards(root / "stems")}


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
    deadline_s = time.monotonic() + 60
    while not list(folder.glob("*.done.json")):
        assert process.poll() is None, "the step ended before it could be killed"
        assert time.monotonic() < deadline_s, "no shard was finished in a minute"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.done.json")}
    assert 1 <= len(finished) < NUM_SHARDS, "killed in the middle"

    assert separate(killed, params, ALL_SHARDS) == whole
    assert hashes(killed) == hashes(undisturbed)
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
