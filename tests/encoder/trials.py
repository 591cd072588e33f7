"""Trainings of a network far too small to learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mixprint.encoder.augmentation import Augmentation
from mixprint.encoder.descriptor_model import NUM_INPUTS, DescriptorEncoder
from mixprint.encoder.model import LogMel
from mixprint.encoder.settings import TrainConfig
from mixprint.encoder.training import train
from mixprint.training.engine import Outcome


def run(config: TrainConfig, data: Any, out_dir: Path, **changes: Any) -> Outcome:
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
def quick_input() -> Iterator[None]:
    """Let the network hear the samples themselves, where it does not matter what it hears."""

    def levels(log_mel: LogMel, stems_BSCT: Tensor) -> Tensor:
        num_mels, num_frames = len(log_mel.filters_MF), 64
        first = stems_BSCT[..., : num_mels * num_frames]
        return first.flatten(1, 2).unflatten(-1, (num_mels, num_frames))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogMel, "forward", levels)
        yield


@contextmanager
def quick_descriptions() -> Iterator[None]:
    """Describe stems by their first samples, and leave out the chains, where neither matters."""

    def describe(encoder: DescriptorEncoder, stems_BSCT: Tensor) -> Tensor:
        return stems_BSCT[..., 0, :NUM_INPUTS]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptorEncoder, "describe", describe)
        patch.setattr(Augmentation, "apply", lambda _, stems_BSCT, *__: stems_BSCT)
        yield
