"""Two encoders side by side: one on a spectrogram with features, one on descriptors.

Styles are what the first finds best, chains of effects the second. The similarity of two joined
embeddings is the weighted mean of the similarities that each of them sees.

Shape suffixes: B batch, S stem, C audio channel, T sample, D features, E embedding.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import CheckpointError, ConfigError


class JoinedEncoder(nn.Module):
    """Embed how a song is mixed by two networks, each with half of the embedding."""

    def __init__(self, config: EncoderConfig) -> None:
        """Build both networks.

        Raises:
            ConfigError: the embedding has no halves, or one of them cannot be built.
        """
        super().__init__()
        if config.embedding_dim % 2:
            raise ConfigError(
                f"a joined encoder needs an embedding_dim that is even, got {config.embedding_dim}"
            )
        self.config = config
        half = config.embedding_dim // 2
        self.descriptors = DescriptorEncoder(
            replace(config, backbone="descriptors", embedding_dim=half)
        )
        self.bands = MixEncoder(replace(config, backbone="bands", embedding_dim=half))

    def forward(self, stems_BSCT: Tensor, features_BD: Tensor) -> Tensor:
        """Embed segments of one length.

        Args:
            stems_BSCT: as `MixEncoder` and `DescriptorEncoder` take them.
            features_BD: standardised features of the stems.

        Returns:
            embedding_BE on the unit sphere: descriptors first.

        Raises:
            ValueError: a shape does not fit.
        """
        share = self.config.descriptor_share
        described_BE = self.descriptors(stems_BSCT)
        heard_BE = self.bands(stems_BSCT, features_BD)
        return torch.cat([math.sqrt(share) * described_BE, math.sqrt(1 - share) * heard_BE], dim=-1)


def join(bands: nn.Module, descriptors: nn.Module, share: float) -> JoinedEncoder:
    """Put two trained networks side by side.

    Args:
        bands: a `MixEncoder`.
        descriptors: a `DescriptorEncoder`.
        share: its part in the similarity of two embeddings, between 0 and 1.

    Raises:
        CheckpointError: a network is another one, or their rates or sizes differ.
        ConfigError: the share is out of range.
    """
    if not isinstance(bands, MixEncoder) or not isinstance(descriptors, DescriptorEncoder):
        found = " and ".join(type(network).__name__ for network in (bands, descriptors))
        raise CheckpointError(
            f"expected encoders of the backbones bands and descriptors, found {found}"
        )
    own, other = bands.config, descriptors.config
    for name in ("sample_rate_hz", "embedding_dim"):
        if getattr(own, name) != getattr(other, name):
            raise CheckpointError(
                f"two encoders of one {name} can be joined, found {getattr(own, name)} (bands) "
                f"and {getattr(other, name)} (descriptors)"
            )
    joined = JoinedEncoder(
        replace(
            own,
            backbone="joined",
            embedding_dim=2 * own.embedding_dim,
            descriptor_hidden=other.descriptor_hidden,
            descriptor_dropout=other.descriptor_dropout,
            descriptor_noise=other.descriptor_noise,
            descriptor_share=share,
        )
    )
    joined.bands.load_state_dict(bands.state_dict())
    joined.descriptors.load_state_dict(descriptors.state_dict())
    return joined
