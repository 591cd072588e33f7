"""A tiny controller that was never trained, and says something of each setting all the same."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mixprint.controller.checkpoint import save_controller
from mixprint.controller.model import ControllerNetwork
from mixprint.stems import STEMS
from tests.controller import trials

CONFIG = replace(trials.CONFIG, embedding_dim=8, roles=STEMS)


def write_controller(folder: Path, *, encoder: str = "", embedding_dim: int = 8) -> Path:
    """Write one; moved off its start by random weights in the last layers of its heads."""
    torch.manual_seed(0)
    network = ControllerNetwork(replace(CONFIG, embedding_dim=embedding_dim))
    for head in (network.track_head, network.master_head):
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.05)
    save_controller(folder, network, encoder, {})
    return folder
