"""The network of an encoder, by its configuration."""

from mixprint.encoder.descriptor_model import DescriptorEncoder
from mixprint.encoder.joined_model import JoinedEncoder
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig

AnyEncoder = MixEncoder | DescriptorEncoder | JoinedEncoder


def build_encoder(config: EncoderConfig) -> AnyEncoder:
    """Build the network that a configuration describes, untrained."""
    match config.backbone:
        case "descriptors":
            return DescriptorEncoder(config)
        case "joined":
            return JoinedEncoder(config)
        case _:
            return MixEncoder(config)
