"""The encoder: four stereo stems and their mixing features in, one style embedding out.

A log-mel spectrogram of the eight channels is cut into overlapping sub-bands; each band has its
own small convolutional network, steered by the features through FiLM; attention over time pools
all bands into one vector; the features join it once more, and all becomes an embedding on the unit
sphere.

Shape suffixes: B batch, S stem, C audio channel, T sample, I input channel (stem x audio
channel), F frequency bin, M mel, N frame, K sub-band, R mel of a sub-band, H hidden channel (all
bands together), O hidden channel of a band, W width of the joined sequence, D features, E
embedding.

Source: FiLM, Perez et al. 2018 (arXiv 1709.07871).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.dsp.mel import mel_filterbank
from mixprint.encoder.bands import BandBlock
from mixprint.encoder.inputs import check_stems
from mixprint.encoder.settings import FEATURE_FAMILIES, POOL, EncoderConfig
from mixprint.features import FEATURE_NAMES
from mixprint.stems import NUM_CHANNELS, NUM_STEMS

_NUM_INPUTS = NUM_STEMS * NUM_CHANNELS
_FILM_HIDDEN = 128
_ATTENTION_HIDDEN = 64
_MIN_POWER = 1e-10  # -100 dBFS: below the noise of 16-bit audio, and the logarithm stays finite
_MIDDLE_DB, _SPREAD_DB = -50.0, 25.0  # brings music's mel levels to about -2..2
_MAX_DEVIATION = 5.0  # silent stems lie tens of deviations out; they must not drown the rest


class LogMel(nn.Module):
    """Scaled log-mel levels of every channel of every stem; window and filters are built once."""

    window_T: Tensor
    filters_MF: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.n_fft, self.hop_samples = config.n_fft, config.hop_samples
        with torch.device("cpu"):  # see `restored`
            filters_MF = mel_filterbank(config.num_mels, config.n_fft, config.sample_rate_hz)
            window_T = torch.hann_window(config.n_fft)
            # A full-scale sine whose power all falls into one bin reads 0 dBFS there.
            filters_MF = filters_MF * (2.0 / window_T.sum()).square()
        self.register_buffer("window_T", window_T, persistent=False)
        self.register_buffer("filters_MF", filters_MF, persistent=False)

    def forward(self, stems_BSCT: Tensor) -> Tensor:
        """Measure mel levels.

        Returns:
            levels_BIMN: (level in dBFS + 50) / 25, where a full-scale sine fills its bin with
            0 dBFS; silence is at the floor of -100 dBFS.
        """
        # On the CPU one segment at a time: the overlapping frames of a batch take gigabytes, and
        # writing them to fresh pages costs more than the transform. A GPU wants few, large calls.
        size = 1 if stems_BSCT.device.type == "cpu" else max(len(stems_BSCT), 1)
        return torch.cat([self._levels(part_BSCT) for part_BSCT in stems_BSCT.split(size)])

    def _levels(self, stems_BSCT: Tensor) -> Tensor:
        B, S, C, T = stems_BSCT.shape
        spectrum_JFN = torch.stft(
            stems_BSCT.reshape(B * S * C, T),
            self.n_fft,
            self.hop_samples,
            window=self.window_T,
            pad_mode="constant",
            return_complex=True,
        )
        power_JFN = spectrum_JFN.real.square() + spectrum_JFN.imag.square()
        power_JMN = self.filters_MF @ power_JFN
        level_JMN = 10.0 * torch.log10(power_JMN + _MIN_POWER)
        return ((level_JMN - _MIDDLE_DB) / _SPREAD_DB).view(B, S * C, *level_JMN.shape[1:])


class Film(nn.Module):
    """An MLP from the features to gamma and beta of each block; gamma varies around 1."""

    def __init__(self, num_features: int, num_channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(num_features, _FILM_HIDDEN), nn.ReLU(), nn.Dropout(dropout)
        )
        heads = [nn.Linear(_FILM_HIDDEN, 2 * n) for n in num_channels]
        for head in heads:
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def forward(self, features_BD: Tensor) -> list[Tensor]:
        """Return film_2BH of each block: gamma first, then beta."""
        hidden_BH = self.hidden(features_BD)
        films = []
        for head in self.heads:
            gamma_BH, beta_BH = head(hidden_BH).chunk(2, dim=-1)
            films.append(torch.stack([1.0 + gamma_BH, beta_BH]))
        return films


def _feature_mlp(num_features: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_features, _FILM_HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(_FILM_HIDDEN, width),
    )


class AttentionPool(nn.Module):
    """Weighted mean over time; the weights come from all bands together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(width, _ATTENTION_HIDDEN), nn.Tanh(), nn.Linear(_ATTENTION_HIDDEN, 1)
        )

    def forward(self, sequence_BNW: Tensor) -> Tensor:
        """Pool sequence_BNW to pooled_BW."""
        weight_BN1 = self.score(sequence_BNW).softmax(dim=1)
        return (weight_BN1 * sequence_BNW).sum(dim=1)


class MixEncoder(nn.Module):
    """Embed how a song is mixed."""

    feature_mask_D: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        num_bands = len(config.band_starts)
        films = config.conditioning == "film"
        channels = (config.conv_channels, 2 * config.conv_channels)
        self.log_mel = LogMel(config)
        self.block_1 = BandBlock(
            num_bands,
            _NUM_INPUTS,
            channels[0],
            affine=not films,
            band_rows=[slice(start, start + config.band_mels) for start in config.band_starts],
        )
        self.block_2 = BandBlock(num_bands, *channels, affine=not films)
        width = num_bands * channels[1] * (config.band_mels // POOL[0] ** 2)
        num_features = len(FEATURE_NAMES)
        if films:
            self.film = Film(num_features, [num_bands * n for n in channels], config.film_dropout)
        elif config.conditioning == "prepend":
            self.token = _feature_mlp(num_features, width, config.film_dropout)
        self.pool = AttentionPool(width)
        self.project = nn.Linear(width, config.embedding_dim)
        if config.feature_skip:
            self.skip = _feature_mlp(num_features, config.embedding_dim, config.film_dropout)
        dropped = tuple(e for family in config.dropped_families for e in FEATURE_FAMILIES[family])
        mask_D = torch.tensor([0.0 if n.endswith(dropped) else 1.0 for n in FEATURE_NAMES])
        self.register_buffer("feature_mask_D", mask_D, persistent=False)

    def forward(self, stems_BSCT: Tensor, standardised_features_BD: Tensor) -> Tensor:
        """Embed segments of one length.

        Args:
            stems_BSCT: stems in the order of `mixprint.stems.STEMS`, stereo, full scale at +-1,
                at the sample rate of the configuration, at least 3 s long.
            standardised_features_BD: their 64 features, standardised; not read where the
                conditioning is `none` and there is no skip.

        Returns:
            embedding_BE on the unit sphere.

        Raises:
            ValueError: the shapes do not fit.
        """
        self._check(stems_BSCT, standardised_features_BD)
        # Levels of quiet music differ by less than bfloat16 resolves, so autocast starts later.
        with torch.autocast(stems_BSCT.device.type, enabled=False):
            levels_BIMN = self.log_mel(stems_BSCT.float())
        # Far outliers are bent to the limit; near zero the curve is the identity.
        scaled_BD = standardised_features_BD.float() / _MAX_DEVIATION
        features_BD = _MAX_DEVIATION * torch.tanh(scaled_BD) * self.feature_mask_D
        conditioning = self.config.conditioning
        films = self.film(features_BD) if conditioning == "film" else (None, None)
        sequence_BNW = self.bands(levels_BIMN, films).flatten(1, 3).transpose(1, 2)
        if conditioning == "prepend":
            token_B1W = self.token(features_BD)[:, None].to(sequence_BNW.dtype)
            sequence_BNW = torch.cat([token_B1W, sequence_BNW], dim=1)
        embedding_BE = self.project(self.pool(sequence_BNW))
        if self.config.feature_skip:
            embedding_BE = embedding_BE + self.skip(features_BD)
        return functional.normalize(embedding_BE.float(), dim=-1)

    def bands(self, levels_BIMN: Tensor, films: Sequence[Tensor | None]) -> Tensor:
        """Run the sub-bands: levels and film_2BH of each block, or None, to x_BKORN."""
        x_BKORN = self.block_1(levels_BIMN, films[0])
        return self.block_2(x_BKORN, films[1])

    def _check(self, stems_BSCT: Tensor, features_BD: Tensor) -> None:
        B = stems_BSCT.shape[0]
        check_stems(stems_BSCT, self.config.min_samples)
        if features_BD.shape != (B, len(FEATURE_NAMES)):
            raise ValueError(
                f"standardised_features_BD must be ({B}, {len(FEATURE_NAMES)}), "
                f"got {tuple(features_BD.shape)}"
            )
