"""A tiny collection, an untrained encoder and a network far too small, for trainings."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.collection.catalogue import Track
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.config import load_params
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.encoder.checkpoint import Encoder, load_checkpoint, save_checkpoint
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import AugmentRanges, TrainConfig
from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, Standardisation
from mixprint.training.engine import Outcome
from mixprint.zero_shot import training, validation
from mixprint.zero_shot.settings import ZeroShotTrainConfig
from mixprint.zero_shot.training import train_zero_shot
from tests.encoder.conftest import REPOSITORY, make_track, tiny_config

RATE_HZ = 44_100
SEGMENT_S = 3.0


@dataclass(frozen=True)
class Collection:
    """Folders of a tiny collection with its encoder."""

    stems_dir: Path
    encoder_dir: Path
    tracks: list[Track]


def song_stems(seed: int, style: str) -> Tensor:
    """Make stems of noise that swells; a style is a gain per stem, and a colour."""
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(SEGMENT_S * RATE_HZ)
    noise_SCT = torch.randn(4, 2, num_samples, generator=generator)
    time_T = torch.arange(num_samples) / RATE_HZ
    stems_SCT = 0.05 * (0.6 + 0.4 * torch.sin(2 * torch.pi * (1 + seed) * time_T)) * noise_SCT
    if style == "dark":
        stems_SCT = stems_SCT + stems_SCT.roll(1, -1)
        stems_SCT = stems_SCT * torch.tensor([2.0, 0.5, 0.3, 1.0]).view(-1, 1, 1)
    return stems_SCT.clamp(-0.99, 0.99)


def make_collection(root: Path, *, styles: bool = True) -> Collection:
    """Write three songs, two of them to train on, in two styles; two segments a track.

    Args:
        root: an empty folder.
        styles: whether the catalogue knows that there are two mixes of each song.
    """
    songs = {"a": "train", "b": "train", "c": "valid", "d": "valid"}
    tracks = []
    with write_shard(
        root / "stems" / shard_name(0, 1),
        fingerprint="tiny",
        sample_rate_hz=RATE_HZ,
        separator=SeparatorFingerprint("none", "0" * 64, "0" * 64),
    ) as writer:
        for number, (song, split) in enumerate(songs.items()):
            for style in ("dark", "plain") if styles else ("plain",):
                track = make_track(f"{song}-{style}", song, split)
                named = dataclasses.replace(track, style=style) if styles else track
                tracks.append(dataclasses.replace(named, sample_rate_hz=RATE_HZ))
                for segment in range(2):
                    stems_SCT = song_stems(2 * number + segment, style)
                    writer.write(track.track_id, segment, segment * SEGMENT_S, stems_SCT)
    torch.manual_seed(0)
    encoder = MixEncoder(tiny_config().encoder_config(RATE_HZ))
    spread = {"dBFS": 6.0, "dB": 4.0, "LUFS": 6.0, "LU": 3.0, "dB/octave": 1.5, "1": 0.2}
    deviation_D = torch.tensor([spread[unit] for unit in FEATURE_UNITS])
    standardisation = Standardisation(torch.zeros(len(FEATURE_NAMES)), deviation_D)
    save_checkpoint(root / "encoder", encoder, standardisation, {})
    return Collection(root / "stems", root / "encoder", tracks)


def config(**changes: Any) -> ZeroShotTrainConfig:
    """Return the parameters of `params.yaml` with a network of a few thousand weights."""
    return dataclasses.replace(_tiny_config(), **changes)


@cache
def _tiny_config() -> ZeroShotTrainConfig:
    base = ZeroShotTrainConfig.from_values(load_params(REPOSITORY / "params.yaml")["zero_shot"])
    return dataclasses.replace(
        base,
        level_steps=4,
        audio_steps=4,
        level_batch_size=4,
        audio_batch_size=2,
        warmup_fraction=0.0,
        level_s=1.0,
        crop_s=0.4,
        context_s=0.1,
        crops_per_example=1,
        cycle_steps=2,
        embedding_steps=3,
        num_chains=2,
        num_valid=2,
        valid_steps=4,
        save_steps=2,
        log_steps=1,
        n_fft=512,
        hop_samples=128,
        num_bands=6,
        channels=8,
        dilations=(1, 2),
        conditioning_hidden=16,
        room_decays_s=(0.1,),
        room_s=0.1,
        num_workers=0,
        device="cpu",
    )


@cache
def ranges() -> AugmentRanges:
    """Return those of `params.yaml`."""
    return TrainConfig.load(REPOSITORY / "params.yaml").augment_ranges()


def encoder_of(data: Collection) -> Encoder:
    """Load the collection's encoder."""
    return load_checkpoint(data.encoder_dir)


@contextmanager
def quick_validation() -> Iterator[None]:
    """Compare few networks coarsely, where it does not matter which one is better."""

    def distance(a_CT: Tensor, b_CT: Tensor, frames_per_window: int) -> Tensor:
        return multi_resolution_stft(a_CT, b_CT, (2048,), frames_per_window=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STRENGTHS", (1.0, 0.7))
        patch.setattr(validation, "multi_resolution_stft", distance)
        yield


def run(used: ZeroShotTrainConfig, data: Collection, out_dir: Path, **changes: Any) -> Outcome:
    """Train on this rank."""
    arguments = {
        "tracks": data.tracks,
        "stems_dir": data.stems_dir,
        "encoder": encoder_of(data),
        "ranges": ranges(),
        "out_dir": out_dir,
        "data_fingerprint": "tiny",
    }
    return train_zero_shot(used, **(arguments | changes))
