"""Chains of effects applied to the stems of segments.

At each place of the chains, all stems that have the same effect there pass through it together.

Shape suffixes: B segment, S stem, C channel, T sample, N stem of a segment, L place in a chain,
P parameter.
"""

import torch
from torch import Tensor

from mixprint.chains.drawing import NONE, Chains
from mixprint.chains.effect import Effect, rms
from mixprint.chains.registry import EFFECTS
from mixprint.stems import NUM_CHANNELS

# An effect that leaves next to nothing of a sound is raised by no more, so that noise stays quiet.
MAX_RAISE_DB = 24.0
# So many signals pass through an effect together: more of them would not stay in the cache.
_ROWS = 4
_SILENCE = 1e-10


def apply_chains(stems_BSCT: Tensor, chains: Chains, sample_rate_hz: int) -> Tensor:
    """Pass stems through their chains.

    After each effect a stem's level (RMS) is what it was before, but for the gain that was drawn,
    unless the effect sets the level itself. Samples may be beyond +-1.

    Args:
        stems_BSCT: stereo, of any length.
        chains: as many as there are segments, on the same device.
        sample_rate_hz: of the audio.

    Returns:
        stems_BSCT of the same shape; the argument stays as it is.

    Raises:
        ValueError: the stems are not stereo, or their number is not that of the chains.
    """
    if stems_BSCT.shape[:2] != chains.effect_BSL.shape[:2] or stems_BSCT.shape[2] != NUM_CHANNELS:
        raise ValueError(
            f"chains of (segments, stems) {tuple(chains.effect_BSL.shape[:2])} fit stereo stems "
            f"(segments, stems, {NUM_CHANNELS}, samples), got {tuple(stems_BSCT.shape)}"
        )
    audio_NCT = stems_BSCT.flatten(0, 1).clone()
    effect_NL = chains.effect_BSL.flatten(0, 1).cpu()
    position_NLP = chains.position_BSLP.flatten(0, 1)
    level_db_NL = chains.level_db_BSL.flatten(0, 1)
    for place in range(effect_NL.shape[1]):
        for number in effect_NL[:, place].unique().tolist():
            if number == NONE:
                continue
            effect = EFFECTS[chains.effects[number]]
            is_here_N = effect_NL[:, place] == number
            for row_N in is_here_N.nonzero()[:, 0].to(audio_NCT.device).split(_ROWS):
                audio_NCT[row_N] = _applied(
                    effect,
                    audio_NCT[row_N],
                    position_NLP[row_N, place],
                    level_db_NL[row_N, place],
                    sample_rate_hz,
                )
    return audio_NCT.view_as(stems_BSCT)


def _applied(
    effect: Effect,
    audio_NCT: Tensor,
    position_NP: Tensor,
    level_db_N: Tensor,
    sample_rate_hz: int,
) -> Tensor:
    """Pass signals through an effect, and set their level."""
    result_NCT = effect.apply(audio_NCT, effect.values(position_NP), sample_rate_hz)
    if effect.sets_level:
        return result_NCT
    factor_N = rms(audio_NCT) / rms(result_NCT).clamp_min(_SILENCE)
    factor_N = factor_N.clamp_max(10 ** (MAX_RAISE_DB / 20)) * torch.pow(10.0, level_db_N / 20)
    return result_NCT.mul_(factor_N[:, None, None])
