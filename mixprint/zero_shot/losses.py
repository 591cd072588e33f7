"""Distances of an output to the truth that the training makes smaller, of levels and of audio.

Shape suffixes: B example, S stem, C channel (of levels: mid, side), K band, N frame, T sample,
J stem or mix.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.dsp.decibels import NEPER_PER_DB
from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.zero_shot.model import LEVEL_FLOOR

_FLOOR_DB = 10 * math.log10(LEVEL_FLOOR)


def level_distance(output_BSCKN: Tensor, truth_BSCKN: Tensor, mix_weight: float) -> Tensor:
    """Compare levels of the stems and of their sum, in nepers as the distance of spectra is.

    Args:
        output_BSCKN: in dB; a band below the floor is as silent as one at the floor.
        truth_BSCKN: in dB.
        mix_weight: of the sum's distance beside the mean of the stems'.

    Returns:
        distance_B.
    """
    output_BSCKN = output_BSCKN.clamp_min(_FLOOR_DB)
    stems_B = (output_BSCKN - truth_BSCKN).abs().mean((1, 2, 3, 4))
    mixes_BCKN = (_sum_of_powers_db(levels) for levels in (output_BSCKN, truth_BSCKN))
    mix_B = torch.sub(*mixes_BCKN).abs().mean((1, 2, 3))
    return NEPER_PER_DB * (stems_B + mix_weight * mix_B)


def audio_distance(
    output_SCT: Tensor, truth_SCT: Tensor, resolutions: Sequence[int], mix_weight: float
) -> Tensor:
    """Compare the spectra of stems and mix.

    Args:
        output_SCT: stems.
        truth_SCT: stems.
        resolutions: windows in samples.
        mix_weight: of the mix's distance beside the mean of the stems'.

    Returns:
        the distance.
    """
    output_JCT, truth_JCT = (
        torch.cat([x, x.sum(dim=0, keepdim=True)]) for x in (output_SCT, truth_SCT)
    )
    distance_J = multi_resolution_stft(output_JCT, truth_JCT, resolutions, FEW_FRAMES_PER_WINDOW)
    return distance_J[:-1].mean() + mix_weight * distance_J[-1]


def _sum_of_powers_db(level_BSCKN: Tensor) -> Tensor:
    """Return the level of the mix of stems that have nothing to do with each other."""
    return torch.logsumexp(level_BSCKN * (2 * NEPER_PER_DB), dim=1) / (2 * NEPER_PER_DB)
