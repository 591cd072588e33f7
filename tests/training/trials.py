"""Trainings that are killed, damaged and resumed, of any task."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed


class KilledError(Exception):
    """Stands for a kill: nothing of the library catches it."""


@contextmanager
def killed_in_step(number: int, optimizer: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Kill a training when it has moved weights and before anything else knows of it."""
    calls = 0
    original = optimizer.step

    def step(self: Any) -> None:
        nonlocal calls
        original(self)
        calls += 1
        if calls == number:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "step", step)
        yield


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


def tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """List all tensors of nested values, with their names."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in pairs:
            yield from tensors(value, f"{name}/{key}")


def result_hashes(out_dir: Path) -> dict[str, str]:
    """Hash all weights that a training has left, and those that it would go on from."""
    hashes = {
        str(path.relative_to(out_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("**/*.safetensors", "**/config.json")
        for path in out_dir.glob(pattern)
    }
    digest = hashlib.sha256()
    for name, value in tensors(newest_state(out_dir)):
        digest.update(name.encode() + value.numpy().tobytes())
    return {**hashes, "state": digest.hexdigest()}
