"""Network of the controller: a transformer over tracks and what is known of the reference.

Tokens: one per track, which knows the stem of the reference that it would be in; one per stem of
the reference, or mid and side where nothing is separated; the encoder's embedding of the reference;
where there is no reference at all, one that stands for a good mix; the master. They have no places,
only kinds, so that permuted tracks give permuted settings, and padding is masked.

Shape suffixes: B song, N track, R part of the reference, D number of a descriptor, E embedding,
S token, H head, d width, K field.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.controller.heads import (
    SettingsHead,
    StripPrediction,
    StripTarget,
    Table,
    build_head,
)
from mixprint.controller.prior import Prior
from mixprint.controller.roles import stem_of
from mixprint.controller.settings import ControllerConfig
from mixprint.controller.targets import MASTER, TRACK
from mixprint.errors import ConfigError
from mixprint.features.descriptors import NUM_DESCRIPTORS
from mixprint.stems import STEMS

# Parts of a reference, by number.
REFERENCE_KINDS = (*STEMS, "mid", "side")
_NO_KIND = -1
_FEED_FORWARD = 4
_LEAST_SCALE = 1e-3
# What lies further from the mean than this many deviations is as far.
_MOST_DEVIATIONS = 5.0


class Inputs(NamedTuple):
    """Inputs of a controller for several songs.

    Attributes:
        track_BND: descriptors of the tracks at the working level.
        role_BN: their roles, 0 where unknown.
        is_track_BN: where there is a track; the rest is padding.
        reference_BRD: descriptors of the parts of the reference.
        kind_BR: their numbers in `REFERENCE_KINDS`.
        is_part_BR: where there is a part.
        embedding_BE: of the reference.
        has_embedding_B: where there is one.
    """

    track_BND: Tensor
    role_BN: Tensor
    is_track_BN: Tensor
    reference_BRD: Tensor
    kind_BR: Tensor
    is_part_BR: Tensor
    embedding_BE: Tensor
    has_embedding_B: Tensor

    def to(self, device: torch.device | str) -> "Inputs":
        """Return them on a device."""
        return Inputs(*(value.to(device) for value in self))

    def row(self, number: int) -> "Inputs":
        """Return one of the songs."""
        return Inputs(*(value[number : number + 1] for value in self))


class Tokens(NamedTuple):
    """Tokens of strips: `track_BNd` and `master_Bd`."""

    track_BNd: Tensor
    master_Bd: Tensor


class Outputs(NamedTuple):
    """Predictions of tracks, all of a batch in one row of padded songs, and of masters.

    Attributes:
        track: axis N is B x N of the inputs, in their order.
        master: axis N is B.
    """

    track: StripPrediction
    master: StripPrediction


class Standardised(nn.Module):
    """Descriptors less their mean, over their deviation: those of the training.

    While it learns, noise is added.
    """

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, noise: float) -> None:
        super().__init__()
        self._noise = noise
        self.register_buffer("mean_D", torch.zeros(NUM_DESCRIPTORS))
        self.register_buffer("scale_D", torch.ones(NUM_DESCRIPTORS))

    def fit(self, descriptor_MD: Tensor) -> None:
        """Estimate mean and deviation of descriptors; without any, all stays."""
        if len(descriptor_MD) == 0:
            return
        self.mean_D.copy_(descriptor_MD.mean(dim=0))
        self.scale_D.copy_(descriptor_MD.std(dim=0, correction=0).clamp_min(_LEAST_SCALE))

    def forward(self, descriptor_D: Tensor) -> Tensor:
        """Standardise `...D`."""
        standard_D = (descriptor_D - self.mean_D) / self.scale_D
        standard_D = standard_D.clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        if self.training and self._noise > 0:
            standard_D = standard_D + self._noise * torch.randn_like(standard_D)
        return standard_D


class Block(nn.Module):
    """Layer of a transformer: attention, then each token by itself, both after a norm."""

    def __init__(self, config: ControllerConfig) -> None:
        super().__init__()
        width = config.width
        self._num_heads = config.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(config.dropout)
        self.feed = nn.Sequential(
            nn.Linear(width, _FEED_FORWARD * width),
            nn.GELU(),
            nn.Linear(_FEED_FORWARD * width, width),
        )

    def forward(self, token_BSd: Tensor, is_heard_B11S: Tensor) -> Tensor:
        """Attend to the tokens that are marked, then change each by itself."""
        heads_BSd = self.qkv(self.norm1(token_BSd)).chunk(3, dim=-1)
        query, key, value = (
            x.unflatten(-1, (self._num_heads, -1)).transpose(1, 2) for x in heads_BSd
        )
        heard_BHSd = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=is_heard_B11S
        )
        token_BSd = token_BSd + self.drop(self.out(heard_BHSd.transpose(1, 2).flatten(2)))
        return token_BSd + self.drop(self.feed(self.norm2(token_BSd)))


class ControllerNetwork(nn.Module):
    """Network from descriptors and roles to settings.

    Attributes:
        config: its architecture.
        prior: of the tracks' settings.
        master_prior: of the master's.
    """

    kind_of_role_R: Tensor

    def __init__(self, config: ControllerConfig) -> None:
        """Build it.

        Args:
            config: the architecture.
        """
        super().__init__()
        self.config = config
        width = config.width
        self.track_scale, self.reference_scale = (
            Standardised(config.descriptor_noise) for _ in range(2)
        )
        self.prior = Prior(len(config.roles), TRACK.neutral_K)
        self.master_prior = Prior(0, MASTER.neutral_K)
        self.track_in = nn.Sequential(
            nn.Linear(2 * NUM_DESCRIPTORS + 1, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.reference_in = nn.Linear(NUM_DESCRIPTORS, width)
        self.embedding_in = nn.Linear(config.embedding_dim, width)
        self.role = Table(len(config.roles) + 1, width)
        # What part of a reference tracks of a role are in; none of an unknown role.
        kinds = [_NO_KIND, *(REFERENCE_KINDS.index(stem_of(role)) for role in config.roles)]
        with torch.device("cpu"):  # see `mixprint.checkpoints.form.restored`
            self.register_buffer("kind_of_role_R", torch.tensor(kinds), persistent=False)
        self.kind = Table(len(REFERENCE_KINDS), width)
        # What stands for no reference, and the master.
        self.special = Table(2, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.track_head = build_head(config.head, TRACK, width)
        self.master_head = build_head(config.head, MASTER, width)

    @torch.no_grad()
    def settle(self, track: StripPrediction, master: StripPrediction) -> None:
        """Begin with the same prediction for all tracks of a role, whatever is heard.

        The transformer passes the tokens on as they are, and the descriptors say nothing, until
        they have learned to.

        Args:
            track: in a row for each role, the first for unknown ones.
            master: in one row.

        Raises:
            ConfigError: the heads write chains.
        """
        silent = list(self.track_in[-1].parameters())
        for part in self.modules():
            if isinstance(part, Block):
                silent += [*part.out.parameters(), *part.feed[-1].parameters()]
        for weight in silent:
            nn.init.zeros_(weight)
        for head, token_Rd, prior, wanted in (
            (self.track_head, self.role.row_Rd, self.prior, track),
            (self.master_head, self.special.row_Rd[1:], self.master_prior, master),
        ):
            if not isinstance(head, SettingsHead):
                raise ConfigError("a network from scratch: expected head settings, found chain")
            head.settle(token_Rd, prior.mean_RK[0], wanted)

    def encode(self, inputs: Inputs) -> Tokens:
        """Encode songs: the tokens of tracks and master, which have heard all others."""
        num_songs, num_tracks = inputs.is_track_BN.shape
        reference_BRD = self.reference_scale(inputs.reference_BRD)
        reference_BRd = self.reference_in(reference_BRD) + self.kind(inputs.kind_BR)
        track_BNd = self._tracks(inputs, reference_BRD) + self.role(inputs.role_BN)
        has_reference_B = inputs.is_part_BR.any(dim=-1) | inputs.has_embedding_B
        special_B2d = self.special.row_Rd.expand(num_songs, -1, -1).to(track_BNd)
        token_BSd = torch.cat(
            [
                track_BNd,
                reference_BRd,
                self.embedding_in(inputs.embedding_BE)[:, None],
                special_B2d,
            ],
            dim=1,
        )
        is_heard_BS = torch.cat(
            [
                inputs.is_track_BN,
                inputs.is_part_BR,
                torch.stack(
                    [
                        inputs.has_embedding_B,
                        ~has_reference_B,
                        torch.ones_like(has_reference_B),
                    ],
                    dim=-1,
                ),
            ],
            dim=1,
        )
        for block in self.blocks:
            token_BSd = block(token_BSd, is_heard_BS[:, None, None])
        return Tokens(token_BSd[:, :num_tracks].float(), token_BSd[:, -1].float())

    def _tracks(self, inputs: Inputs, reference_BRD: Tensor) -> Tensor:
        """Let each track see the stem of the reference that it would be in: track_BNd."""
        kind_BN = self.kind_of_role_R[inputs.role_BN]
        is_own_BNR = (kind_BN[:, :, None] == inputs.kind_BR[:, None]) & inputs.is_part_BR[:, None]
        own_BNR = is_own_BNR.to(reference_BRD)
        return self.track_in(
            torch.cat(
                [
                    self.track_scale(inputs.track_BND),
                    own_BNR @ reference_BRD,
                    own_BNR.sum(dim=-1, keepdim=True),
                ],
                dim=-1,
            )
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Predict the settings of songs."""
        return self.predicted(self.encode(inputs))

    def predicted(self, tokens: Tokens) -> Outputs:
        """Predict settings from tokens."""
        return Outputs(
            self.track_head(tokens.track_BNd.flatten(0, 1), self.prior.mean_RK[0]),
            self.master_head(tokens.master_Bd, self.master_prior.mean_RK[0]),
        )

    def likelihood(
        self,
        tokens: Tokens,
        is_track_BN: Tensor,
        track: StripTarget,
        master: StripTarget,
        gate_weight: float,
    ) -> Tensor:
        """Return the negative log likelihood of true settings: the mean of tracks, plus the master.

        Args:
            tokens: of the songs.
            is_track_BN: where there is a track.
            track: the truth of all rows B x N, padding included.
            master: the truth of the masters.
            gate_weight: of the gates beside the settings.

        Returns:
            loss_B, nats a setting.
        """
        loss_N = self.track_head.loss(
            tokens.track_BNd.flatten(0, 1), self.prior.mean_RK[0], track, gate_weight
        )
        loss_BN = loss_N.view(is_track_BN.shape).where(is_track_BN, 0.0)
        track_B = loss_BN.sum(dim=-1) / is_track_BN.sum(dim=-1).clamp_min(1)
        base_K = self.master_prior.mean_RK[0]
        return track_B + self.master_head.loss(tokens.master_Bd, base_K, master, gate_weight)
