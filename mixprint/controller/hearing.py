"""Predictions of a controller where not all is there as audio.

Of a saved style only the embedding is known, and of a finished mix no dry tracks are.

Shape suffixes: N track, S stem, C channel, T sample, D number of a descriptor, E embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixprint.controller.checkpoint import Controller, predicted
from mixprint.controller.descriptors import NUM_DESCRIPTORS, describe_audio
from mixprint.controller.inputs import (
    STEM_KINDS,
    SongInputs,
    batched,
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
    track_ND = describe_tracks(tracks_NCT, trim_db, sample_rate_hz)
    none_0D = torch.zeros(0, NUM_DESCRIPTORS)
    song = SongInputs(
        track_ND,
        role_numbers([guess_role(name) for name in names], controller.network.config.roles),
        none_0D,
        torch.zeros(0, dtype=torch.long),
        embedding_E.cpu(),
    )
    return _predicted(controller, song, names, trim_db, sample_rate_hz)


@torch.no_grad()
def describe_mix(
    controller: Controller, stems_SCT: Tensor, sample_rate_hz: int, encoder: Encoder | None = None
) -> Prediction:
    """Say which settings make typical dry stems sound like those of a finished mix.

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
        device = controller.network.prior.mean_RK.device
        embedding_E = embed_stems(encoder, stems_SCT.float().to(device), sample_rate_hz)
    heard_SD = describe_audio(stems_SCT.float(), sample_rate_hz)
    return _typical(controller, heard_SD, torch.tensor(STEM_KINDS), embedding_E)


@torch.no_grad()
def describe_embedding(
    controller: Controller, embedding_E: Tensor, encoder_fingerprint: str
) -> Prediction:
    """Say the same of a mix of which the embedding alone is known; see `describe_mix`.

    Raises:
        CheckpointError: see `describe_mix`.
    """
    controller.check_encoder(encoder_fingerprint)
    none_0 = torch.zeros(0, dtype=torch.long)
    return _typical(controller, torch.zeros(0, NUM_DESCRIPTORS), none_0, embedding_E.cpu())


def _typical(
    controller: Controller, reference_RD: Tensor, kind_R: Tensor, embedding_E: Tensor | None
) -> Prediction:
    """Predict the settings of typical tracks in the roles of the stems."""
    role_N = role_numbers(STEMS, controller.network.config.roles)
    if not role_N.all():
        raise CheckpointError(
            f"controller: expected one that knows the roles {', '.join(STEMS)}, found the roles "
            f"{', '.join(controller.network.config.roles) or 'none'}"
        )
    track_ND = controller.network.track_scale.mean_D.cpu().expand(len(STEMS), -1)
    song = SongInputs(track_ND, role_N, reference_RD, kind_R, embedding_E)
    return _predicted(controller, song, STEMS, [0.0] * len(STEMS), SAMPLE_RATE_HZ)


def _predicted(
    controller: Controller,
    song: SongInputs,
    names: Sequence[str],
    trim_db: Sequence[float],
    sample_rate_hz: int,
) -> Prediction:
    network = controller.network
    inputs = batched([song], network.config.embedding_dim).to(network.prior.mean_RK.device)
    return predicted(network(inputs), names, trim_db, sample_rate_hz)
