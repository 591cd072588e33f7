"""Settings of the cascade's networks."""

from dataclasses import dataclass
from typing import Annotated

from mixprint.codec.interface import NUM_DIMENSIONS
from mixprint.errors import ConfigError
from mixprint.schema import Length, Range

_Size = Annotated[int, Range(1, 1 << 14)]


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """Size of one stage's transformer.

    Attributes:
        width: of a token.
        hidden: between the layers of its feed-forward networks.
        num_layers: of the transformer.
        num_heads: of its attention.
    """

    width: _Size
    hidden: _Size
    num_layers: Annotated[int, Range(1, 64)]
    num_heads: Annotated[int, Range(1, 64)]

    def __post_init__(self) -> None:
        """Check that heads divide the width into even parts, as positions need.

        Raises:
            ConfigError: they do not.
        """
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"cascade.stages: expected a width of a multiple of {2 * self.num_heads}, twice "
                f"the heads, found {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class DiscriminatorShape:
    """Size of the discriminator.

    Attributes:
        channels: of its layers.
        kernels: taps of each layer, odd.
        strides: of each layer.
        num_scales: at so many scales of time it judges, each half as fine as the one before.
    """

    channels: Annotated[tuple[_Size, ...], Length(1, 12)]
    kernels: Annotated[tuple[Annotated[int, Range(1, 255)], ...], Length(1, 12)]
    strides: Annotated[tuple[Annotated[int, Range(1, 16)], ...], Length(1, 12)]
    num_scales: Annotated[int, Range(1, 6)]

    def __post_init__(self) -> None:
        """Check that the layers fit together.

        Raises:
            ConfigError: they do not.
        """
        if len({len(self.channels), len(self.kernels), len(self.strides)}) != 1:
            raise ConfigError(
                "cascade.discriminator: expected as many kernels and strides as channels, found "
                f"{len(self.kernels)}, {len(self.strides)} and {len(self.channels)}"
            )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ConfigError(f"cascade.discriminator.kernels: expected odd ones, {self.kernels}")


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Architecture of a cascade.

    Attributes:
        latent_dim: of the codec.
        agent_width: channels of what analyses the songs for the mask.
        agent_heads: of its attention.
        stages: from the first to the last.
        dropout: in agent and stages.
    """

    latent_dim: _Size = NUM_DIMENSIONS
    agent_width: _Size
    agent_heads: Annotated[int, Range(1, 64)]
    stages: Annotated[tuple[StageShape, ...], Length(1, 4)]
    dropout: Annotated[float, Range(0.0, 0.9)]

    def __post_init__(self) -> None:
        """Check that heads divide the width into even parts.

        Raises:
            ConfigError: they do not.
        """
        if self.agent_width % (2 * self.agent_heads):
            raise ConfigError(
                f"cascade.agent_width: expected a multiple of {2 * self.agent_heads}, twice the "
                f"heads, found {self.agent_width}"
            )
