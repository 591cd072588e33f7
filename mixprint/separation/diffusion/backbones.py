"""Networks that a denoiser can be made of: SCNet's blocks, a conformer, a U-Net.

Each takes the noisy instrumental, the mixture and another separator's instrumental, and a vector
that says how much noise there is; it gives as many numbers per row and frame as the head needs, and
features of each frame, by which is told whether there are vocals in it.

Shape suffixes: B example of a batch, C audio channel, D feature channel, E conditioning, F
frequency row, N frame, P patch of frequency rows, R sequence of a batch entry, L place in a
sequence, H head.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.separation.diffusion.settings import DiffusionConfig
from mixprint.separation.scnet.model import SCNetBody, mask_head, masks, real_channels
from mixprint.stems import NUM_CHANNELS, SAMPLE_RATE_HZ

SPECTRUM_CHANNELS = 2 * NUM_CHANNELS  # real and imaginary parts
# What a head needs: a spectrum, or a mask and the logarithm of its variance in each channel.
HEAD_CHANNELS = {"mask": SPECTRUM_CHANNELS + NUM_CHANNELS, "free": SPECTRUM_CHANNELS}
NUM_GROUPS = 8  # of group norms
# Of the logarithm of alpha / sigma: -174 to 174 dB.
LARGEST_LOG_SNR = 20.0
_ROTARY_BASE = 10_000.0
PRESENCE_FRAMES = 61  # that are heard to tell whether there are vocals in the middle one
FIRST_PRESENCE = 2.0  # logit, before anything is learned
# Between the bands in which the presence of vocals is told by levels.
LEVEL_EDGES_HZ = (108.0, 323.0, 861.0, 2_153.0, 5_383.0)
NUM_LEVELS = 2 * (len(LEVEL_EDGES_HZ) + 2)  # see `levels`
# Of powers, of the vocals relative to the mixture, and of all relative to its mean.
LEAST_POWER, LEAST_RATIO, LEAST_LOUDNESS = 1e-9, 1e-4, 1e-5


class Conditioning(nn.Module):
    """Embedding of the level of noise, and of whether there is a prior."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.num_waves = width // 2

    def forward(self, half_log_snr_B: Tensor, has_prior_B: Tensor) -> Tensor:
        """Embed log(alpha / sigma), which may be infinite, and whether there is a prior."""
        level_B = half_log_snr_B.clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR) / LARGEST_LOG_SNR
        # From one wave over the whole range to one in each 3.5 dB.
        exponents = torch.linspace(0, 1, self.num_waves, device=level_B.device)
        waves_BE = level_B.float()[:, None] * math.pi * 100.0**exponents
        features = [waves_BE.sin(), waves_BE.cos(), has_prior_B.float()[:, None]]
        with torch.autocast(level_B.device.type, enabled=False):
            embedding_BE: Tensor = self.layers(torch.cat(features, dim=1))
        return embedding_BE


class Film(nn.Module):
    """A gain and an offset per channel that follow from the conditioning; at first 1 and 0.

    Source: Perez et al., "FiLM", arXiv 1709.07871.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BDFN: Tensor, embedding_BE: Tensor) -> Tensor:
        """Modulate."""
        with torch.autocast(x_BDFN.device.type, enabled=False):
            gain_BD, offset_BD = self.linear(embedding_BE).chunk(2, dim=1)
        return x_BDFN * (1 + gain_BD)[:, :, None, None] + offset_BD[:, :, None, None]


class Presence(nn.Module):
    """Logits of whether there are vocals in each frame; at first it is likely that there are."""

    def __init__(self, channels: int, width: int) -> None:
        """Build it.

        Args:
            channels: of a backbone's features.
            width: of what is between.
        """
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.inward = nn.Linear(2 * channels + NUM_LEVELS, width)
        self.along_time = nn.Conv1d(width, width, PRESENCE_FRAMES, padding=PRESENCE_FRAMES // 2)
        self.outward = nn.Conv1d(width, 1, 1)
        nn.init.zeros_(self.outward.weight)
        assert self.outward.bias is not None
        nn.init.constant_(self.outward.bias, FIRST_PRESENCE)

    def forward(self, x_BDPN: Tensor, level_BLN: Tensor) -> Tensor:
        """Return logit_BN from features of rows and frames, and `levels`."""
        with torch.autocast(x_BDPN.device.type, enabled=False):
            x_BDN = torch.cat([x_BDPN.mean(dim=2), x_BDPN.amax(dim=2)], dim=1).float()
            heard_BND = torch.cat([self.norm(x_BDN.mT), level_BLN.mT], dim=2)
            x_BNW = functional.gelu(self.inward(heard_BND))
            x_BWN = functional.gelu(self.along_time(x_BNW.mT))
            logit_B1N: Tensor = self.outward(x_BWN)
        return logit_B1N[:, 0]


def levels(vocals_BCFN: Tensor, mixture_BCFN: Tensor, config: DiffusionConfig) -> Tensor:
    """Measure how loud vocals and mixture are, in six bands and as a whole: level_BLN.

    Args:
        vocals_BCFN: spectra of the vocals as a mask finds them.
        mixture_BCFN: spectra of the mixture.
        config: of the denoiser.

    Returns:
        logarithms to the base 10 of powers: of the vocals relative to the mixture, in each band and
        in all; of the mixture in each band and of all the vocals, relative to the mean of the
        mixture.
    """
    vocals_BLN, mixture_BLN = (
        _band_powers(x_BCFN, config.blocks.nfft) for x_BCFN in (vocals_BCFN, mixture_BCFN)
    )
    mean_B11 = mixture_BLN[:, -1:].mean(dim=2, keepdim=True) + LEAST_POWER
    ratio_BLN = vocals_BLN / (mixture_BLN + LEAST_POWER)
    loudness_BLN = torch.cat([mixture_BLN[:, :-1], vocals_BLN[:, -1:]], dim=1) / mean_B11
    return torch.cat([ratio_BLN + LEAST_RATIO, loudness_BLN + LEAST_LOUDNESS], dim=1).log10()


def _band_powers(spectrum_BCFN: Tensor, nfft: int) -> Tensor:
    """Return the power over channels and rows, in each band and in all: power_BLN."""
    power_BFN = torch.view_as_real(spectrum_BCFN).square().sum(dim=(1, 4))
    inner = [round(hz * nfft / SAMPLE_RATE_HZ) for hz in LEVEL_EDGES_HZ]
    edges = [0, *inner, power_BFN.shape[1]]
    bands = [power_BFN[:, low:high].sum(dim=1) for low, high in pairwise(edges)]
    return torch.stack([*bands, power_BFN.sum(dim=1)], dim=1)


class Told(NamedTuple):
    """Output of a backbone.

    Attributes:
        out_BDFN: as many channels as `HEAD_CHANNELS` says.
        features_BDPN: what it found, in fewer rows.
    """

    out_BDFN: Tensor
    features_BDPN: Tensor


class Backbone(nn.Module):
    """A network of a denoiser.

    Attributes:
        takes_compressed: it is shown the mixture as the noisy signal is, compressed and scaled.
        num_features: channels of its features.
    """

    takes_compressed: ClassVar[bool] = True
    num_features: int

    def forward(
        self, z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor, embedding_BE: Tensor
    ) -> Told:
        """Run the network."""
        raise NotImplementedError


class Bands(Backbone):
    """SCNet's blocks, with noisy signal and prior as further inputs, modulated behind each block.

    The further inputs and the modulation do nothing at first: with an SCNet's weights this is the
    SCNet, whatever the noise.
    """

    takes_compressed: ClassVar[bool] = False

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        blocks = config.blocks
        self.num_features = blocks.dims[-1]
        extra_channels = 2 * SPECTRUM_CHANNELS
        self.body = SCNetBody(blocks, extra_channels)
        self.pos_embed_f = nn.Parameter(torch.zeros(1, SPECTRUM_CHANNELS, blocks.num_bins, 1))
        # Without the last layer, by which the masks of an SCNet are bounded.
        decoded_channels = SPECTRUM_CHANNELS * len(blocks.sources)
        *layers, _ = mask_head(decoded_channels, HEAD_CHANNELS[config.head])
        self.mask_layer = nn.Sequential(*layers)
        self.extra_film = Film(config.conditioning, extra_channels)
        self.films = nn.ModuleList(
            Film(config.conditioning, channels) for channels in self.body.modulated_channels
        )
        for weight in self.body.extra_weights:
            nn.init.zeros_(weight)

    def forward(
        self, z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor, embedding_BE: Tensor
    ) -> Told:
        """See `Backbone`."""
        films = iter(self.films)
        extra_BDFN = real_channels(torch.cat([z_BCFN, prior_BCFN], dim=1))

        def modulated(x_BDFN: Tensor) -> Tensor:
            modulated_BDFN: Tensor = next(films)(x_BDFN, embedding_BE)
            return modulated_BDFN

        features_BDPN, skips = self.body.encoded(
            real_channels(mixture_BCFN) + self.pos_embed_f,
            self.extra_film(extra_BDFN, embedding_BE),
            modulated,
        )
        decoded_BDFN = self.body.decoded(features_BDPN, skips, modulated)
        return Told(masks(self.mask_layer, decoded_BDFN), features_BDPN)


def _joined(z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor, rows: int) -> Tensor:
    """Return the inputs as channels, with silent rows on top up to a multiple of `rows`."""
    x_BDFN = real_channels(torch.cat([z_BCFN, mixture_BCFN, prior_BCFN], dim=1))
    return functional.pad(x_BDFN, (0, 0, 0, -x_BDFN.shape[2] % rows))


class _FrequencyPatches(nn.Module):
    """Patches of frequency rows as single rows that know their place, and back."""

    def __init__(self, config: DiffusionConfig, patch: int, width: int) -> None:
        super().__init__()
        num_rows, size = config.blocks.num_bins, (patch, 1)
        self.inward = nn.Conv2d(3 * SPECTRUM_CHANNELS, width, size, size)
        self.place_DP1 = nn.Parameter(0.02 * torch.randn(width, math.ceil(num_rows / patch), 1))
        self.outward = nn.ConvTranspose2d(width, HEAD_CHANNELS[config.head], size, size)
        self.patch = patch

    def embed(self, z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor) -> Tensor:
        """Return x_BDPN."""
        x_BDPN: Tensor = self.inward(_joined(z_BCFN, mixture_BCFN, prior_BCFN, self.patch))
        return x_BDPN + self.place_DP1

    def rows(self, x_BDPN: Tensor, num_rows: int) -> Tensor:
        """Return out_BDFN."""
        out_BDFN: Tensor = self.outward(x_BDPN)
        return out_BDFN[:, :, :num_rows]


def rotated(x_RHLD: Tensor) -> Tensor:
    """Turn pairs of channels by angles that grow with the place in the sequence.

    So the product of a query and a key depends on how far apart they are, and not on where.

    Source: Su et al., "RoFormer", arXiv 2104.09864.
    """
    length, channels = x_RHLD.shape[-2:]
    half = channels // 2
    device = x_RHLD.device
    rates = _ROTARY_BASE ** (-torch.arange(half, device=device) / half)
    angle_LD = torch.arange(length, device=device)[:, None] * rates
    first, second = x_RHLD.float().chunk(2, dim=-1)
    turned = [
        first * angle_LD.cos() - second * angle_LD.sin(),
        first * angle_LD.sin() + second * angle_LD.cos(),
    ]
    return torch.cat(turned, dim=-1).to(x_RHLD.dtype)


class _Attention(nn.Module):
    """Self-attention along a sequence; rotary positions where it is time."""

    def __init__(self, width: int, num_heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.num_heads, self.rotary = num_heads, rotary
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x_RLD: Tensor) -> Tensor:
        joined = self.inward(self.norm(x_RLD)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        if self.rotary:
            query, key = rotated(query), rotated(key)
        attended_RHLD = functional.scaled_dot_product_attention(query, key, value)
        out_RLD: Tensor = self.outward(attended_RHLD.transpose(1, 2).flatten(2))
        return out_RLD


class _Convolution(nn.Module):
    """A conformer's convolution module, with a group norm in place of the batch norm."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.group_norm = nn.GroupNorm(1, width)
        self.outward = nn.Conv1d(width, width, 1)

    def forward(self, x_RLD: Tensor) -> Tensor:
        x_RDL = functional.glu(self.inward(self.norm(x_RLD).transpose(1, 2)), dim=1)
        x_RDL = functional.silu(self.group_norm(self.depthwise(x_RDL)))
        out_RDL: Tensor = self.outward(x_RDL)
        return out_RDL.transpose(1, 2)


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width)
    )


class _ConformerLayer(nn.Module):
    """A layer along time, each patch on its own, or along frequency, each frame on its own.

    Source: Gulati et al., "Conformer", arXiv 2005.08100.
    """

    def __init__(self, config: DiffusionConfig, *, along_time: bool) -> None:
        super().__init__()
        sizes = config.conformer
        width = sizes.width
        self.along_time = along_time
        self.film = Film(config.conditioning, width)
        self.before = _feed_forward(width, sizes.hidden)
        self.attention = _Attention(width, sizes.num_heads, rotary=along_time)
        self.convolution = _Convolution(width, sizes.kernel)
        self.after = _feed_forward(width, sizes.hidden)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BDPN: Tensor, embedding_BE: Tensor) -> Tensor:
        x_BDPN = self.film(x_BDPN, embedding_BE)
        order = (0, 2, 3, 1) if self.along_time else (0, 3, 2, 1)
        x = x_BDPN.permute(*order)
        x_RLD = x.flatten(0, 1)
        x_RLD = x_RLD + self.before(x_RLD) / 2
        x_RLD = x_RLD + self.attention(x_RLD)
        x_RLD = x_RLD + self.convolution(x_RLD)
        x_RLD = self.norm(x_RLD + self.after(x_RLD) / 2)
        return x_RLD.view(x.shape).permute(*(order.index(axis) for axis in range(4)))


class Conformer(Backbone):
    """Conformer layers, alternately along time and along frequency."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        sizes = config.conformer
        self.num_features = sizes.width
        self.patches = _FrequencyPatches(config, sizes.patch, sizes.width)
        self.layers = nn.ModuleList(
            _ConformerLayer(config, along_time=index % 2 == 0) for index in range(sizes.num_layers)
        )

    def forward(
        self, z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor, embedding_BE: Tensor
    ) -> Told:
        """See `Backbone`."""
        x_BDPN = self.patches.embed(z_BCFN, mixture_BCFN, prior_BCFN)
        for layer in self.layers:
            x_BDPN = layer(x_BDPN, embedding_BE)
        return Told(self.patches.rows(x_BDPN, z_BCFN.shape[2]), x_BDPN)


class _ResidualBlock(nn.Module):
    """Two convolutions with group norms, modulated between them, and a residual."""

    def __init__(self, before: int, after: int, conditioning: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(NUM_GROUPS, before)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.film = Film(conditioning, after)
        self.second_norm = nn.GroupNorm(NUM_GROUPS, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.residual = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x_BDPN: Tensor, embedding_BE: Tensor) -> Tensor:
        y_BDPN = self.first(functional.silu(self.first_norm(x_BDPN)))
        y_BDPN = self.film(self.second_norm(y_BDPN), embedding_BE)
        out_BDPN: Tensor = self.residual(x_BDPN) + self.second(functional.silu(y_BDPN))
        return out_BDPN


class UNet(Backbone):
    """A U-Net over frequency and time with attention along time at its coarsest scale.

    Source: Ronneberger et al., "U-Net", arXiv 1505.04597.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        sizes, conditioning = config.unet, config.conditioning
        self.num_features = sizes.width
        widths = [sizes.width * multiplier for multiplier in sizes.multipliers]
        self.patches = _FrequencyPatches(config, sizes.patch, sizes.width)
        self.down = nn.ModuleList(
            _ResidualBlock(before, after, conditioning)
            for before, after in pairwise([sizes.width, *widths])
        )
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 2, 2) for w in widths[:-1])
        self.attention = _Attention(widths[-1], sizes.num_heads, rotary=True)
        self.middle = _ResidualBlock(widths[-1], widths[-1], conditioning)
        pairs = list(pairwise(reversed(widths)))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(w, v, 2, 2) for w, v in pairs)
        self.up = nn.ModuleList(_ResidualBlock(2 * v, v, conditioning) for _, v in pairs)
        self.last = nn.Conv2d(widths[0], sizes.width, 1)

    def forward(
        self, z_BCFN: Tensor, mixture_BCFN: Tensor, prior_BCFN: Tensor, embedding_BE: Tensor
    ) -> Told:
        """See `Backbone`."""
        x_BDPN = self.patches.embed(z_BCFN, mixture_BCFN, prior_BCFN)
        rows, frames = x_BDPN.shape[2:]
        multiple = 1 << len(self.shrink)
        x_BDPN = functional.pad(x_BDPN, (0, -frames % multiple, 0, -rows % multiple))
        skips = []
        for block, shrink in zip(self.down, [*self.shrink, None], strict=True):
            x_BDPN = block(x_BDPN, embedding_BE)
            if shrink is not None:
                skips.append(x_BDPN)
                x_BDPN = shrink(x_BDPN)
        x = x_BDPN.permute(0, 2, 3, 1)
        x = x + self.attention(x.flatten(0, 1)).view(x.shape)
        x_BDPN = self.middle(x.permute(0, 3, 1, 2), embedding_BE)
        for grow, block in zip(self.grow, self.up, strict=True):
            x_BDPN = block(torch.cat([grow(x_BDPN), skips.pop()], dim=1), embedding_BE)
        x_BDPN = self.last(x_BDPN)[:, :, :rows, :frames]
        return Told(self.patches.rows(x_BDPN, z_BCFN.shape[2]), x_BDPN)


BACKBONES: dict[str, Callable[[DiffusionConfig], Backbone]] = {
    "bands": Bands,
    "conformer": Conformer,
    "unet": UNet,
}
