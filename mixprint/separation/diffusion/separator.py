"""A trained denoiser, as a separator runs it: it draws instrumentals, and subtracts them.

Vocals are the mixture less the instrumental, sample by sample, so the two always null. Windows are
put on the frames of the whole song before they are drawn: where in a window a frame lies, and which
other windows are run with it, changes none of its noise.

Shape suffixes: B window of a batch, S stem, C channel, T sample, F frequency row, N frame.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.fingerprint import fingerprint
from mixprint.separation.diffusion.model import VOCALS, Denoiser, Prior
from mixprint.separation.diffusion.noise import gaussian_noise
from mixprint.separation.diffusion.sampler import sample
from mixprint.separation.diffusion.schedule import Noise
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.diffusion.spectrum import DEVIATION
from mixprint.separation.network import Windows
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

INSTRUMENTAL = "instrumental"
NumStems = Literal[2, 4]
# Without the vocals; the last is what the others leave of the instrumental.
INSTRUMENTAL_STEMS = tuple(stem for stem in STEMS if stem != VOCALS)


class Drawn(NamedTuple):
    """Instrumentals that fit a mixture.

    Attributes:
        mixture_BCFN: spectra of the windows, at the level of the training.
        mean_BCFN: mean of the instrumentals' spectra.
        variance_BCFN: of the spectra of their audio, unbiased; None of a single sample.
        first_frame_B: number of each window's first frame in the song.
        num_frames: that lie within a window; those behind it fill up the STFT.
    """

    mixture_BCFN: Tensor
    mean_BCFN: Tensor
    variance_BCFN: Tensor | None
    first_frame_B: Tensor
    num_frames: int


class _Window(NamedTuple):
    """Windows on the frames of the song.

    Attributes:
        mixture_BCFN: spectra at the level of the training.
        prior_BSCFN: the prior's stems, where it is run.
        first_frame_B: on the device.
        length: samples of a window and the room that its place on the frames takes.
    """

    mixture_BCFN: Tensor
    prior_BSCFN: Tensor | None
    first_frame_B: Tensor
    length: int


class DiffusionSeparator:
    """A denoiser as a `mixprint.separation.network.Network`, whose documentation holds here too.

    Attributes:
        denoiser: the network in evaluation mode.
        prior: another separator, for what the sampling and the number of stems need of one.
        sampling: how instrumentals are drawn.
        on_drawn: is shown what is drawn of each batch of windows; some may come twice.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    normalised = True

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        window_s: float,
        sampling: SamplingSettings,
        prior: TrainedSCNet | None = None,
        num_stems: NumStems = 2,
        weights: Mapping[str, str] | None = None,
    ) -> None:
        """Take a denoiser on the device it is on.

        Args:
            denoiser: the network.
            window_s: see `Network`.
            sampling: see the attribute.
            prior: see the attribute; on the same device.
            num_stems: 2 for vocals and instrumental; 4 divides the instrumental among bass, drums
                and the others in the ratio in which the prior has them in each place.
            weights: the part of the fingerprint that tells its weights from others.

        Raises:
            ConfigError: the settings do not fit the denoiser, or need a prior and there is none.
        """
        self.denoiser = denoiser.eval()
        self.window_s = window_s
        self.sampling = sampling
        self.prior = prior
        self.stems = STEMS if num_stems == 4 else (VOCALS, INSTRUMENTAL)
        self._num_stems: NumStems = num_stems
        self._weights = dict(weights or {})
        self.on_drawn: Callable[[Drawn], None] | None = None
        self._grid = denoiser.schedule.grid(sampling.steps, sampling.strength, sampling.spacing)
        self._gain = 10 ** (denoiser.config.level_dbfs / 20)
        self._check_prior()

    def configured(
        self, *, sampling: SamplingSettings | None = None, num_stems: NumStems | None = None
    ) -> "DiffusionSeparator":
        """Return the same network with other settings; see `__init__`.

        Raises:
            ConfigError: see `__init__`.
        """
        return DiffusionSeparator(
            self.denoiser,
            window_s=self.window_s,
            sampling=sampling or self.sampling,
            prior=self.prior,
            num_stems=num_stems or self._num_stems,
            weights=self._weights,
        )

    @property
    def num_stems(self) -> NumStems:
        """See `__init__`."""
        return self._num_stems

    @property
    def start_snr_db(self) -> float:
        """Level of what a sample begins with above the noise, compressed as both are."""
        return 20 * (math.log10(DEVIATION) + self._grid[0].half_log_snr / math.log(10))

    @property
    def device(self) -> torch.device:
        """See `Network`."""
        return self.denoiser.stft_window.device

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """See `Network`."""
        prior = self.prior.fingerprint if self.prior is not None and self._runs_prior else None
        config = {
            "architecture": self.denoiser.config.to_values(),
            "sampling": self.sampling.to_values(),
            "stems": list(self.stems),
            "prior": prior,
            "window_s": self.window_s,
            "sample_rate_hz": self.sample_rate_hz,
        }
        return {**self._weights, "config_sha256": fingerprint(config)}

    @torch.no_grad()
    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        """See `Network`; of several samples the mean."""
        window = self._window(audio_BCT, starts_B)
        drawn = self._draw(window)
        if self.on_drawn is not None:
            self.on_drawn(drawn)
        instrumental_BCT = self._audio(drawn.mean_BCFN, audio_BCT, starts_B)
        stems = {VOCALS: audio_BCT - instrumental_BCT, INSTRUMENTAL: instrumental_BCT}
        if self.num_stems == 4:
            assert window.prior_BSCFN is not None
            rest_BCT = instrumental_BCT
            *divided, last = INSTRUMENTAL_STEMS
            for stem, ratio_BCFN in self._ratios(window.prior_BSCFN, divided):
                stems[stem] = self._audio(drawn.mean_BCFN * ratio_BCFN, audio_BCT, starts_B)
                rest_BCT = rest_BCT - stems[stem]
            stems[last] = rest_BCT
        return torch.stack([stems[stem] for stem in self.stems], dim=1)

    @torch.no_grad()
    def draw(self, audio_BCT: Tensor, starts_B: Tensor) -> Drawn:
        """Draw instrumentals of windows; see `__call__`."""
        return self._draw(self._window(audio_BCT, starts_B))

    def compiled(self) -> Windows:
        """See `Network`."""
        raise ConfigError(
            "compile: expected a separator of kind scnet, found a diffusion separator"
        )

    def to(self, device: torch.device) -> None:
        """See `Network`."""
        self.denoiser.to(device)
        if self.prior is not None:
            self.prior.to(device)

    @property
    def _runs_prior(self) -> bool:
        return self.sampling.needs_prior or self.num_stems == 4

    def _check_prior(self) -> None:
        """See that a prior is there where one is needed, and that it has the denoiser's STFT.

        Raises:
            ConfigError: it is not so.
        """
        if self.prior is None:
            if self._runs_prior:
                raise ConfigError(
                    "expected a separator with a prior (for sampling.prior, sampling.start: prior "
                    "and four stems), found one without: it was trained with none, see "
                    "diffusion.prior"
                )
            return
        ours, theirs = (
            (config.nfft, config.hop_size, config.win_size, config.normalized)
            for config in (self.denoiser.config.blocks, self.prior.model.config)
        )
        if ours != theirs or not self.prior.model.masked or self.prior.normalised:
            raise ConfigError(
                "expected a masked SCNet for songs at their own level as the prior, with the STFT "
                f"(nfft, hop_size, win_size, normalized) {ours}, found {theirs}, "
                f"{self.prior.model.variant}, normalised: {self.prior.normalised}"
            )

    def _window(self, audio_BCT: Tensor, starts_B: Tensor) -> _Window:
        """Put windows on the frames of the song, and run the prior on them if needed."""
        hop, length = self.denoiser.config.blocks.hop_size, audio_BCT.shape[-1]
        # Room for the largest offset, so that all windows have as many frames.
        placed_BCT = audio_BCT.new_zeros(*audio_BCT.shape[:2], length + hop - 1)
        for window, offset in enumerate((starts_B % hop).tolist()):
            placed_BCT[window, :, offset : offset + length] = audio_BCT[window] * self._gain
        mixture_BCFN = self.denoiser.analyse(placed_BCT)
        prior_BSCFN = None
        if self.prior is not None and self._runs_prior:
            prior_BSCFN = self.prior.model.estimate(mixture_BCFN)
        first_frame_B = (starts_B // hop).to(self.device)
        return _Window(mixture_BCFN, prior_BSCFN, first_frame_B, placed_BCT.shape[-1])

    def _audio(self, spectrum_BCFN: Tensor, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        """Bring spectra back to where the audio lies, and to its level."""
        hop, length = self.denoiser.config.blocks.hop_size, audio_BCT.shape[-1]
        placed_BCT = self.denoiser.synthesise(spectrum_BCFN, length + hop - 1) / self._gain
        offsets = (starts_B % hop).tolist()
        return torch.stack(
            [x_CT[:, at : at + length] for x_CT, at in zip(placed_BCT, offsets, strict=True)]
        )

    def _draw(self, window: _Window) -> Drawn:
        prior_BCFN = None
        if window.prior_BSCFN is not None and self.prior is not None:
            vocals = self.prior.stems.index(VOCALS)
            prior_BCFN = window.mixture_BCFN - window.prior_BSCFN[:, vocals]
        mean_BCFN = torch.zeros_like(window.mixture_BCFN)
        squares_BCFN = torch.zeros_like(mean_BCFN.real)
        # One by one, so that memory does not grow with their number (Welford's algorithm).
        for number in range(self.sampling.samples):
            drawn_BCFN = self._one_sample(window, prior_BCFN, number)
            if self.sampling.samples > 1:
                # No audio has just this spectrum, and what differs in its audio is what counts.
                audio_BCT = self.denoiser.synthesise(drawn_BCFN, window.length)
                drawn_BCFN = self.denoiser.analyse(audio_BCT)
            before_BCFN = drawn_BCFN - mean_BCFN
            mean_BCFN = mean_BCFN + before_BCFN / (number + 1)
            squares_BCFN += (before_BCFN * (drawn_BCFN - mean_BCFN).conj()).real
        others = self.sampling.samples - 1
        return Drawn(
            mixture_BCFN=window.mixture_BCFN,
            mean_BCFN=mean_BCFN,
            variance_BCFN=squares_BCFN / others if others else None,
            first_frame_B=window.first_frame_B,
            num_frames=window.length // self.denoiser.config.blocks.hop_size,
        )

    def _one_sample(self, window: _Window, prior_BCFN: Tensor | None, number: int) -> Tensor:
        """Draw the spectrum of one instrumental."""
        mixture_BCFN, settings = window.mixture_BCFN, self.sampling
        shown = None
        if settings.prior and prior_BCFN is not None:
            shown = Prior(prior_BCFN, torch.ones(len(prior_BCFN), device=self.device))

        def noise(step: int) -> Tensor:
            channels, rows, frames = mixture_BCFN.shape[1:]
            return gaussian_noise(
                settings.seed, number, step, window.first_frame_B, (channels, rows, frames)
            )

        def denoise(z_BCFN: Tensor, level: Noise) -> Tensor:
            alpha_B, sigma_B = (
                torch.full((len(z_BCFN),), value, dtype=torch.float64, device=self.device)
                for value in level
            )
            return self.denoiser(z_BCFN, mixture_BCFN, alpha_B, sigma_B, shown).x0_BCFN

        compression, first = self.denoiser.compression, self._grid[0]
        start_BCFN = first.sigma * noise(0)
        if settings.start != "noise":
            source_BCFN = mixture_BCFN if settings.start == "mixture" else prior_BCFN
            assert source_BCFN is not None
            start_BCFN = start_BCFN + first.alpha * compression.compress(source_BCFN)
        x0_BCFN = sample(denoise, start_BCFN, self._grid, settings.sampler, settings.eta, noise)
        return compression.expand(x0_BCFN)

    def _ratios(self, prior_BSCFN: Tensor, stems: list[str]) -> list[tuple[str, Tensor]]:
        """Return each stem with its part of the power of all stems of the instrumental."""
        assert self.prior is not None
        power = {
            stem: prior_BSCFN[:, self.prior.stems.index(stem)].abs().square()
            for stem in INSTRUMENTAL_STEMS
        }
        total_BCFN = torch.stack(list(power.values())).sum(dim=0)
        even = 1 / len(INSTRUMENTAL_STEMS)  # where the prior has none of them
        return [
            (stem, torch.where(total_BCFN > 0, power[stem] / total_BCFN, even)) for stem in stems
        ]
