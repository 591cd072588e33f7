"""A tiny zero-shot network."""

import torch
from torch import Tensor, nn

from mixprint.zero_shot.checkpoint import ZeroShotModel
from mixprint.zero_shot.model import ZeroShotNetwork
from mixprint.zero_shot.settings import ZeroShotConfig

CONFIG = ZeroShotConfig(
    sample_rate_hz=44_100,
    embedding_dim=16,
    n_fft=512,
    hop_samples=128,
    num_bands=6,
    channels=8,
    kernel_size=3,
    dilations=(1, 2),
    conditioning_hidden=12,
    room_decays_s=(0.1, 0.3),
    room_s=0.1,
)
ALL = torch.ones(4)


def model(*, moved: bool = True) -> ZeroShotModel:
    """Make an untrained one; moved off the identity by random weights in its last layers."""
    torch.manual_seed(0)
    network = ZeroShotNetwork(CONFIG)
    if moved:
        for layer in (network.gain_head, network.balance_head, network.wet_head, network.leave):
            nn.init.normal_(layer.weight, std=0.3)
    return ZeroShotModel(network, encoder_fingerprint="e", metadata={}, fingerprint="f")


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor]:
    first, second = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    return first, second
