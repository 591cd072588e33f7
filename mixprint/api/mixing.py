"""Settings that a controller finds for tracks.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixprint.api import models
from mixprint.api.models import fitting
from mixprint.api.references import Reference, embedding_of
from mixprint.audio.resampling import resample
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.controller.checkpoint import Controller
from mixprint.controller.hearing import predict_for_embedding
from mixprint.stems import SAMPLE_RATE_HZ


def predict(
    controller: Controller,
    tracks_NCT: Tensor,
    names: Sequence[str],
    sample_rate_hz: int,
    reference: Reference | None = None,
    *,
    encoder: str | Path = "",
    device: torch.device,
) -> tuple[Settings, Spread]:
    """Let a controller set the console for tracks.

    Args:
        controller: the controller.
        tracks_NCT: dry tracks, one or two channels; of long ones the seconds are heard in which all
            sound the most.
        names: of the tracks; they tell their roles, see `mixprint.controller.roles`.
        sample_rate_hz: of the tracks.
        reference: the mix that is wanted; a good mix when None.
        encoder: see `mixprint.api.models.load_encoder`.
        device: where the encoder computes.

    Raises:
        CheckpointError: encoder or style do not fit the controller.
        DataError: tracks or names cannot be used.
    """
    heard_NCT = tracks_NCT
    if sample_rate_hz != SAMPLE_RATE_HZ:
        heard_NCT = torch.stack(
            [resample(track_CT, sample_rate_hz, SAMPLE_RATE_HZ) for track_CT in tracks_NCT]
        )
    if reference is None:
        reference = Reference("")
    if reference.style is not None:
        prediction = predict_for_embedding(
            controller, heard_NCT, names, SAMPLE_RATE_HZ, *embedding_of(reference.style)
        )
    else:
        known = None
        if reference.stems_SCT is not None and controller.encoder_fingerprint:
            loaded = models.load_encoder(encoder, device)
            known = fitting(controller, loaded, is_named=bool(str(encoder)))
        prediction = controller.predict(
            heard_NCT,
            names,
            SAMPLE_RATE_HZ,
            reference_CT=reference.mix_CT,
            stems_SCT=reference.stems_SCT,
            encoder=known,
        )
    return prediction.settings, Spread(prediction.settings, prediction.spread)
