"""Chains of effects applied to the stems of segments.

At each place of the chains, all stems that have the same effect there pass through it together.

Shape suffixes: B segment, S stem, C channel, T sample, N stem of a segment, L place in a chain,
P parameter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.chains.drawing import NONE, Chains
from mixprint.chains.effect import SILENCE, rms
from mixprint.chains.registry import EFFECTS
from mixprint.dsp.decibels import amplitude
from mixprint.stems import NUM_CHANNELS

# An effect that leaves next to nothing of a sound is raised by no more, so that noise stays quiet.
MAX_RAISE_DB = 24.0
# So many signals pass through an effect together on a CPU: more would not stay in its cache.
_CPU_ROWS = 4


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
    signals = _Signals(stems_BSCT.flatten(0, 1))
    effect_NL = chains.effect_BSL.flatten(0, 1).cpu()
    position_NLP = chains.position_BSLP.flatten(0, 1)
    level_db_NL = chains.level_db_BSL.flatten(0, 1)
    at_once = _CPU_ROWS if stems_BSCT.device.type == "cpu" else max(len(effect_NL), 1)
    for place in range(effect_NL.shape[1]):
        for number in effect_NL[:, place].unique().tolist():
            if number == NONE:
                continue
            effect = EFFECTS[chains.effects[number]]
            for row_N in (effect_NL[:, place] == number).nonzero()[:, 0].split(at_once):
                rows = row_N.tolist()
                values = effect.values(position_NLP[rows, place])
                result_NCT = effect.apply(signals.take(rows), values, sample_rate_hz)
                signals.put(rows, result_NCT, level_db_NL[rows, place], effect.sets_level)
    return signals.take(range(len(effect_NL))).view_as(stems_BSCT)


class _Signals:
    """Signals with a factor each, which is applied when they are taken, and their levels."""

    def __init__(self, audio_NCT: Tensor) -> None:
        self._audio = list(audio_NCT)
        self._factor_N = audio_NCT.new_ones(len(audio_NCT))
        self._rms_N = rms(audio_NCT)

    def take(self, rows: Sequence[int]) -> Tensor:
        """Return a copy of signals."""
        result_NCT = self._audio[0].new_empty(len(rows), *self._audio[0].shape)
        for n, row in enumerate(rows):
            torch.mul(self._audio[row], self._factor_N[row], out=result_NCT[n])
        return result_NCT

    def put(self, rows: list[int], audio_NCT: Tensor, level_db_N: Tensor, keep: bool) -> None:
        """Replace signals; their levels change as given, or (keep) to that of the audio."""
        rms_N = rms(audio_NCT)
        factor_N = self._rms_N[rows] / rms_N.clamp_min(SILENCE)
        factor_N = factor_N.clamp_max(amplitude(MAX_RAISE_DB)) * amplitude(level_db_N)
        factor_N = torch.ones_like(factor_N) if keep else factor_N
        self._factor_N[rows] = factor_N
        self._rms_N[rows] = rms_N * factor_N
        for row, audio_CT in zip(rows, audio_NCT, strict=True):
            self._audio[row] = audio_CT
