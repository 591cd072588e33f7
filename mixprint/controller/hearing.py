"""Predictions of a controller where not all is there as audio.

Of a saved style only the embedding is known, and of a finished mix no dry tracks are.

Shape suffixes: N track, S stem, C channel, T sample, D number of a descriptor, E embedding.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mixprint.controller.checkpoint import Controller
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.inputs import (
    STEM_KINDS,
    SongInputs,
    describe_tracks,
    embed_stems,
    role_numbers,
    trims_db,
)
from mixprint.controller.prediction import Prediction
from mixprint.controller.roles import guess_role
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import CheckpointError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

_NO_TRIMS = (0.0,) * len(STEMS)


@torch.no_grad()
def predict_for_embedding(
    controller: Controller,
    tracks_NCT: Tensor,
    names: Sequence[str],
    sample_rate_hz: int,
    embedding_E: Tensor,
    encoder_fingerprint: str,
) -> Prediction:
    """Set the console for tracks, so that they sound like a style of which the embedding is known.

    Args:
        controller: the controller.
        tracks_NCT: dry tracks, one or two channels, at most a few ten seconds.
        names: of the tracks.
        sample_rate_hz: of the tracks.
        embedding_E: of the style, of length one.
        encoder_fingerprint: of the encoder that gave it.

    Raises:
        CheckpointError: the controller knows another encoder.
    """
    controller.check_encoder(encoder_fingerprint)
    trim_db = trims_db(tracks_NCT, sample_rate_hz)
    song = SongInputs(
        describe_tracks(tracks_NCT, trim_db, sample_rate_hz),
        role_numbers([guess_role(name) for name in names], controller.network.config.roles),
        embedding_E=embedding_E.cpu(),
    )
    return controller.predict_song(song, names, trim_db, sample_rate_hz)


@torch.no_grad()
def describe_mix(
    controller: Controller, stems_SCT: Tensor, sample_rate_hz: int, encoder: Encoder | None = None
) -> Prediction:
    """Describe a finished mix by settings that make typical dry stems sound like its own.

    Of a mix no dry tracks are known, and what was done to them cannot be told from what they were
    like. So the controller is given tracks that are typical, the mean of all that it was trained
    on, in the roles of the four stems: the answer is what it would do to *such* tracks.

    Args:
        controller: the controller.
        stems_SCT: of the mix, separated or true, in the order of `STEMS`.
        sample_rate_hz: of the stems.
        encoder: the one that the controller was trained with; None: the mix is not embedded.

    Returns:
        settings of tracks that are called as the stems.

    Raises:
        CheckpointError: the controller does not know the stems as roles, or another encoder.
    """
    embedding_E = None
    if encoder is not None:
        controller.check_encoder(encoder.fingerprint)
        embedding_E = embed_stems(encoder, stems_SCT.float().to(controller.device), sample_rate_hz)
    song = replace(
        _typical_tracks(controller),
        reference_RD=describe_audio(stems_SCT.float(), sample_rate_hz),
        kind_R=torch.tensor(STEM_KINDS),
        embedding_E=embedding_E,
    )
    return controller.predict_song(song, STEMS, _NO_TRIMS, SAMPLE_RATE_HZ)


@torch.no_grad()
def describe_embedding(
    controller: Controller, embedding_E: Tensor, encoder_fingerprint: str
) -> Prediction:
    """Describe a mix of which the embedding alone is known; see `describe_mix`.

    Raises:
        CheckpointError: see `describe_mix`.
    """
    controller.check_encoder(encoder_fingerprint)
    song = replace(_typical_tracks(controller), embedding_E=embedding_E.cpu())
    return controller.predict_song(song, STEMS, _NO_TRIMS, SAMPLE_RATE_HZ)


def _typical_tracks(controller: Controller) -> SongInputs:
    """Return typical tracks in the roles of the stems, without a reference."""
    role_N = role_numbers(STEMS, controller.network.config.roles)
    if not role_N.all():
        raise CheckpointError(
            f"controller: expected one that knows the roles {', '.join(STEMS)}, found the roles "
            f"{', '.join(controller.network.config.roles) or 'none'}"
        )
    track_ND = controller.network.track_scale.mean_D.cpu().expand(len(STEMS), -1)
    return SongInputs(track_ND, role_N)
