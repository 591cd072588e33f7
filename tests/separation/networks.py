"""Networks that stand for trained ones."""

from typing import Any

import torch
from torch import Tensor

from mixprint.separation.network import Windows
from mixprint.stems import SAMPLE_RATE_HZ, STEMS


class ToyNetwork:
    """A network without weights: each stem is the mixture."""

    device = torch.device("cpu")

    def __init__(
        self,
        *,
        stems: tuple[str, ...] = STEMS,
        window_s: float = 0.1,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        normalised: bool = False,
    ) -> None:
        self.stems = stems
        self.window_s = window_s
        self.sample_rate_hz = sample_rate_hz
        self.normalised = normalised

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"model": "toy", "checkpoint_sha256": "0" * 64, "config_sha256": "0" * 64}

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        return audio_BCT.unsqueeze(1).expand(-1, len(self.stems), -1, -1).clone()

    def compiled(self) -> Windows:
        return self

    def to(self, device: torch.device) -> None:
        assert device == self.device
