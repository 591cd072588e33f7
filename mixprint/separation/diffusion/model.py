"""The network of a diffusion separator: from a noisy instrumental and the mixture to the clean one.

Shape suffixes: B example of a batch, C audio channel, T sample, F frequency row, N frame.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.backbones import BACKBONES, Bands, Conditioning
from mixprint.separation.diffusion.schedule import Schedule
from mixprint.separation.diffusion.settings import DiffusionConfig
from mixprint.separation.diffusion.spectrum import Compression
from mixprint.separation.scnet.model import SCNet, analysed, complex_channels, synthesised
from mixprint.stems import NUM_CHANNELS

VOCALS = "vocals"


class Denoised(NamedTuple):
    """What a denoiser makes of a noisy instrumental.

    Attributes:
        x0_BCFN: the instrumental, compressed and scaled.
        instrumental_BCFN: its spectrum.
        vocals_BCFN: the mixture's spectrum less the instrumental's.
    """

    x0_BCFN: Tensor
    instrumental_BCFN: Tensor
    vocals_BCFN: Tensor


class Prior(NamedTuple):
    """Another separator's instrumentals, where there are any.

    Attributes:
        instrumental_BCFN: spectra.
        is_given_B: whether an example has one; what stands for it where not is left out.
    """

    instrumental_BCFN: Tensor
    is_given_B: Tensor


class Denoiser(nn.Module):
    """Estimate the instrumental from a noisy one, the mixture, and how much noise there is.

    Frames of digital silence in the mixture are silent in the instrumental, to the bit.

    Attributes:
        config: what it is.
        schedule: the noise that it is trained with.
        compression: of the spectra in which noise is added.
    """

    stft_window: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        """Build it with fresh weights."""
        super().__init__()
        self.config = config
        self.schedule = Schedule(config.schedule, config.timesteps)
        self.compression = Compression(config.blocks.num_bins, config.power)
        self.conditioning = Conditioning(config.conditioning)
        self.backbone = BACKBONES[config.backbone](config)
        window_T = torch.hann_window(config.blocks.win_size, device="cpu")
        self.register_buffer("stft_window", window_T, persistent=False)

    def analyse(self, audio_BCT: Tensor) -> Tensor:
        """Take the STFT, which is SCNet's: spectrum_BCFN."""
        return analysed(audio_BCT, self.config.blocks, self.stft_window)

    def synthesise(self, spectrum_BCFN: Tensor, length: int) -> Tensor:
        """Invert `analyse`: audio_BCT of so many samples."""
        return synthesised(spectrum_BCFN, length, self.config.blocks, self.stft_window)

    def forward(
        self,
        z_BCFN: Tensor,
        mixture_BCFN: Tensor,
        alpha_B: Tensor,
        sigma_B: Tensor,
        prior: Prior | None = None,
    ) -> Denoised:
        """Denoise.

        Args:
            z_BCFN: alpha times the instrumental, compressed and scaled, plus sigma times noise.
            mixture_BCFN: spectrum of the mixture.
            alpha_B: part of the signal; with `sigma_B` in float64, or log SNRs near the ends
                become infinite too soon.
            sigma_B: part of the noise.
            prior: None: no example has one.
        """
        embedding_BE, prior_BCFN = self._conditions(alpha_B, sigma_B, prior, z_BCFN)
        shown_BCFN = mixture_BCFN
        if self.backbone.takes_compressed:
            shown_BCFN = self.compression.compress(mixture_BCFN)
        out_BDFN = self.backbone(z_BCFN, shown_BCFN, prior_BCFN, embedding_BE)
        if self.config.head == "mask":
            mask_BCFN = complex_channels(out_BDFN.tanh(), NUM_CHANNELS)[:, 0]
            vocals_BCFN = mask_BCFN * mixture_BCFN
            instrumental_BCFN = mixture_BCFN - vocals_BCFN
            x0_BCFN = self.compression.compress(instrumental_BCFN)
            return Denoised(x0_BCFN, instrumental_BCFN, vocals_BCFN)
        x0_BCFN = complex_channels(out_BDFN, NUM_CHANNELS)[:, 0]
        if self.config.target == "v":
            signal_B, noise_B = alpha_B.to(z_BCFN.real), sigma_B.to(z_BCFN.real)
            x0_BCFN = _each(signal_B) * z_BCFN - _each(noise_B) * x0_BCFN
        x0_BCFN = x0_BCFN * mixture_BCFN.abs().amax(dim=(1, 2), keepdim=True).sign()
        instrumental_BCFN = self.compression.expand(x0_BCFN)
        return Denoised(x0_BCFN, instrumental_BCFN, mixture_BCFN - instrumental_BCFN)

    def _conditions(
        self, alpha_B: Tensor, sigma_B: Tensor, prior: Prior | None, z_BCFN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the conditioning, and the prior as it is shown."""
        half_log_snr_B = (alpha_B / sigma_B).log()
        if prior is None:
            is_given_B = half_log_snr_B.new_zeros(len(z_BCFN))
            return self.conditioning(half_log_snr_B, is_given_B), torch.zeros_like(z_BCFN)
        shown_BCFN = self.compression.compress(prior.instrumental_BCFN)
        shown_BCFN = torch.where(_each(prior.is_given_B.bool()), shown_BCFN, 0)
        return self.conditioning(half_log_snr_B, prior.is_given_B), shown_BCFN


class Ingredients(NamedTuple):
    """What a loss is made of, for examples at times of the caller's.

    Attributes:
        z_BCFN: the noisy instrumental.
        x0_BCFN: the true one, compressed and scaled.
        estimate: what the denoiser makes of it.
        vocals_BCFN: true spectrum of the vocals: mixture less instrumental.
        snr_B: alpha^2 / sigma^2, for weights.
    """

    z_BCFN: Tensor
    x0_BCFN: Tensor
    estimate: Denoised
    vocals_BCFN: Tensor
    snr_B: Tensor


def denoised_examples(
    denoiser: Denoiser,
    mixture_BCFN: Tensor,
    instrumental_BCFN: Tensor,
    time_B: Tensor,
    noise_BCFN: Tensor,
    prior: Prior | None = None,
) -> Ingredients:
    """Add noise to instrumentals and have it taken away again.

    Args:
        denoiser: the network.
        mixture_BCFN: spectra of mixtures, at the level of the training.
        instrumental_BCFN: spectra of the same without vocals.
        time_B: above 0 up to 1; see `Schedule.times`.
        noise_BCFN: complex, of deviation 1 in real and imaginary parts.
        prior: see `Denoiser.forward`.
    """
    alpha_B, sigma_B = denoiser.schedule.coefficients(time_B)
    x0_BCFN = denoiser.compression.compress(instrumental_BCFN)
    z_BCFN = _each(alpha_B.float()) * x0_BCFN + _each(sigma_B.float()) * noise_BCFN
    estimate = denoiser(z_BCFN, mixture_BCFN, alpha_B, sigma_B, prior)
    return Ingredients(
        z_BCFN=z_BCFN,
        x0_BCFN=x0_BCFN,
        estimate=estimate,
        vocals_BCFN=mixture_BCFN - instrumental_BCFN,
        snr_B=(alpha_B / sigma_B).square(),
    )


def from_scnet(network: SCNet, config: DiffusionConfig | None = None) -> Denoiser:
    """Begin with what an SCNet has learned: the same vocals to the bit, whatever the noise.

    Args:
        network: a masked SCNet; it stays as it is.
        config: all but the blocks, which are the SCNet's.

    Returns:
        a denoiser with the backbone `bands`. What is new in it adds nothing yet.

    Raises:
        ConfigError: the SCNet has no masks, or the configuration asks for something else.
    """
    config = replace(config or DiffusionConfig(), blocks=network.config)
    if not network.masked:
        raise ConfigError("expected a masked SCNet to start from, found a plain one")
    if config.backbone != "bands" or config.head != "mask":
        raise ConfigError(
            "expected the backbone bands with the head mask to start from an SCNet, found "
            f"{config.backbone} with {config.head}"
        )
    denoiser = Denoiser(config)
    backbone = denoiser.backbone
    assert isinstance(backbone, Bands)
    known = network.state_dict()
    place = network.config.sources.index(VOCALS) * 2 * NUM_CHANNELS
    for name in ("mask_layer.2.weight", "mask_layer.2.bias"):
        known[name] = known[name][place : place + 2 * NUM_CHANNELS]
    names = {
        name: name if name.startswith(("mask_layer.", "pos_embed_f")) else f"body.{name}"
        for name in known
    }
    fresh = backbone.state_dict()
    backbone.load_state_dict({**fresh, **{names[name]: known[name] for name in known}})
    return denoiser


def _each(values_B: Tensor) -> Tensor:
    """Shape values of examples for spectra_BCFN."""
    return values_B[:, None, None, None]
