"""A tiny data set as the steps before training leave it: shards, features, standardisation."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.config import load_params
from mixprint.encoder.settings import TrainConfig
from mixprint.features import Standardisation, extract
from mixprint.features.table import write_features

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE_RATE_HZ = 32_000  # the lowest that the features take, so the fastest
SEGMENT_S = 3.0


@dataclass(frozen=True)
class TinySet:
    """Folders of a tiny data set and its catalogue."""

    stems_dir: Path
    features_dir: Path
    tracks: list[Track]


def make_stems(
    seed: int,
    num_segments: int,
    seconds: float = SEGMENT_S,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> Tensor:
    """Make noise stems_BSCT whose channel levels and colour depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    level_SC1 = 10 ** (-1.5 * torch.rand(4, 2, 1, generator=generator) - 0.5)
    shape = (num_segments, 4, 2, round(seconds * sample_rate_hz))
    return level_SC1 * torch.randn(shape, generator=generator).clamp(-3, 3) / 3


def make_track(track_id: str, song: str, split: str) -> Track:
    return Track(
        track_id=track_id,
        title=track_id,
        uri=f"{track_id}.wav",
        source="synthetic",
        duration_s=2 * SEGMENT_S,
        sample_rate_hz=SAMPLE_RATE_HZ,
        channels=2,
        split=split,
        licence="",
        has_stems=True,
        song=song,
        style="",
    )


def make_set(root: Path, splits: dict[str, str], sample_rate_hz: int = SAMPLE_RATE_HZ) -> TinySet:
    """Write songs in two mixes each, two segments a track.

    Args:
        root: an empty folder.
        splits: song -> split.
        sample_rate_hz: of their stems.
    """
    stems_dir, features_dir = root / "stems", root / "features"
    tracks = [
        make_track(f"{song}{mix}", song, split) for song, split in splits.items() for mix in (0, 1)
    ]
    separator = SeparatorFingerprint("none", "0" * 64, "0" * 64)
    rows: list[tuple[str, int]] = []
    features = []
    with write_shard(
        stems_dir / shard_name(0, 1),
        fingerprint="tiny",
        sample_rate_hz=sample_rate_hz,
        separator=separator,
    ) as writer:
        for seed, track in enumerate(tracks):
            stems_BSCT = make_stems(seed, 2, sample_rate_hz=sample_rate_hz)
            for segment, stems_SCT in enumerate(stems_BSCT):
                writer.write(track.track_id, segment, segment * SEGMENT_S, stems_SCT)
                rows.append((track.track_id, segment))
            features.append(extract(stems_BSCT, sample_rate_hz))
    features_BD = torch.cat(features)
    ids, segments = zip(*rows, strict=True)
    write_features(features_dir / "features.parquet", ids, segments, features_BD)
    Standardisation.fit(features_BD).save(features_dir / "standardisation.json")
    return TinySet(stems_dir, features_dir, tracks)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """Three songs in two mixes each; the last song is for validation; one batch an epoch."""
    splits = {"a": "train", "b": "train", "c": "valid"}
    return make_set(tmp_path_factory.mktemp("tiny"), splits)


@pytest.fixture(scope="session")
def longer_set(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """Seven songs in two mixes each; the last song is for validation; three batches an epoch."""
    splits = dict.fromkeys("abcdef", "train") | {"g": "valid"}
    return make_set(tmp_path_factory.mktemp("longer"), splits)


def tiny_config(**changes: object) -> TrainConfig:
    """Return the parameters of `params.yaml` with a network of a few thousand weights."""
    return dataclasses.replace(_tiny_config(), **changes)


def descriptor_config(**changes: object) -> TrainConfig:
    """Return the same for an encoder on descriptors."""
    values: dict[str, object] = {
        "backbone": "descriptors",
        "epochs": 2,
        "segment_weight": 0.0,
        "augmentation": "alternating",
        "chain_lengths": (1, 1),
        "valid_chains": 2,
        "num_blocks": 2,
        "block_songs": 3,
        "block_chains": 3,
        "steps_per_epoch": 3,
        "descriptor_hidden": 8,
    }
    return tiny_config(**(values | changes))


@cache
def _tiny_config() -> TrainConfig:
    base = TrainConfig.from_values(load_params(REPOSITORY / "params.yaml")["train"])
    return dataclasses.replace(
        base,
        epochs=3,
        batch_size=4,
        segment_s=SEGMENT_S,
        num_mels=24,
        band_mels=12,
        band_hop_mels=8,
        conv_channels=2,
        embedding_dim=16,
        patience=0,
    )


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainConfig]:
    return tiny_config
