"""Masking: how much of a stem is covered by the other stems.

Shape suffixes: B batch, S stem, N frame, M mel band.
"""

import torch
from torch import Tensor

from mixprint.features.schema import SILENCE_POWER

# A stem that lies 6 dB under the loudest other one in a band counts there as masked to 0.73, one
# that lies 20 dB under it to 0.97.
_MARGIN_SCALE_DB = 6.0

# Loudness grows with about this power of the power (Stevens): what is audible counts, and the
# loudest moments do not decide alone. A power law keeps the weights independent of the gain.
_ACTIVITY_EXPONENT = 0.3


def masking(mel_power_BSNM: Tensor) -> Tensor:
    """Measure per stem how far the loudest other stem dominates where the stem is active.

    For each frame and mel band, the dominance margin is the level of the loudest other stem less
    the stem's own, in dB. Its logistic is averaged, weighted by the stem's activity.

    Args:
        mel_power_BSNM: power per mel band of at least two stems.

    Returns:
        masking_BS from 0 to 1: 0.5 for two equal stems; 0 for a stem alone, and for a silent one,
        which has nothing to cover.
    """
    level_db_BSNM = 10 * (mel_power_BSNM + SILENCE_POWER).log10()
    margin_db_BSNM = torch.stack(
        [
            torch.cat([level_db_BSNM[:, :stem], level_db_BSNM[:, stem + 1 :]], dim=1).amax(dim=1)
            - level_db_BSNM[:, stem]
            for stem in range(level_db_BSNM.shape[1])
        ],
        dim=1,
    )
    masked_BSNM = torch.sigmoid(margin_db_BSNM / _MARGIN_SCALE_DB)
    # (1 + power / floor) ** exponent - 1: silence weighs exactly nothing, with a finite gradient.
    activity_BSNM = torch.expm1(_ACTIVITY_EXPONENT * torch.log1p(mel_power_BSNM / SILENCE_POWER))
    # Keeps 0/0 away and takes nothing from a stem that sounds.
    total_BS = activity_BSNM.mean(dim=(-2, -1)) + 1e-3
    return (activity_BSNM * masked_BSNM).mean(dim=(-2, -1)) / total_BS
