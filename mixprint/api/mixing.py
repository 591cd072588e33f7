"""Settings that a controller finds for tracks.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mixprint.api import models
from mixprint.api.models import fitting
from mixprint.api.references import Excerpt, Reference, busiest, embedding_of
from mixprint.audio.levels import SILENT_PEAK_DB
from mixprint.audio.resampling import resample_tracks
from mixprint.audio.streamed_levels import stream_levels
from mixprint.console.levels import working_trim_db
from mixprint.console.rendering import render
from mixprint.console.schema import MASTER, TRACK_FIELDS_BY_NAME
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.controller.checkpoint import Controller
from mixprint.controller.hearing import predict_for_embedding
from mixprint.controller.roles import guess_role, stem_of
from mixprint.errors import ConfigError
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.transfer.methods.result import check_duration
from mixprint.transfer.methods.track_fit import fit_tracks
from mixprint.transfer.style import Style

# A track that needs so much more in the excerpt than in the whole song hardly sounds there.
_FAINT_DB = 20.0
_OUTPUT = f"{MASTER}.output_db"


def predict(
    controller: Controller,
    heard: Excerpt,
    names: Sequence[str],
    reference: Reference | None = None,
    *,
    encoder: str | Path = "",
    device: torch.device,
) -> tuple[Settings, Spread]:
    """Predict settings for tracks by a controller.

    Args:
        controller: the controller.
        heard: of the dry tracks. One that is silent in this part, or nearly so, gets the trim of
            the whole song: that of its noise would be far too much where it sounds.
        names: of the tracks; they tell their roles, see `mixprint.controller.roles`.
        reference: the mix that is wanted; a good mix when None.
        encoder: see `mixprint.api.models.load_encoder`.
        device: where the encoder computes.

    Raises:
        CheckpointError: encoder or style do not fit the controller.
        DataError: tracks or names cannot be used.
    """
    if reference is None:
        reference = Reference("")
    if reference.style is not None:
        prediction = predict_for_embedding(
            controller, heard.audio_NCT, names, SAMPLE_RATE_HZ, *embedding_of(reference.style)
        )
    else:
        known = None
        if reference.stems_SCT is not None and controller.encoder_fingerprint:
            loaded = models.load_encoder(encoder, device)
            known = fitting(controller, loaded, is_named=bool(str(encoder)))
        prediction = controller.predict(
            heard.audio_NCT,
            names,
            SAMPLE_RATE_HZ,
            reference_CT=reference.mix_CT,
            stems_SCT=None if reference.stems_SCT is None else reference.stems_SCT.to(device),
            encoder=known,
        )
    settings = prediction.settings
    trims = {}
    for name, trim_db in zip(names, heard.trim_db, strict=True):
        in_excerpt_db = settings[f"{name}.trim_db"]
        if in_excerpt_db == 0.0 or in_excerpt_db > trim_db + _FAINT_DB:
            trims[f"{name}.trim_db"] = TRACK_FIELDS_BY_NAME["trim_db"].held(trim_db)
    settings = settings.edit(trims)
    return settings, Spread(settings, prediction.spread)


@dataclass(frozen=True, eq=False)
class Found:
    """Settings that were found for tracks.

    Attributes:
        settings: the settings.
        spread: how sure they are.
        words: what a fit came to, in sentences.
    """

    settings: Settings
    spread: Spread
    words: tuple[str, ...]


def find_settings(
    controller: Controller,
    heard: Excerpt,
    names: Sequence[str],
    reference: Reference | None = None,
    *,
    num_steps: int = 0,
    kept: Settings,
    locked: Sequence[str] = (),
    encoder: str | Path = "",
    device: torch.device,
) -> Found:
    """Find settings with which tracks sound like a reference, at its true peak.

    Args:
        controller: predicts them.
        heard: of the dry tracks.
        names: of the tracks.
        reference: see `predict`.
        num_steps: most steps of a fit that goes on from there; 0: none.
        kept: settings from which what is locked is taken, in a fit.
        locked: what the fit leaves as it is there; the result has its own settings there.
        encoder: see `predict`.
        device: where networks and fit compute.

    Raises:
        AudioError, TrainingError: see `fit`.
        CheckpointError, DataError: see `predict`.
    """
    settings, spread = predict(controller, heard, names, reference, encoder=encoder, device=device)
    found = Found(settings, spread, ())
    if reference is None:
        return found
    if num_steps:
        begun = settings.lock(kept, locked)
        found = fit(begun, spread, heard, reference, num_steps, locked=locked, device=device)
    return replace(found, settings=_at_peak_of(reference, found.settings, heard))


def _at_peak_of(reference: Reference, settings: Settings, heard: Excerpt) -> Settings:
    """Bring a mix to the true peak of its reference, by the output of the master.

    A controller hears how loud stems are beside each other better than how loud the whole is made.
    A saved style has no peak; and what is part of a mix, a voice alone, is not as loud as one.
    """
    stems = {stem_of(guess_role(name)) for name in settings.tracks}
    if reference.mix_CT is None or len(stems) < 2:
        return settings
    made_CT = render(heard.audio_NCT, settings, SAMPLE_RATE_HZ).sum(dim=0)
    made_dbtp, wanted_dbtp = (
        stream_levels([audio_CT.float().cpu()]).true_peak_dbtp
        for audio_CT in (made_CT, reference.mix_CT)
    )
    if min(made_dbtp, wanted_dbtp) <= SILENT_PEAK_DB:
        return settings
    output_db = settings[_OUTPUT] + wanted_dbtp - made_dbtp
    return settings.edit({_OUTPUT: settings.master.field("output_db").held(output_db)})


def check_steps(num_steps: int, *, has_reference: bool) -> None:
    """Refuse steps where there is nothing to fit to.

    Raises:
        ConfigError: there is no reference, or the number is below 0.
    """
    if num_steps < 0:
        raise ConfigError(f"num_steps: expected 0 or more, found {num_steps}")
    if num_steps and not has_reference:
        raise ConfigError(
            f"num_steps: expected a reference or a style to fit {num_steps} steps to, found none"
        )


def fit(
    predicted: Settings,
    spread: Spread,
    heard: Excerpt,
    reference: Reference,
    num_steps: int,
    *,
    locked: Sequence[str] = (),
    device: torch.device,
) -> Found:
    """Fit a console from predicted settings on; see `mixprint.transfer.methods.track_fit`.

    Args:
        predicted: settings of the tracks, with what is locked as it shall stay.
        spread: of the prediction.
        heard: of the dry tracks.
        reference: song or saved style.
        num_steps: most steps.
        locked: what stays as it is.
        device: where it computes.

    Raises:
        AudioError: tracks or reference are shorter than 3 s.
        TrainingError: a distance is not finite.
    """
    style = reference.style
    if style is None:
        assert reference.stems_SCT is not None
        assert reference.mix_CT is not None
        check_duration(reference.title, reference.stems_SCT, SAMPLE_RATE_HZ)
        style = Style.of(
            reference.title,
            [reference.stems_SCT.cpu()],
            SAMPLE_RATE_HZ,
            mixtures_CT=[reference.mix_CT.cpu()],
        )
    found = fit_tracks(
        heard.audio_NCT.to(device),
        [guess_role(name) for name in predicted.tracks],
        predicted,
        spread.values,
        sample_rate_hz=SAMPLE_RATE_HZ,
        style=style,
        standardisation=models.standardisation_of(None),
        num_steps=num_steps,
        locked=locked,
    )
    words = (
        f"fit: {found.before:.2f} standard deviations from the features that are aimed at, "
        f"{found.after:.2f} after {found.num_steps} steps",
        *found.notes,
    )
    return Found(found.settings, Spread(found.settings, found.spread), words)


def excerpt_of(tracks_NCT: Tensor, sample_rate_hz: int) -> Excerpt:
    """Cut what a controller hears of tracks; see `mixprint.api.references.busiest_of_files`.

    Args:
        tracks_NCT: whole songs, of any rate.
        sample_rate_hz: of the tracks.
    """
    trim_db = working_trim_db(tracks_NCT, sample_rate_hz)
    return Excerpt(busiest(resample_tracks(tracks_NCT, sample_rate_hz, SAMPLE_RATE_HZ)), trim_db)
