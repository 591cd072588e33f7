"""Songs, a network far too small to separate anything, and the parameters for them."""

from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from components.ingest.main import IngestConfig
from components.ingest.main import run as run_ingest
from components.layout import catalogue_manifest
from components.separate.main import SeparateConfig
from components.separate.main import run as run_separate
from mixprint.collection.shards import list_shards
from mixprint.config import load_params
from mixprint.fingerprint import file_sha256
from mixprint.separation import SCNetConfig, build_scnet, export_separator

REPOSITORY = Path(__file__).resolve().parents[2]


def make_workplace(
    folder: Path,
    write_song: Callable[..., Path],
    *,
    num_songs: int,
    duration_s: float,
    num_shards: int,
    segment_s: float,
) -> tuple[Path, Path]:
    """Write songs and parameters; returns the folder of the songs and the file."""
    for index in range(num_songs):
        write_song(folder / "songs" / f"song {index}.wav", duration_s, seed=index)
    torch.manual_seed(0)
    window_s = segment_s / 1.5
    network = build_scnet(SCNetConfig(dims=(4, 8, 8, 8), num_dplayer=2, hop_size=2048), "plain")
    export_separator(network, folder, window_s=window_s)
    params = load_params(REPOSITORY / "params.yaml")
    params["ingest"] |= {
        "min_duration_s": segment_s,
        "num_shards": num_shards,
        "valid_fraction": 0.1,
        "test_fraction": 0.1,
    }
    params["separate"] |= {
        "checkpoint": str(folder / "separator.safetensors"),
        "segment_s": segment_s,
        "window_s": window_s,
        "device": "cpu",
    }
    params["features"] |= {"device": "cpu"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "songs", folder / "params.yaml"


def ingest(root: Path, songs: Path, params: Path) -> None:
    config = IngestConfig.load(params)
    run_ingest(root=str(root), config=config, source="folder", locations=[str(songs)])


def separate(root: Path, params: Path, shard: int, *overrides: str) -> list[str]:
    """Separate in this process; returns the fingerprints of the shards."""
    manifests = run_separate(
        root=str(root),
        config=SeparateConfig.load(params, overrides=overrides),
        num_shards=IngestConfig.load(params).num_shards,
        max_reject_fraction=0.5,
        catalogue=catalogue_manifest(root),
        shard=shard,
    )
    return [manifest.fingerprint for manifest in manifests]


def shard_hashes(root: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in list_shards(root / "stems")}
