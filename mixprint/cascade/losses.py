"""Losses of a cascade: those that know the right mix, and the published ones.

A *mashup* has an answer: the drums of the input with all else of the target. The losses `creative`
ask how far a mix is from it. The losses `seed` are those of the published system, Jingle_D, with
its weights: they ask how near a mix is to both songs, and prefer the half of each to the answer (a
test shows it). They are here for comparison.

All take one row for each pair, and give one value for each.

Shape suffixes: B pair, D dimension of a latent, N frame, T sample, P part of a mix.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.cascade.model import Blend
from mixprint.dsp.rhythm import correlation, rhythm_likeness
from mixprint.dsp.spectral_distance import mono_distance
from mixprint.schema import Range

RESOLUTIONS = (512, 1024, 2048)
# Variance of a mask over time that is enough.
_LEAST_VARIANCE = 0.05
NUM_PARTS = 250  # of the published envelopes
_OUTLIER_HZ = (2_000.0, 4_000.0, 6_000.0)
_TINY = 1e-8

_Weight = Annotated[float, Range(0.0, 1e4)]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the losses `creative`.

    Attributes:
        latents: mean difference of latents from those of the answer.
        spectra: distance of spectra of audio from the answer.
        stages: of the mixes behind the mask and all stages but the last, latents likewise.
        rhythm: likeness to the rhythm of the target's drums, less that to the input's.
        balance: squared distance from one half of the mean of the masks of a batch.
        decisiveness: least and most weight of masks that are undecided, or alike at all times; it
            rises over the training.
        adversarial: of the discriminator's judgement.
        features: distance of what the discriminator hears.
    """

    latents: _Weight
    spectra: _Weight
    stages: _Weight
    rhythm: _Weight
    balance: _Weight
    decisiveness: tuple[_Weight, _Weight]
    adversarial: _Weight
    features: _Weight


@dataclass(frozen=True, kw_only=True)
class SeedWeights:
    """Weights of the losses `seed`, with what was published.

    Attributes:
        input: RMS of the difference from the input's latents.
        target: RMS of the difference from the target's.
        mask: first and last weight of the regulariser of both masks.
        balance: squared distance from one half of the mean of each mask.
        adversarial: of the discriminator's judgement.
        correlation: squared correlations of envelopes with both songs.
        outliers: of levels at 2, 4 and 6 kHz above the mean of the spectrum.
    """

    input: _Weight = 0.3
    target: _Weight = 0.3
    mask: tuple[_Weight, _Weight] = (0.1, 0.5)
    balance: _Weight = 15.0
    adversarial: _Weight = 0.15
    correlation: _Weight = 0.5
    outliers: _Weight = 0.01


class Answer(NamedTuple):
    """Right mix of two songs.

    Attributes:
        z_BDN: its latents.
        audio_BT: its audio.
        input_onset_BN: onset envelope of the input's drums.
        target_onset_BN: of the target's.
    """

    z_BDN: Tensor
    audio_BT: Tensor
    input_onset_BN: Tensor
    target_onset_BN: Tensor


def latent_distance(z_BDN: Tensor, answer_BDN: Tensor) -> Tensor:
    """Measure the mean absolute difference of latents: distance_B."""
    return (z_BDN - answer_BDN).abs().mean(dim=(1, 2))


def spectral_distance(audio_BT: Tensor, answer_BT: Tensor) -> Tensor:
    """Measure the distance of spectra at three resolutions: distance_B."""
    return mono_distance(audio_BT, answer_BT, RESOLUTIONS)


def rhythm_loss(onset_BN: Tensor, answer: Answer) -> Tensor:
    """Return the likeness to the target's drums less that to the input's: loss_B, -2 to 2."""
    others_B = rhythm_likeness(onset_BN, answer.target_onset_BN)
    return others_B - rhythm_likeness(onset_BN, answer.input_onset_BN)


def balance_loss(mask_BDN: Tensor) -> Tensor:
    """Return how far the mean of the masks of a batch is from one half, squared.

    Which part of a pair is the input's differs from pair to pair, so only the mean of many has an
    aim.
    """
    return (mask_BDN.mean() - 0.5).square()


def undecided_loss(mask_BDN: Tensor) -> Tensor:
    """Return how undecided masks are, and how little they change over time: loss_B, 0 and more.

    1 where all are halves. A mask of its own for the target is none: it is one less the input's.
    """
    undecided_B = (4 * mask_BDN * (1 - mask_BDN)).mean(dim=(1, 2))
    return undecided_B + _still(mask_BDN)


def seed_losses(
    blend: Blend,
    audio_BT: Tensor,
    songs_BDN: tuple[Tensor, Tensor],
    songs_BT: tuple[Tensor, Tensor],
    sample_rate_hz: int,
) -> Mapping[str, Tensor]:
    """Measure the published losses but for that of the discriminator: name -> loss_B.

    Args:
        blend: of a cascade.
        audio_BT: its audio.
        songs_BDN: latents of input and target.
        songs_BT: their audio.
        sample_rate_hz: of the audio.
    """
    mask_BDN, (input_BDN, target_BDN) = blend.mask_BDN, songs_BDN
    other_BDN = 1 - mask_BDN
    overlap_B = (mask_BDN * other_BDN).mean(dim=(1, 2))
    coverage_B = (mask_BDN + other_BDN - 1).square().mean(dim=(1, 2))
    halves = (each_BDN.mean(dim=(1, 2)) - 0.5 for each_BDN in (mask_BDN, other_BDN))
    envelope_BP = _envelope(audio_BT)
    correlations = (correlation(envelope_BP, _envelope(song_BT)).square() for song_BT in songs_BT)
    return {
        "input": _rms(blend.mix - input_BDN),
        "target": _rms(blend.mix - target_BDN),
        "mask": 10 * overlap_B + 0.5 * coverage_B + 5 * _still(mask_BDN),
        "balance": torch.stack([half_B.square() for half_B in halves]).sum(dim=0),
        "correlation": torch.stack(list(correlations)).sum(dim=0),
        "outliers": _outliers(audio_BT, sample_rate_hz),
    }


def _still(mask_BDN: Tensor) -> Tensor:
    """Return how much the variance over time lacks of what is enough: loss_B."""
    variance_BD = mask_BDN.var(dim=-1, correction=0)
    return functional.relu(_LEAST_VARIANCE - variance_BD).mean(dim=1)


def _rms(z_BDN: Tensor) -> Tensor:
    return (z_BDN.square().mean(dim=(1, 2)) + _TINY).sqrt()


def _envelope(audio_BT: Tensor) -> Tensor:
    """Return the maxima of equal parts: envelope_BP."""
    length = math.ceil(audio_BT.shape[-1] / NUM_PARTS)
    return functional.max_pool1d(audio_BT.abs(), length, ceil_mode=True)


def _outliers(audio_BT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return by how much, in nepers, three frequencies lie above the mean of the spectrum."""
    level_BF = (torch.fft.rfft(audio_BT).abs() + _TINY).log()
    rows = [round(hz * audio_BT.shape[-1] / sample_rate_hz) for hz in _OUTLIER_HZ]
    above_BF = level_BF[:, rows] - level_BF.mean(dim=1, keepdim=True)
    return functional.relu(above_BF).mean(dim=1)
