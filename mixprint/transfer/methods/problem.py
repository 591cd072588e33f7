"""A transfer as a method sees it.

Shape suffixes: S stem, C channel, T sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.result import FitSettings
from mixprint.transfer.style import Style

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder


class Model(Protocol):
    """A network that was trained for a method."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its weights and configuration."""

    def to(self, device: torch.device | str) -> Self:
        """Move it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """A song that is to get a style.

    Attributes:
        segments_SCT: stems of segments of the song, on the device where all is computed.
        sample_rate_hz: of the audio.
        style: what is aimed at.
        settings: how the effect is found.
        distances: of what was made of the segments, to what is aimed at.
        encoder: None where none is at hand, and the method needs none.
        model: the network of the method, if it has one.
        reference_SCT: stems of what was heard of the target, where it is one song.
    """

    segments_SCT: Sequence[Tensor]
    sample_rate_hz: int
    style: Style
    settings: FitSettings
    distances: Distances
    encoder: "Encoder | None"
    model: Model | None
    reference_SCT: Tensor | None = None
