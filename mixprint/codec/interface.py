"""What every codec offers.

Shape suffixes: B item, T sample, D dimension of a latent, N frame.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 24_000
FRAMES_PER_S = 75
HOP_SAMPLES = SAMPLE_RATE_HZ // FRAMES_PER_S
NUM_DIMENSIONS = 128


class Codec(Protocol):
    """A frozen codec for mono audio at `SAMPLE_RATE_HZ`, with `FRAMES_PER_S` latents a second.

    Attributes:
        mean_D: of latents of music; what is learned from them is learned behind `standardised`.
        deviation_D: likewise.
    """

    mean_D: Tensor
    deviation_D: Tensor

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Values that tell this codec from others, in JSON."""

    def encode(self, audio_BT: Tensor) -> Tensor:
        """Return the latents z_BDN of audio of any length above 0; N is `num_frames` of it."""

    def decode(self, z_BDN: Tensor, num_samples: int) -> Tensor:
        """Return audio_BT of so many samples.

        Raises:
            ValueError: these are not the latents of so many samples.
        """


def num_frames(num_samples: int) -> int:
    """Count the latents of audio: one begins every `HOP_SAMPLES`, and a last one ends it."""
    return -(-num_samples // HOP_SAMPLES) + 1


def check_frames(z_BDN: Tensor, num_samples: int) -> None:
    """Make sure that latents are those of so many samples.

    Raises:
        ValueError: they are not.
    """
    if z_BDN.shape[-1] != num_frames(num_samples):
        raise ValueError(
            f"expected the {num_frames(num_samples)} latents of {num_samples} samples, got "
            f"{z_BDN.shape[-1]}"
        )


def pooled(z_BDN: Tensor) -> Tensor:
    """Describe latents by their mean and deviation over time: embedding_BE, E twice D."""
    return torch.cat([z_BDN.mean(dim=-1), z_BDN.std(dim=-1, correction=0)], dim=1)
