"""Fit of a mix of tracks to a reference, from predicted settings on.

It looks for what `mixprint.transfer.methods.console_fit` looks for, of each track and the master,
by the same steps, and aims at what the dry tracks, at the working level, are expected to become in
the reference's mix. Tracks are compared as the stems that they are part of, and the prior is the
prediction with its spread. What is left of that spread after the fit is that of the result.

Shape suffixes: N track, S stem, C channel, T sample, P parameter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.console.mixing import Console, Values
from mixprint.console.settings import Settings, is_meant
from mixprint.controller.roles import stem_of
from mixprint.dsp.decibels import amplitude
from mixprint.features import Standardisation
from mixprint.stems import STEMS
from mixprint.transfer.methods.console_search import Desk, Knob, Run, Tracks, knobs_around
from mixprint.transfer.methods.distances import Distances
from mixprint.transfer.methods.result import check_duration
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.style import Style, sounding

Spreads = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class TrackFit:
    """Settings that a fit has found.

    Attributes:
        settings: the settings.
        spread: strip -> setting -> standard deviation that is left.
        before: distance of the predicted mix to the features that are aimed at, in standard
            deviations.
        after: of what was found.
        num_steps: steps that were made.
        notes: sentences for the person who reads the result.
    """

    settings: Settings
    spread: Spreads
    before: float
    after: float
    num_steps: int
    notes: tuple[str, ...]


@torch.no_grad()
def fit_tracks(
    tracks_NCT: Tensor,
    roles: Sequence[str],
    predicted: Settings,
    spread: Spreads,
    *,
    sample_rate_hz: int,
    style: Style,
    standardisation: Standardisation,
    num_steps: int,
    locked: Sequence[str] = (),
) -> TrackFit:
    """Fit a console from predicted settings on.

    Args:
        tracks_NCT: an excerpt of the dry tracks, two channels, on the device that computes.
        roles: of the tracks, see `mixprint.controller.roles`.
        predicted: settings of these tracks, in their order.
        spread: how sure they are; the usual spread of what it does not name.
        sample_rate_hz: of the tracks.
        style: what is aimed at.
        standardisation: of the features.
        num_steps: most steps.
        locked: what stays as it is in `predicted`, see `Settings.lock`.

    Raises:
        AudioError: the tracks are shorter than 3 s.
        TrainingError: a distance is not finite before any step was better.
    """
    check_duration("tracks", tracks_NCT, sample_rate_hz)
    stem_N = [STEMS.index(stem_of(role)) for role in roles]
    tracks = Tracks([tracks_NCT], sample_rate_hz, stem_N)
    values = Values.of(predicted, sample_rate_hz).to(tracks_NCT.device)
    trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None].to(tracks_NCT)
    # The input, which decides what is aimed at, are the dry tracks at the working level.
    dry_SCT = tracks.stems(trim_N11 * tracks_NCT)
    sounding_stems = [
        s for s, sounds in zip(STEMS, sounding(dry_SCT).tolist(), strict=True) if sounds
    ]
    compared = [stem for stem in sounding_stems if stem not in style.silent]
    settings = Hyperparameters(optimize_target="features", num_steps=num_steps)
    distances = Distances(
        [dry_SCT],
        style,
        sample_rate_hz,
        settings,
        standardisation=standardisation,
        encoder=None,
        left_alone=tuple(stem for stem in STEMS if stem not in compared),
    )
    left_alone = [
        name
        for name, place in zip(predicted.tracks, stem_N, strict=True)
        if STEMS[place] not in compared
    ]
    knobs = [
        knob
        for knob in knobs_around(predicted, spread, left_alone)
        if not _is_locked(f"{knob.strip}.{knob.field.name}", locked)
    ]
    made_SCT = tracks.stems(Console(tracks_NCT)(values).to(tracks_NCT))
    begun = distances.of(distances.measure(1, [made_SCT]))
    run, found, position_P = Run(distances, settings, [], first=1), predicted, None
    if compared and knobs and num_steps > 0:
        desk = Desk(distances, tracks, predicted, knobs)
        position_P = run.search(desk)
        found = predicted if position_P is None else desk.settings(position_P)
    notes = [
        f"{stem}: silent in the reference, set as predicted"
        for stem in sounding_stems
        if stem not in compared
    ]
    return TrackFit(
        settings=found,
        spread=_left_of(spread, locked, () if position_P is None else knobs, run.narrowed_P),
        before=begun,
        after=begun if position_P is None else distances.of(run.iterations[-1]),
        num_steps=run.step - run.first,
        notes=tuple(notes if run.trouble is None else [*notes, run.trouble]),
    )


def _is_locked(path: str, locked: Sequence[str]) -> bool:
    return any(is_meant(pattern, path) for pattern in locked)


def _left_of(
    spread: Spreads, locked: Sequence[str], knobs: Sequence[Knob], narrowed_P: Tensor
) -> dict[str, dict[str, float]]:
    """Return what is left of a spread; what is locked is no prediction, and has none."""
    left = {
        strip: {
            name: value
            for name, value in values.items()
            if not _is_locked(f"{strip}.{name}", locked)
        }
        for strip, values in spread.items()
    }
    for knob, part in zip(knobs, narrowed_P[: len(knobs)].tolist(), strict=True):
        left.setdefault(knob.strip, {})[knob.field.name] = knob.spread * part
    return left
