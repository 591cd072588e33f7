"""The network of a diffusion separator: from a noisy instrumental and the mixture to the clean one.

Shape suffixes: B example of a batch, C audio channel, T sample, F frequency row, N frame.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.backbones import (
    BACKBONES,
    SPECTRUM_CHANNELS,
    Bands,
    Conditioning,
    Presence,
    Told,
    levels,
)
from mixprint.separation.diffusion.schedule import Schedule
from mixprint.separation.diffusion.settings import DiffusionConfig
from mixprint.separation.diffusion.spectrum import KNEE, Compression
from mixprint.separation.scnet.model import SCNet, analysed, complex_channels, synthesised
from mixprint.stems import NUM_CHANNELS

VOCALS = "vocals"
LEAST_SIGNAL = 1e-3  # of alpha, so that a signal is found in what is noise alone
# Natural logarithms of the variance that a mask's instrumental can have, compressed and scaled; the
# backbone gives them in tens, and so learns them as fast as masks.
LOG_VARIANCES = (-20.0, 4.0)
LOG_VARIANCE_UNIT = 10.0
# Vocals are kept as they are where they are at least so likely. Below it they fade by this power of
# the ratio.
LIKELY, FADING = 2 / 3, 3
# That of SCNet's error on generated songs: RMSE 0.18 of complex numbers, of 0.7 RMS.
USUAL_VARIANCE = 0.016


class Denoised(NamedTuple):
    """A denoiser's estimate from a noisy instrumental.

    Attributes:
        x0_BCFN: the instrumental, compressed and scaled.
        instrumental_BCFN: its spectrum.
        vocals_BCFN: the mixture's spectrum less the instrumental's.
        masked: what it is a correction of; None of a free head.
    """

    x0_BCFN: Tensor
    instrumental_BCFN: Tensor
    vocals_BCFN: Tensor
    masked: "Masked | None" = None


class Masked(NamedTuple):
    """An instrumental behind the backbone's own mask, as if there were vocals in all frames.

    Attributes:
        x0_BCFN: the instrumental, compressed and scaled.
        log_variance_BCFN: logarithm of the variance of its error, of real and imaginary part each.
        presence_BN: logits of whether there are vocals in a frame.
    """

    x0_BCFN: Tensor
    log_variance_BCFN: Tensor
    presence_BN: Tensor


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
        if config.head == "mask":
            self.presence = Presence(self.backbone.num_features, config.presence)
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
        told = self.backbone(z_BCFN, shown_BCFN, prior_BCFN, embedding_BE)
        if self.config.head == "mask":
            mask_BCFN, masked = self._mask(told, z_BCFN, mixture_BCFN, alpha_B, sigma_B)
            vocals_BCFN = mask_BCFN * mixture_BCFN
            instrumental_BCFN = mixture_BCFN - vocals_BCFN
            x0_BCFN = self.compression.compress(instrumental_BCFN)
            return Denoised(x0_BCFN, instrumental_BCFN, vocals_BCFN, masked)
        x0_BCFN = complex_channels(told.out_BDFN, NUM_CHANNELS)[:, 0]
        if self.config.target == "v":
            signal_B, noise_B = alpha_B.to(z_BCFN.real), sigma_B.to(z_BCFN.real)
            x0_BCFN = _each(signal_B) * z_BCFN - _each(noise_B) * x0_BCFN
        x0_BCFN = x0_BCFN * mixture_BCFN.abs().amax(dim=(1, 2), keepdim=True).sign()
        instrumental_BCFN = self.compression.expand(x0_BCFN)
        return Denoised(x0_BCFN, instrumental_BCFN, mixture_BCFN - instrumental_BCFN)

    def _mask(
        self,
        told: Told,
        z_BCFN: Tensor,
        mixture_BCFN: Tensor,
        alpha_B: Tensor,
        sigma_B: Tensor,
    ) -> tuple[Tensor, Masked]:
        """Return the mask of the vocals: the backbone's, faded, and corrected by the noisy signal.

        In frames where vocals are unlikely the backbone's mask fades to a part k of itself, see
        `LIKELY`. If they are there, the error of the instrumental behind it has the variance v,
        which the backbone estimates for each place; as of vocals that are there with the
        probability k, that of the faded one is k v + k (1 - k) d^2 for vocals that change it by d.
        With a Gaussian error of this variance V the best estimate lies
        V / (V + (sigma / alpha)^2) of the way from there to the noisy one. Both likelihood of
        vocals and v are learned by their likelihood alone, and not by what they are good for here.
        """
        out_BDFN = told.out_BDFN.float()
        mask_BDFN, log_variance_BCFN = out_BDFN.split([SPECTRUM_CHANNELS, NUM_CHANNELS], 1)
        log_variance_BCFN = (LOG_VARIANCE_UNIT * log_variance_BCFN).clamp(*LOG_VARIANCES)
        mask_BDFN = mask_BDFN.tanh()
        mask_BCFN = complex_channels(mask_BDFN, NUM_CHANNELS)[:, 0]
        vocals_BCFN = mask_BCFN.detach() * mixture_BCFN
        level_BLN = levels(vocals_BCFN, mixture_BCFN, self.config)
        presence_BN = self.presence(told.features_BDPN, level_BLN)
        own_BCFN = self.compression.compress((1 - mask_BCFN) * mixture_BCFN)
        masked = Masked(own_BCFN, log_variance_BCFN, presence_BN)

        kept_BN = (presence_BN.detach().sigmoid() / LIKELY).clamp_max(1).pow(FADING)
        kept_B11N = kept_BN[:, None, None]
        mask_BCFN = complex_channels(mask_BDFN * kept_B11N, NUM_CHANNELS)[:, 0]
        x0_BCFN = self.compression.compress((1 - mask_BCFN) * mixture_BCFN)
        without_BCFN = self.compression.compress(mixture_BCFN)
        change_BCFN = torch.view_as_real(own_BCFN - without_BCFN).square().mean(dim=-1)
        variance_BCFN = log_variance_BCFN.exp() + (1 - kept_B11N) * change_BCFN
        variance_BCFN = kept_B11N * variance_BCFN.detach()
        signal_B, noise_B = (_each(each_B.to(mask_BDFN)) for each_B in (alpha_B, sigma_B))
        variance_BCFN = signal_B.square() * variance_BCFN
        share_BCFN = variance_BCFN / (variance_BCFN + noise_B.square())
        moved_BCFN = share_BCFN * (z_BCFN / signal_B.clamp_min(LEAST_SIGNAL) - x0_BCFN)
        # Not the mixture's part that was compressed above: where nothing moves, nothing is added.
        before_BCFN = self.compression.expand(x0_BCFN)
        added_BCFN = self.compression.expand(x0_BCFN + moved_BCFN) - before_BCFN
        power_BCFN = mixture_BCFN.abs().square().clamp_min(KNEE**2)
        mask_BCFN = _bounded(mask_BCFN - added_BCFN * mixture_BCFN.conj() / power_BCFN)
        return mask_BCFN, masked

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
    """Noisy examples and their estimates, of which a loss is made.

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
    """Begin with what an SCNet has learned: where all is noise, the same vocals to the bit.

    Args:
        network: a masked SCNet; it stays as it is.
        config: all but the blocks, which are the SCNet's.

    Returns:
        a denoiser with the backbone `bands`. What is new in it adds nothing yet: the error of
        SCNet's instrumental is taken to have `USUAL_VARIANCE` everywhere, and all frames to have
        vocals.

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
    place = network.config.sources.index(VOCALS) * SPECTRUM_CHANNELS
    for name in ("mask_layer.2.weight", "mask_layer.2.bias"):
        rows = known[name][place : place + SPECTRUM_CHANNELS]
        variance = math.log(USUAL_VARIANCE) / LOG_VARIANCE_UNIT
        start = variance if name.endswith("bias") else 0.0
        known[name] = torch.cat([rows, torch.full_like(rows[:NUM_CHANNELS], start)])
    names = {
        name: name if name.startswith(("mask_layer.", "pos_embed_f")) else f"body.{name}"
        for name in known
    }
    fresh = backbone.state_dict()
    backbone.load_state_dict({**fresh, **{names[name]: known[name] for name in known}})
    return denoiser


def is_new(name: str) -> bool:
    """Tell by the name of a denoiser's parameter whether an SCNet has none of this kind."""
    known = ("backbone.body.", "backbone.mask_layer.", "backbone.pos_embed_f")
    return not name.startswith(known) or "extra_convs" in name


def _bounded(mask_BCFN: Tensor) -> Tensor:
    """Limit real and imaginary parts to -1 to 1."""
    return torch.view_as_complex(torch.view_as_real(mask_BCFN).clamp(-1, 1))


def _each(values_B: Tensor) -> Tensor:
    """Shape values of examples for spectra_BCFN."""
    return values_B[:, None, None, None]
