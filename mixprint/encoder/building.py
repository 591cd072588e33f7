"""The network of an encoder, by its configuration."""

from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig

AnyEncoder = MixEncoder | DescriptorEncoder


def build_encoder(config: EncoderConfig) -> AnyEncoder:
    """Build the network that a configuration describes, untrained."""
    return DescriptorEncoder(config) if config.backbone == "descriptors" else MixEncoder(config)
