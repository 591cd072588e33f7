"""The encoder on descriptors: what is heard of each stem, in numbers, to one style embedding.

What an effect does to a sound shows in statistics: spectra, how levels fall and rise, the image,
combs, the shape of the wave (`mixprint.features.descriptors`, `mixprint.features.traces`). They are
measured, not learned. A small network, the same for all stems but for what names them, turns those
of a stem into its part of the embedding; so two mixes are as near as their stems are, on the whole.

Shape suffixes: B batch, S stem, C audio channel, T sample, D number of a stem's description,
H hidden, O part of the embedding, E embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.encoder.inputs import check_stems
from mixprint.encoder.settings import EncoderConfig
from mixprint.errors import ConfigError
from mixprint.features.descriptors import NUM_DESCRIPTORS, PLACES, shifted
from mixprint.features.schema import STEM_FEATURES
from mixprint.features.traces import NUM_EFFECT_DESCRIPTORS, describe_effects
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ

# Descriptors and traces; how loud the stem is in the mix, and how loud the mix.
NUM_INPUTS = NUM_EFFECT_DESCRIPTORS + 2
_LOUDNESS = PLACES["stem_features"].start + tuple(STEM_FEATURES).index("loudness_lufs")
_FAINTEST_LU = -40.0
# What lies far out is bent to this, in standard deviations.
_MAX_DEVIATION = 5.0
_LEAST_DEVIATION = 1e-3


class DescriptorEncoder(nn.Module):
    """Embed how a song is mixed, by what its stems sound like."""

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        """Build the network; `standardise` tells it what usual descriptions are.

        Raises:
            ConfigError: the rate is not that of the descriptors, or the embedding cannot be divided
                by the number of stems.
        """
        super().__init__()
        if config.sample_rate_hz != SAMPLE_RATE_HZ or config.embedding_dim % NUM_STEMS:
            raise ConfigError(
                f"an encoder on descriptors needs a sample rate of {SAMPLE_RATE_HZ} Hz and an "
                f"embedding_dim that is a multiple of {NUM_STEMS}, got {config.sample_rate_hz} and "
                f"{config.embedding_dim}"
            )
        self.config = config
        hidden, part = config.descriptor_hidden, config.embedding_dim // NUM_STEMS
        self.register_buffer("mean_D", torch.zeros(NUM_INPUTS))
        self.register_buffer("deviation_D", torch.ones(NUM_INPUTS))
        self.first = nn.Linear(NUM_INPUTS, hidden)
        # Its own way to begin imports PyTorch's compiler where a checkpoint is loaded.
        self.stem = nn.Embedding.from_pretrained(torch.randn(NUM_STEMS, hidden), freeze=False)
        self.second = nn.Linear(hidden, hidden)
        self.parts = nn.ModuleList([nn.Linear(hidden, part) for _ in range(NUM_STEMS)])
        self.dropout = nn.Dropout(config.descriptor_dropout)

    def forward(self, stems_BSCT: Tensor) -> Tensor:
        """Embed segments of one length.

        Args:
            stems_BSCT: stems in the order of `mixprint.stems.STEMS`, stereo, full scale at +-1,
                at the sample rate of the configuration, at least 3 s long.

        Returns:
            embedding_BE on the unit sphere.

        Raises:
            ValueError: the shape does not fit.
        """
        return self.embed_described(self.describe(stems_BSCT))

    def describe(self, stems_BSCT: Tensor) -> Tensor:
        """Measure stems: described_BSD, of which the last two are relative and whole loudness.

        Levels are relative to the loudness of the stem.

        Raises:
            ValueError: the shape does not fit.
        """
        check_stems(stems_BSCT, self.config.min_samples)
        shape = stems_BSCT.shape[:2]
        with torch.autocast(stems_BSCT.device.type, enabled=False):
            described_ND = describe_effects(stems_BSCT.float().flatten(0, 1))
            loudness_BS = described_ND[:, _LOUDNESS].view(shape)
            level_ND = shifted(described_ND[:, :NUM_DESCRIPTORS], -described_ND[:, _LOUDNESS])
            described_ND = torch.cat([level_ND, described_ND[:, NUM_DESCRIPTORS:]], dim=-1)
            # The loudness of the mix, as if its stems had nothing in common.
            whole_B1 = 10 * torch.pow(10.0, loudness_BS / 10).sum(dim=1, keepdim=True).log10()
            relative_BS = (loudness_BS - whole_B1).clamp_min(_FAINTEST_LU)
            return torch.cat(
                [
                    described_ND.view(*shape, -1),
                    relative_BS[..., None],
                    whole_B1.expand(shape)[..., None],
                ],
                dim=-1,
            )

    def embed_described(self, described_BSD: Tensor) -> Tensor:
        """Embed what `describe` has measured: embedding_BE on the unit sphere."""
        scaled_BSD = (described_BSD.float() - self.mean_D) / self.deviation_D
        x_BSD = _MAX_DEVIATION * torch.tanh(scaled_BSD / _MAX_DEVIATION)
        if self.training:
            x_BSD = x_BSD + self.config.descriptor_noise * torch.randn_like(x_BSD)
        x_BSH = functional.gelu(self.first(self.dropout(x_BSD)) + self.stem.weight)
        x_BSH = x_BSH + functional.gelu(self.second(self.dropout(x_BSH)))
        x_BSH = self.dropout(x_BSH)
        parts = [part(x_BSH[:, number]) for number, part in enumerate(self.parts)]
        return functional.normalize(torch.cat(parts, dim=-1).float(), dim=-1)

    @torch.no_grad()
    def standardise(self, described_ND: Tensor) -> None:
        """Take mean and deviation of the inputs from descriptions."""
        self.mean_D.copy_(described_ND.mean(dim=0))
        deviation_D = described_ND.std(dim=0, correction=0)
        self.deviation_D.copy_(deviation_D.clamp_min(_LEAST_DEVIATION))
