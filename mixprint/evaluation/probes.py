"""Linear probes: what can be read out of an embedding, and what should not be there.

A probe is a ridge regression in closed form. It is fitted on some groups of mixes and tested on
others, so that it cannot answer by what it has seen: console settings and styles are predicted
for songs that the probe has not met; songs are predicted for mixes in styles that it has not met.
How strongly a probe is regularised is chosen in the same way, inside the mixes it is fitted on.

Shape suffixes: N mix, F fitted mix, H held-out mix, E embedding, V predicted value, L strength.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixprint.evaluation.measures import numbered
from mixprint.evaluation.retrieval import (
    Estimate,
    FloatArray,
    IntArray,
    bootstrap_mean,
    bootstrap_r2,
    interval,
)

NUM_FOLDS = 5
# To choose the strength, two parts must be left of those that a probe is fitted on.
MIN_GROUPS = 3
# Strengths of the ridge, in units of the embeddings' mean variance about their centre.
STRENGTHS = 10.0 ** np.arange(-4.0, 3.5, 0.5)
# Embeddings that vary less than this, of their power, are all one but for rounding.
_LEAST_VARIANCE = 1e-9


@dataclass(frozen=True, eq=False)
class SettingsProbe:
    """Quality of predicted console settings, for songs that the probe has not met.

    R2 is 1 less the squared error over that of the mean of the fitted mixes: 1 is perfect, 0 is
    what knowing nothing gives, and less than 0 is worse than that.

    Attributes:
        mean_r2: over the settings.
        by_family: over the settings of a family, for example all gains.
        by_setting: of each setting.
    """

    mean_r2: Estimate
    by_family: dict[str, Estimate]
    by_setting: dict[str, Estimate]


@dataclass(frozen=True)
class ClassProbe:
    """Accuracy of a predicted class, for groups that the probe has not met.

    Attributes:
        accuracy: part of the mixes that are predicted right.
        chance: what guessing gives.
        num_mixes: how many could be tested: their class occurs in the part that is fitted.
    """

    accuracy: Estimate
    chance: float
    num_mixes: int

    def to_values(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def settings_probe(
    embedding_NE: FloatArray,
    settings_NV: FloatArray,
    names: Sequence[str],
    families: Sequence[str],
    songs: Sequence[str],
    *,
    num_bootstrap: int = 1000,
    seed: int = 1,
) -> SettingsProbe:
    """Predict the settings of the console, cross-validated by song.

    Args:
        embedding_NE: one row per mix.
        settings_NV: the true settings.
        names: of the settings.
        families: the family of each setting.
        songs: the song of each mix; no song is in both parts.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Raises:
        ValueError: there are fewer than three songs, or lengths differ.
    """
    song_N = numbered(songs)
    predicted_NV, mean_NV, _ = predict_held_out(embedding_NE, settings_NV, song_N)
    error_NV = (settings_NV - predicted_NV) ** 2
    spread_NV = (settings_NV - mean_NV) ** 2
    r2_V, r2_RV = bootstrap_r2(error_NV, spread_NV, song_N, num_bootstrap, seed)

    def mean_of(chosen_V: FloatArray) -> Estimate:
        return interval(float(r2_V[chosen_V].mean()), r2_RV[:, chosen_V].mean(axis=1))

    family_V = np.array(families)
    return SettingsProbe(
        mean_r2=mean_of(np.ones_like(r2_V, dtype=np.bool_)),
        by_family={f: mean_of(family_V == f) for f in dict.fromkeys(families)},
        by_setting={name: interval(float(r2_V[i]), r2_RV[:, i]) for i, name in enumerate(names)},
    )


def class_probe(
    embedding_NE: FloatArray,
    classes: Sequence[str],
    groups: Sequence[str],
    songs: Sequence[str],
    *,
    num_bootstrap: int = 1000,
    seed: int = 1,
) -> ClassProbe | None:
    """Predict a class for groups of mixes that the probe has not met, by ridge on indicators.

    For the song, group by style: it must be known again in a style that the probe has not met.
    For the style, group by song.

    Args:
        embedding_NE: one row per mix.
        classes: what is predicted for each mix.
        groups: no group is in both parts.
        songs: the song of each mix, the unit of the intervals.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Returns:
        the accuracy; None if there are fewer than three groups, or no class occurs in several.
    """
    class_N, group_N = numbered(classes), numbered(groups)
    if len(set(groups)) < MIN_GROUPS:
        return None
    indicator_NV = (class_N[:, np.newaxis] == np.arange(class_N.max() + 1)).astype(np.float64)
    predicted_NV, share_NV, _ = predict_held_out(embedding_NE, indicator_NV, group_N, shared=True)
    # The mean of a class's indicator over the fitted mixes tells whether it occurs among them.
    is_known_NV = share_NV > 0
    tested_N = is_known_NV[np.arange(len(class_N)), class_N]
    if not tested_N.any():
        return None
    guess_N = np.where(is_known_NV, predicted_NV, -np.inf).argmax(axis=1)
    is_right_N = (guess_N == class_N).astype(np.float64)
    return ClassProbe(
        accuracy=bootstrap_mean(
            is_right_N[tested_N], numbered(songs)[tested_N], num_bootstrap, seed
        ),
        chance=float((1 / is_known_NV.sum(axis=1))[tested_N].mean()),
        num_mixes=int(tested_N.sum()),
    )


def predict_held_out(
    embedding_NE: FloatArray, target_NV: FloatArray, group_N: IntArray, *, shared: bool = False
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predict every mix by a ridge regression that was fitted without the mix's group.

    Groups are dealt to at most five parts. For each part, the strength of the ridge is the one
    that predicts best when the others are again held out in turn.

    Args:
        embedding_NE: one row per mix.
        target_NV: what is predicted.
        group_N: number of the group of each mix, from 0 without gaps.
        shared: one strength for all values instead of one each.

    Returns:
        predicted_NV; mean_NV, the mean of the fitted mixes, which is what can be predicted
        without an embedding; and strength_NV, the strength that was chosen.

    Raises:
        ValueError: there are fewer than three groups, or lengths differ.
    """
    num_groups = int(group_N.max(initial=-1)) + 1
    if num_groups < MIN_GROUPS or not len(embedding_NE) == len(target_NV) == len(group_N):
        raise ValueError(
            f"expected at least {MIN_GROUPS} groups and rows of one number, got {num_groups} "
            f"groups, {len(embedding_NE)} embeddings, {len(target_NV)} targets"
        )
    # A ridge needs nothing but the mixes' scalar products: (N, N) instead of (E, E).
    gram_NN = embedding_NE @ embedding_NE.T
    predicted_NV, mean_NV = np.empty_like(target_NV), np.empty_like(target_NV)
    strength_NV = np.empty_like(target_NV)
    for held_out_N in parts(group_N):
        fitted = np.flatnonzero(~held_out_N)
        inner_gram_FF, inner_target_FV = gram_NN[np.ix_(fitted, fitted)], target_NV[fitted]
        error_LV = np.zeros((len(STRENGTHS), target_NV.shape[1]))
        for inner_F in parts(group_N[fitted]):
            guess_LHV, _ = _ridge(inner_gram_FF, inner_target_FV, inner_F)
            error_LV += ((guess_LHV - inner_target_FV[inner_F]) ** 2).sum(axis=1)
        if shared:
            error_LV = np.broadcast_to(error_LV.sum(axis=1, keepdims=True), error_LV.shape)
        best_V = error_LV.argmin(axis=0)
        guess_LHV, mean_V = _ridge(gram_NN, target_NV, held_out_N)
        predicted_NV[held_out_N] = np.take_along_axis(
            guess_LHV, best_V[np.newaxis, np.newaxis], axis=0
        )[0]
        mean_NV[held_out_N], strength_NV[held_out_N] = mean_V, STRENGTHS[best_V]
    return predicted_NV, mean_NV, strength_NV


def parts(group_N: IntArray) -> list[np.ndarray]:
    """Deal groups to at most five parts of a cross-validation; a part is a mask of the mixes."""
    number_N = np.unique(group_N, return_inverse=True)[1]
    num_parts = min(NUM_FOLDS, int(number_N.max()) + 1)
    return [number_N % num_parts == part for part in range(num_parts)]


def _ridge(
    gram_NN: FloatArray, target_NV: FloatArray, held_out_N: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Fit on the mixes that are not held out, and predict the others with every strength.

    The intercept is not penalised: embeddings and targets are centred by the fitted mixes.

    Returns:
        predicted_LHV, and the mean of the fitted targets.

    Source: Saunders, Gammerman and Vovk 1998, "Ridge regression learning algorithm in dual
    variables".
    """
    fitted_N = ~held_out_N
    gram_FF = gram_NN[np.ix_(fitted_N, fitted_N)]
    least_power = _LEAST_VARIANCE * float(np.diag(gram_FF).mean()) or 1.0
    cross_HF = gram_NN[np.ix_(held_out_N, fitted_N)]
    column_F, total = gram_FF.mean(axis=0), gram_FF.mean()
    gram_FF = gram_FF - column_F - column_F[:, np.newaxis] + total
    cross_HF = cross_HF - cross_HF.mean(axis=1, keepdims=True) - column_F + total
    power_F, axes_FF = np.linalg.eigh(gram_FF)
    power_F = power_F.clip(0)
    mean_V = target_NV[fitted_N].mean(axis=0)
    coordinate_FV = axes_FF.T @ (target_NV[fitted_N] - mean_V)
    strength_L = STRENGTHS * max(float(power_F.mean()), least_power)
    damped_LFV = coordinate_FV / (power_F[:, np.newaxis] + strength_L[:, np.newaxis, np.newaxis])
    return mean_V + (cross_HF @ axes_FF) @ damped_LFV, mean_V
