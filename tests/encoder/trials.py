"""Trainings of a network far too small to learn, and what they leave behind."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import train


class KilledError(Exception):
    """Stands for a kill: nothing of the library catches it."""


def run(config: TrainConfig, data: Any, out_dir: Path, **changes: Any) -> dict[str, float]:
    """Train on a `TinySet` on this rank."""
    arguments = {
        "tracks": data.tracks,
        "stems_dir": data.stems_dir,
        "features_dir": data.features_dir,
        "out_dir": out_dir,
        "data_fingerprint": "tiny",
    }
    return train(config, **(arguments | changes))


@contextmanager
def as_rank(rank: int, folder: str | Path) -> Iterator[None]:
    """Be one of two processes that learn together; both name the same folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    yield
    distributed.destroy_process_group()


def newest_state(out_dir: Path) -> dict[str, Any]:
    """Read the newest state of a training."""
    markers = list(out_dir.glob("state/*/state-*.json"))
    newest = max(markers, key=lambda path: json.loads(path.read_text())["step"])
    return torch.load(newest.with_suffix(".pt"), weights_only=True)


def result_hashes(out_dir: Path) -> dict[str, str]:
    """Hash all encoders that a training has left, and the weights that it would go on from."""
    hashes = {
        str(path.relative_to(out_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("weights.safetensors", "config.json")
        for path in out_dir.glob(f"**/{name}")
    }
    digest = hashlib.sha256()
    for name, weight in sorted(newest_state(out_dir)["model"].items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return {**hashes, "state": digest.hexdigest()}
