"""The cascade: an agent that divides two songs by a mask, and stages that refine their mix.

The agent reads both songs and gives a mask: so much of each number of a latent is the input's, and
the rest is the target's. Each stage adds to the mix before it what it hears in both songs and in
that mix. What a stage adds is nothing at first, so an untrained cascade gives the masked mix.

Latents are standardised, see `mixprint.codec.interface.Codec`.

Shape suffixes: B pair, D dimension of a latent, N frame, W channel, H head, E part of a head.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from mixprint.cascade.settings import CascadeConfig, StageShape

# Levels of latents are told as logarithms, down to -60 dB.
_LEVEL_FLOOR = 1e-3
_ROTARY_BASE = 10_000.0
_POWER_ITERATIONS = 15  # when a projection is made; one more at each step of a training


class Blend(NamedTuple):
    """Mixes of two songs by a cascade.

    Attributes:
        mask_BDN: how much is the input's, 0 to 1.
        stages_BDN: mix behind the mask, and behind each stage.
    """

    mask_BDN: Tensor
    stages_BDN: tuple[Tensor, ...]

    @property
    def masked(self) -> Tensor:
        """The mix that the mask alone makes: BDN."""
        return self.stages_BDN[0]

    @property
    def mix(self) -> Tensor:
        """The mix of the last stage: BDN."""
        return self.stages_BDN[-1]


class Cascade(nn.Module):
    """Agent and stages.

    Attributes:
        config: what it is.
    """

    def __init__(self, config: CascadeConfig) -> None:
        """Build it with fresh weights."""
        super().__init__()
        self.config = config
        self.agent = Agent(config)
        # Two songs and the mix before it.
        self.stages = nn.ModuleList(
            Stage(3 * config.latent_dim, config.latent_dim, shape, config.dropout)
            for shape in config.stages
        )
        # What stands for a target where there is none.
        self.no_target_D = nn.Parameter(torch.zeros(config.latent_dim))

    def forward(
        self,
        input_BDN: Tensor,
        target_BDN: Tensor,
        has_target_B: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Blend:
        """Mix songs.

        Args:
            input_BDN: latents of the song that gives the rhythm.
            target_BDN: of the one that gives the harmony, as many.
            has_target_B: where there is a target; what stands for it where not is left out. None:
                all have one.
            temperature: of the mask: the lower, the more decided.
        """
        if has_target_B is not None:
            absent_1D1 = self.no_target_D[None, :, None]
            target_BDN = torch.where(has_target_B[:, None, None], target_BDN, absent_1D1)
        mask_BDN = self.agent(input_BDN, target_BDN, temperature)
        mix_BDN = mask_BDN * input_BDN + (1 - mask_BDN) * target_BDN
        mixes = [mix_BDN]
        for stage in self.stages:
            mix_BDN = mix_BDN + stage(torch.cat([input_BDN, target_BDN, mix_BDN], dim=1))
            mixes.append(mix_BDN)
        return Blend(mask_BDN, tuple(mixes))

    def num_parameters(self) -> dict[str, int]:
        """Count the weights of the agent and of each stage."""
        named: dict[str, nn.Module] = {"agent": self.agent}
        named |= {f"stage {number}": stage for number, stage in enumerate(self.stages)}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in named.items()}


class Agent(nn.Module):
    """Read two songs, each with the other in mind, and decide what to take of which."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        width = config.agent_width
        self.input_analyser = _Analyser(config.latent_dim, width)
        self.target_analyser = _Analyser(config.latent_dim, width)
        # One attention for both ways; who asks is told by the analysers, which differ.
        self.attention = _CrossAttention(width, config.agent_heads, config.dropout)
        self.decide = nn.Sequential(
            nn.Conv1d(2 * width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, config.latent_dim, 1),
        )

    def forward(self, input_BDN: Tensor, target_BDN: Tensor, temperature: float) -> Tensor:
        """Return mask_BDN of the input; that of the target is one less it."""
        input_BNW, target_BNW = self.input_analyser(input_BDN), self.target_analyser(target_BDN)
        both_BNW = torch.cat(
            [self.attention(input_BNW, target_BNW), self.attention(target_BNW, input_BNW)], dim=-1
        )
        logit_BDN: Tensor = self.decide(both_BNW.mT)
        return (logit_BDN / temperature).sigmoid()


class _Analyser(nn.Module):
    """Two convolutions over latents and their levels."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2 * latent_dim, width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.GELU(),
        )

    def forward(self, z_BDN: Tensor) -> Tensor:
        features_BWN: Tensor = self.layers(torch.cat([z_BDN, levels(z_BDN)], dim=1))
        return features_BWN.mT


def levels(z_BDN: Tensor) -> Tensor:
    """Return the logarithms of magnitudes, 0 at the deviation of music and -1 at -60 dB of it."""
    floor = _LEVEL_FLOOR**2
    return (z_BDN.square() + floor).log() / -math.log(floor)


class _CrossAttention(nn.Module):
    """One sequence asks another one of the same length; a residual, and a feed-forward network."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.norm_other, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed = feed_forward(width, 2 * width, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, own_BNW: Tensor, other_BNW: Tensor) -> Tensor:
        query_BNW = self.query(self.norm(own_BNW))
        key_BNW, value_BNW = self.key_value(self.norm_other(other_BNW)).chunk(2, dim=-1)
        attended_BNW = attended(query_BNW, key_BNW, value_BNW, self.num_heads)
        own_BNW = own_BNW + self.drop(self.out(attended_BNW))
        fed_BNW: Tensor = self.feed(self.norm_feed(own_BNW))
        return own_BNW + fed_BNW


class Stage(nn.Module):
    """A transformer over frames that adds to a mix; at first nothing."""

    def __init__(self, channels: int, latent_dim: int, shape: StageShape, dropout: float) -> None:
        super().__init__()
        self.inward = nn.Linear(channels, shape.width)
        self.layers = nn.ModuleList(_Layer(shape, dropout) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.width)
        # The largest gain of the projection is 1 at every step, and how much of it is added is
        # learned apart.
        self.outward = spectral_norm(nn.Linear(shape.width, latent_dim))
        self.gain_D = nn.Parameter(torch.zeros(latent_dim))
        _settle(self.outward)

    def forward(self, z_BDN: Tensor) -> Tensor:
        """Return what is to be added: BDN."""
        x_BNW = self.inward(z_BDN.mT)
        for layer in self.layers:
            x_BNW = layer(x_BNW)
        added_BND: Tensor = self.gain_D * self.outward(self.norm(x_BNW))
        return added_BND.mT


class _Layer(nn.Module):
    """Self-attention with rotary positions and a feed-forward network, both after a norm."""

    def __init__(self, shape: StageShape, dropout: float) -> None:
        super().__init__()
        width = shape.width
        self.num_heads = shape.num_heads
        self.norm, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = feed_forward(width, shape.hidden, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BNW: Tensor) -> Tensor:
        query_BNW, key_BNW, value_BNW = self.query_key_value(self.norm(x_BNW)).chunk(3, dim=-1)
        attended_BNW = attended(query_BNW, key_BNW, value_BNW, self.num_heads)
        x_BNW = x_BNW + self.drop(self.out(attended_BNW))
        fed_BNW: Tensor = self.feed(self.norm_feed(x_BNW))
        return x_BNW + fed_BNW


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Build the network that each token goes through by itself."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout)
    )


def attended(query_BNW: Tensor, key_BNW: Tensor, value_BNW: Tensor, num_heads: int) -> Tensor:
    """Attend, where a frame is told by how far it is from the one that asks.

    Source: Su et al., "RoFormer", arXiv 2104.09864.
    """
    query, key, value = (
        each.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for each in (query_BNW, key_BNW, value_BNW)
    )
    attended_BHNE = functional.scaled_dot_product_attention(_turned(query), _turned(key), value)
    return attended_BHNE.transpose(1, 2).flatten(2)


def _turned(x_BHNE: Tensor) -> Tensor:
    frames, parts = x_BHNE.shape[-2:]
    rates = _ROTARY_BASE ** (-torch.arange(parts // 2, device=x_BHNE.device) / (parts // 2))
    angle_NE = torch.arange(frames, device=x_BHNE.device)[:, None] * rates
    first, second = x_BHNE.float().chunk(2, dim=-1)
    cosine_NE, sine_NE = angle_NE.cos(), angle_NE.sin()
    turned = [first * cosine_NE - second * sine_NE, first * sine_NE + second * cosine_NE]
    return torch.cat(turned, dim=-1).to(x_BHNE.dtype)


@torch.no_grad()
def _settle(projection: nn.Module) -> None:
    """Run the power iterations, so that the norm is right before the first step of a training."""
    projection.train()
    for _ in range(_POWER_ITERATIONS):
        _ = projection.weight
