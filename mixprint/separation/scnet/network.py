"""A trained SCNet, as a separator runs it."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixprint.fingerprint import fingerprint
from mixprint.separation.scnet.compiled import CompiledSCNet
from mixprint.separation.scnet.model import SCNet
from mixprint.stems import SAMPLE_RATE_HZ


class TrainedSCNet:
    """An SCNet as a `mixprint.separation.network.Network`, whose documentation holds here too.

    Attributes:
        model: the network in evaluation mode.
    """

    def __init__(
        self,
        model: SCNet,
        *,
        window_s: float,
        weights: Mapping[str, str] | None = None,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        normalised: bool = False,
    ) -> None:
        """Take a network on the device it is on.

        Args:
            model: the network.
            window_s: see `Network`.
            weights: the part of the fingerprint that tells its weights from others.
            sample_rate_hz: see `Network`.
            normalised: see `Network`.
        """
        self.model = model.eval()
        self.stems = model.config.sources
        self.window_s = window_s
        self.sample_rate_hz = sample_rate_hz
        self.normalised = normalised
        self._weights = dict(weights or {})

    @property
    def device(self) -> torch.device:
        """See `Network`."""
        return self.model.stft_window.device

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """See `Network`."""
        config = {
            "architecture": self.model.config.to_values(),
            "variant": self.model.variant,
            "window_s": self.window_s,
            "sample_rate_hz": self.sample_rate_hz,
            "normalised": self.normalised,
        }
        return {**self._weights, "config_sha256": fingerprint(config)}

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        """See `Network`."""
        del starts_B
        stems_BSCT: Tensor = self.model(audio_BCT)
        return stems_BSCT

    def compiled(self) -> CompiledSCNet:
        """See `Network`."""
        return CompiledSCNet(self.model)

    def to(self, device: torch.device) -> None:
        """See `Network`."""
        self.model.to(device)
