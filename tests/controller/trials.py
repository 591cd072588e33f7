"""Examples of a moment of noise, and a network far too small, for trainings of a controller."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.config import load_params
from mixprint.console.settings import Settings
from mixprint.controller import training, validation
from mixprint.controller.examples import Example, ExampleConfig
from mixprint.controller.inputs import trims_db
from mixprint.controller.model import ControllerNetwork
from mixprint.controller.settings import ControllerConfig, ControllerTrainConfig, Phase
from mixprint.controller.targets import Targets
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.stems import STEMS
from mixprint.training.loading import derive_seed
from tests.encoder.conftest import REPOSITORY

RATE_HZ = 44_100
EXAMPLE_S = 0.5
CONFIG = ControllerConfig(
    width=16,
    num_layers=1,
    num_heads=2,
    head="settings",
    dropout=0.0,
    descriptor_noise=0.0,
    embedding_dim=4,
    roles=("bass", "vocals"),
)


class NoiseExamples(Dataset[int]):
    """Examples of one to three tracks of noise; louder faders go with louder references."""

    batch_size = 2

    def __init__(
        self, split: str, duration_s: float = EXAMPLE_S, *, knows_settings: bool = True
    ) -> None:
        self.split, self.num_samples = split, round(duration_s * RATE_HZ)
        self.knows_settings = knows_settings
        self.fingerprint = f"{split} {duration_s} {knows_settings}"

    def recipes(self) -> "NoiseExamples":
        return self

    def __getitem__(self, number: int) -> int:
        return number

    @contextmanager
    def running(self, number: int) -> Iterator[Callable[[int], None]]:
        yield lambda _: None

    def made(self, number: int, device: torch.device, *, with_truth: bool) -> list[Example]:
        return [self.example(self.batch_size * number + row) for row in range(self.batch_size)]

    def example(self, number: int) -> Example:
        generator = torch.Generator().manual_seed(derive_seed(self.split, number))
        num_tracks = 1 + number % 3
        tracks_NCT = 0.1 * torch.randn(num_tracks, 2, self.num_samples, generator=generator)
        tracks_NCT[:, :, : self.num_samples // 3] *= 0.1
        names = tuple(f"t{place}" for place in range(num_tracks))
        stems_SCT = 0.1 * torch.randn(4, 2, self.num_samples, generator=generator)
        changes, gain_N = {}, torch.ones(num_tracks)
        for place, trim_db in enumerate(trims_db(tracks_NCT, RATE_HZ)):
            fader_db = float(torch.rand((), generator=generator)) * 20 - 10
            name = names[place]
            changes |= {
                f"{name}.trim_db": trim_db,
                f"{name}.fader_db": fader_db,
                f"{name}.eq.low.gain_db": fader_db / 4,
                f"{name}.room.send_db": -20.0 if fader_db > 0 else -60.0,
            }
            stems_SCT[place] *= 10 ** (fader_db / 20)
            gain_N[place] = 10 ** ((trim_db + fader_db) / 20)
        return Example(
            tracks_NCT=tracks_NCT,
            names=names,
            roles=STEMS[:num_tracks],
            settings=Settings.neutral(names).edit(changes),
            truth_NCT=gain_N[:, None, None] * tracks_NCT,
            reference_CT=stems_SCT.sum(dim=0),
            stems_SCT=stems_SCT,
            stems="true",
            knows_settings=self.knows_settings,
        )


def phase(objective: Any, num_steps: int, **changes: Any) -> Phase:
    base = Phase(
        objective=objective,
        num_steps=num_steps,
        batch_size=2,
        learning_rate=1e-3,
        likelihood_weight=0.0,
        prior_weight=0.01,
    )
    return dataclasses.replace(base, **changes)


def config(**changes: Any) -> ControllerTrainConfig:
    """Return parameters of a training of a few thousand weights."""
    return dataclasses.replace(_tiny_config(), **changes)


@cache
def _tiny_config() -> ControllerTrainConfig:
    return ControllerTrainConfig(
        width=16,
        num_layers=1,
        num_heads=2,
        head="settings",
        dropout=0.0,
        descriptor_noise=0.0,
        phases=(phase("likelihood", 3, batch_size=3), phase("audio", 3)),
        num_examples=4,
        num_audio=2,
        num_valid=1,
        examples=examples(),
        references="",
        reference_excerpts=2,
        context_s=0.1,
        gate_weight=0.3,
        levels_weight=0.1,
        track_weight=0.3,
        reference_dropout=0.2,
        stems_dropout=0.3,
        embedding_dropout=0.3,
        embedding_alone=0.1,
        role_dropout=0.3,
        embedding_noise=0.4,
        level_noise_db=2.0,
        exchange_share=0.5,
        style_noise_share=0.5,
        tone_noise_db=3.0,
        tone_noise_octaves=0.25,
        image_noise=0.3,
        prior_shrinkage=0.5,
        warmup_fraction=0.0,
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_minutes=0.0,
        valid_steps=3,
        first_valid_step=0,
        seed=1,
        precision="float32",
        num_processes=1,
        num_workers=0,
        device="cpu",
        save_steps=2,
        log_steps=1,
    )


def examples(**changes: Any) -> ExampleConfig:
    """Return how examples are drawn, of which these trainings take their length alone."""
    path = REPOSITORY / "params.yaml"
    base = ControllerTrainConfig.of_params(load_params(path), path).examples
    return dataclasses.replace(base, **{"excerpt_s": EXAMPLE_S, **changes})


def network(**changes: Any) -> ControllerNetwork:
    torch.manual_seed(0)
    return ControllerNetwork(dataclasses.replace(CONFIG, **changes)).eval()


@contextmanager
def quick_console() -> Iterator[None]:
    """Mix by faders alone, and compare coarsely, where it does not matter how it sounds."""

    def mix(tracks_NCT: Tensor, targets: Targets, trim_db_N: Tensor, rate_hz: int) -> Tensor:
        track_N = targets.values(trim_db_N, rate_hz).track_N
        gain_N = 10 ** ((track_N["fader_db"] + track_N["trim_db"]) / 20)
        return gain_N[:, None, None].float() * tracks_NCT

    def distance(a_CT: Tensor, b_CT: Tensor, frames_per_window: int) -> Tensor:
        return multi_resolution_stft(a_CT, b_CT, (2048,), frames_per_window=1)

    with pytest.MonkeyPatch.context() as patch:
        for module in (training, validation):
            patch.setattr(module, "console_mix", mix)
        patch.setattr(validation, "multi_resolution_stft", distance)
        yield
