"""Tiny diffusion separators and what they are given."""

from typing import Any

import torch
from torch import Tensor, nn

from mixprint.separation import SCNet, SCNetConfig, build_scnet
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import (
    ConformerConfig,
    DiffusionConfig,
    SamplingSettings,
    UNetConfig,
)
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.stems import SAMPLE_RATE_HZ

HOP = 128
BLOCKS = SCNetConfig(dims=(4, 8, 8), nfft=256, hop_size=HOP, win_size=256, num_dplayer=2)
WINDOW_S = 20 * HOP / SAMPLE_RATE_HZ


def config(**changes: Any) -> DiffusionConfig:
    sizes = {
        "blocks": BLOCKS,
        "conformer": ConformerConfig(width=8, num_heads=2, hidden=8, num_layers=2, kernel=3),
        "unet": UNetConfig(width=8, num_heads=2),
        "conditioning": 8,
    }
    return DiffusionConfig(**sizes | changes)


def shaken(module: nn.Module, seed: int = 1) -> nn.Module:
    """Move all weights, so that nothing in it is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def denoiser(**changes: Any) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(config(**changes))
    shaken(network)
    return network


def scnet() -> SCNet:
    torch.manual_seed(2)
    network = build_scnet(BLOCKS, "masked")
    shaken(network, seed=3)
    return network


def separator(
    network: Denoiser | None = None, *, num_stems: int = 2, **sampling: Any
) -> DiffusionSeparator:
    return DiffusionSeparator(
        network or denoiser(),
        window_s=WINDOW_S,
        sampling=SamplingSettings(**{"steps": 3} | sampling),
        prior=TrainedSCNet(scnet(), window_s=WINDOW_S),
        num_stems=num_stems,
    )


def music(length: int, num: int = 0) -> Tensor:
    """Noise that is coloured and not alike in both channels: audio_CT."""
    audio_CT = torch.randn(2, length, generator=torch.Generator().manual_seed(num))
    return 0.1 * (audio_CT + audio_CT.roll(1, dims=1) + audio_CT.roll(1, dims=0))


def level_db(signal: Tensor, reference: Tensor) -> float:
    return 10 * torch.log10(signal.square().sum() / reference.square().sum()).item()
