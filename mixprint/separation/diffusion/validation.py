"""Validation of a diffusion separator in training: SDRs, what leaks, losses by level of noise.

Shape suffixes: B example of a batch, C channel, T sample.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from mixprint.separation.diffusion.data import drawn_noise
from mixprint.separation.diffusion.losses import (
    TIMES,
    denoising_losses,
    means_by_time,
    sums_by_time,
)
from mixprint.separation.diffusion.model import VOCALS, Denoiser, denoised_examples
from mixprint.separation.diffusion.separator import INSTRUMENTAL, DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.diffusion.training_settings import DiffusionTrainingConfig
from mixprint.separation.material.songs import Song, read_mixture, read_stems
from mixprint.separation.metrics import LIMIT_DB, Scores, middle, utterance_sdr
from mixprint.separation.separator import Separator, song_level
from mixprint.separation.training.validation import SongValidation
from mixprint.stems import STEMS

ONE_STEP, FEW_STEPS = "one_step_sdr", "few_steps_sdr"
NO_VOCAL_LEAK, LOSS = "no_vocal_leak_db", "loss"
# What validations are compared by.
SCORED = (f"{ONE_STEP}.{VOCALS}", f"{FEW_STEPS}.{VOCALS}")
_VOCALS = STEMS.index(VOCALS)


class Validation(SongValidation):
    """Songs that a diffusion separator in training is validated on; the noise is always the same.

    The figures of a song:

    one_step_sdr.<stem>         of vocals and instrumental, in one step from noise alone
    few_steps_sdr.<stem>        in `valid_sampling_steps`
    no_vocal_leak_db.vocals     level of the vocals that are found, in one step, in a song without
                                any, relative to the song
    loss.t<percent>             loss in the middle of a range of time
    """

    def measure(
        self, separator: DiffusionSeparator, config: DiffusionTrainingConfig
    ) -> dict[str, float]:
        """Measure all songs.

        Args:
            separator: as it would be exported.
            config: of the training.

        Returns:
            `<songs>.<measure>.<stem>` -> figure; a stem without a figure is left out.
        """
        one, few = (Separator(each) for each in validated(separator, config))

        def measure(song: Song) -> Scores:
            excerpt = middle(song, config.valid_s or None)
            stems_SCT, mixture_CT = read_stems(song, *excerpt), read_mixture(song, *excerpt)
            truth = {VOCALS: stems_SCT[_VOCALS]}
            truth[INSTRUMENTAL] = stems_SCT.sum(dim=0) - truth[VOCALS]
            excerpt = middle(song, config.segment_s)
            return {
                ONE_STEP: _sdrs(one, mixture_CT, truth),
                FEW_STEPS: _sdrs(few, mixture_CT, truth),
                NO_VOCAL_LEAK: _leak(one, truth[INSTRUMENTAL]),
                LOSS: _losses(separator.denoiser, read_stems(song, *excerpt), config),
            }

        return self.measured(measure, _over_songs, _shown)


def validated(
    separator: DiffusionSeparator, config: DiffusionTrainingConfig
) -> tuple[DiffusionSeparator, DiffusionSeparator]:
    """Return the same network with the sampling of one step, and with that of few.

    Raises:
        ConfigError: it cannot be sampled so.
    """
    few = replace(separator.sampling, steps=config.valid_sampling_steps, samples=1)
    one = SamplingSettings(steps=1, prior=few.prior, seed=few.seed)
    return separator.configured(sampling=one), separator.configured(sampling=few)


def _sdrs(separator: Separator, mixture_CT: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    stems_SCT = separator.separate(mixture_CT)
    found = {
        stem: utterance_sdr(estimate_CT, truth[stem]).item()
        for stem, estimate_CT in zip(separator.stems, stems_SCT, strict=True)
    }
    return {stem: value for stem, value in found.items() if not math.isnan(value)}


def _leak(separator: Separator, instrumental_CT: Tensor) -> dict[str, float]:
    """Return the level of vocals where there are none; of silence there is none."""
    vocals_CT = separator.separate(instrumental_CT)[separator.stems.index(VOCALS)]
    power, of_song = (x_CT.double().square().sum().item() for x_CT in (vocals_CT, instrumental_CT))
    if not of_song:
        return {}
    return {VOCALS: 10 * math.log10(max(power / of_song, 10 ** (-LIMIT_DB / 10)))}


def _losses(
    denoiser: Denoiser, stems_SCT: Tensor, config: DiffusionTrainingConfig
) -> dict[str, float]:
    """Return the loss of an excerpt in the middle of each range of time."""
    gain = 10 ** (denoiser.config.level_dbfs / 20) / song_level([stems_SCT.sum(dim=0)])
    device = denoiser.stft_window.device
    spectra_SCFN = denoiser.analyse(gain * stems_SCT.to(device))
    mixture_CFN = spectra_SCFN.sum(dim=0)
    times = [end - TIMES[0] / 2 for end in TIMES]
    shape = (len(TIMES), *mixture_CFN.shape)
    time_B = denoiser.schedule.times(torch.tensor(times, dtype=torch.float64, device=device))
    parts = denoised_examples(
        denoiser,
        mixture_CFN.expand(shape),
        (mixture_CFN - spectra_SCFN[_VOCALS]).expand(shape),
        time_B,
        drawn_noise(shape, device, config.seed, "validation"),
    )
    losses = denoising_losses(denoiser, parts, config.weights)
    return dict(means_by_time(sums_by_time(time_B, losses.total_B)))


def _over_songs(per_song: Sequence[Scores]) -> Scores:
    """Average each figure over the songs that have it."""
    measures = dict.fromkeys(measure for scores in per_song for measure in scores)
    summary = {}
    for measure in measures:
        stems = dict.fromkeys(stem for scores in per_song for stem in scores[measure])
        summary[measure] = {
            stem: fmean(scores[measure][stem] for scores in per_song if stem in scores[measure])
            for stem in stems
        }
    return summary


def _shown(scores: Scores) -> str:
    values = scores.get(ONE_STEP, {})
    return f"SDR {values[VOCALS]:.2f} dB" if VOCALS in values else ""
