"""Parameters, networks and songs for small trainings of separators."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import soundfile as sf
import torch
import yaml

from mixprint.separation.diffusion.training_settings import DiffusionTrainConfig
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from tests.components.workplace import REPOSITORY

TINY_MODEL = {
    "dims": [4, 4],
    "nfft": 512,
    "hop_size": 256,
    "win_size": 512,
    "num_dplayer": 2,
}


def separator_config(changes: Mapping[str, Any] | None = None) -> SeparatorTrainConfig:
    """Return the parameters of `params.yaml`, with changes laid over them."""
    return _separator_config(
        tuple(f"separator.{key}={yaml.safe_dump(v)}" for key, v in (changes or {}).items())
    )


@cache
def _separator_config(overrides: tuple[str, ...]) -> SeparatorTrainConfig:
    return SeparatorTrainConfig.load(REPOSITORY / "params.yaml", overrides=overrides)


def make_songs(
    folder: Path, num_songs: int, *, duration_s: float = 0.5, compositions: int | None = None
) -> Path:
    """Write songs whose stems are noise, each at a level of its own."""
    for index in range(num_songs):
        song = folder / f"song{index}"
        song.mkdir(parents=True)
        generator = torch.Generator().manual_seed(index)
        for level, stem in enumerate(STEMS, start=1):
            noise_CT = torch.randn(2, round(duration_s * SAMPLE_RATE_HZ), generator=generator)
            audio_TC = (0.02 * level * noise_CT).clamp(-1, 1).T.numpy()
            sf.write(song / f"{stem}.wav", audio_TC, SAMPLE_RATE_HZ)
        if compositions is not None:
            composition = f"composition{index % compositions}"
            (song / "settings.json").write_text(json.dumps({"song": composition}))
    return folder


TINY_DIFFUSION = {
    "model": {
        "blocks": {"dims": [4, 8, 8], "nfft": 256, "hop_size": 128, "win_size": 256}
        | {"num_dplayer": 2},
        "conformer": {"width": 8, "num_heads": 2, "hidden": 8, "num_layers": 2, "kernel": 3},
        "unet": {"width": 8, "num_heads": 2},
        "conditioning": 8,
    },
    "sampling": {"steps": 3},
    "training": {
        "segment_s": 0.1,
        "batch_size": 2,
        "warmup_steps": 2,
        "max_steps": 4,
        "log_steps": 2,
        "save_steps": 2,
        "valid_steps": 2,
        "valid_s": 0.3,
        "max_bad_fraction": 0.0,
    },
}


def diffusion_config(changes: Mapping[str, Any] | None = None) -> DiffusionTrainConfig:
    """Return the parameters of `params.yaml` for a tiny separator, with changes laid over them."""
    layers = (TINY_DIFFUSION, changes or {})
    texts = [f"diffusion.{key}={yaml.safe_dump(v)}" for each in layers for key, v in each.items()]
    return DiffusionTrainConfig.load(REPOSITORY / "params.yaml", overrides=texts)
