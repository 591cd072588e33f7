"""A trained controller on disk and in use.

Shape suffixes: N track, S stem, C channel, T sample, K field, G gate, E embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mixprint.checkpoints.form import CheckpointFiles, Form
from mixprint.console.excerpts import busiest_part
from mixprint.console.schema import MASTER as MASTER_NAME
from mixprint.console.settings import MAX_TRACKS
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.heads import StripPrediction
from mixprint.controller.inputs import (
    MID_SIDE_KINDS,
    STEM_KINDS,
    SongInputs,
    batched,
    describe_reference,
    describe_tracks,
    embed_stems,
    role_numbers,
    trims_db,
)
from mixprint.controller.model import ControllerNetwork, Outputs
from mixprint.controller.prediction import Prediction
from mixprint.controller.roles import guess_role
from mixprint.controller.settings import ControllerConfig
from mixprint.controller.targets import MASTER, TRACK, Layout, Targets
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import CheckpointError, DataError
from mixprint.schema import WithOthers
from mixprint.stems import NUM_CHANNELS, NUM_STEMS

FORM = Form("mixprint-controller")
# So much of a song is described, where all tracks sound the most.
EXCERPT_S = 10
# From this probability on a group of settings is in use.
GATE_THRESHOLD = 0.5


class Controller:
    """A trained network with what it needs to be used.

    Attributes:
        network: in evaluation mode, its weights frozen.
        encoder_fingerprint: of the encoder whose embeddings it reads; empty: of none.
        metadata: how it came to be: metrics, fingerprint of the training data.
        fingerprint: SHA-256 over weights and configuration.
    """

    def __init__(
        self,
        network: ControllerNetwork,
        *,
        encoder_fingerprint: str,
        metadata: Mapping[str, Any],
        fingerprint: str,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.encoder_fingerprint = encoder_fingerprint
        self.metadata = dict(metadata)
        self.fingerprint = fingerprint

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.prior.mean_RK.device

    def to(self, device: torch.device | str) -> Self:
        """Move the network."""
        self.network.to(device)
        return self

    def check_encoder(self, fingerprint: str) -> None:
        """Refuse embeddings of another encoder.

        Raises:
            CheckpointError: the encoder is not the one that it was trained with.
        """
        if fingerprint != self.encoder_fingerprint:
            raise CheckpointError(
                f"controller: expected embeddings of the encoder "
                f"{self.encoder_fingerprint or 'none'}, found those of {fingerprint}; train it "
                "with `python -m components.train --task controller`, or use the encoder that it "
                "knows"
            )

    @torch.no_grad()
    def predict(
        self,
        tracks_NCT: Tensor,
        names: Sequence[str],
        sample_rate_hz: int,
        *,
        reference_CT: Tensor | None = None,
        stems_SCT: Tensor | None = None,
        encoder: Encoder | None = None,
        roles: Sequence[str] | None = None,
    ) -> Prediction:
        """Set the console for tracks, so that they sound mixed like the reference.

        Without a reference it makes the mix that songs like this one had on the whole. Of long
        songs it hears the seconds in which all tracks sound the most.

        Args:
            tracks_NCT: dry tracks, one or two channels, full scale at +-1, of any level.
            names: of the tracks, all different.
            sample_rate_hz: of tracks, reference and stems.
            reference_CT: a mix, one or two channels.
            stems_SCT: the reference's stems in the order of `STEMS`, separated or true; they tell
                more than the mix.
            encoder: the one that it was trained with, to embed the stems; None: no embedding.
            roles: of the tracks, see `mixprint.controller.roles`; those that it does not know count
                as unknown. None: they are guessed from the names.

        Returns:
            settings with their spread; the same each time for the same input.

        Raises:
            DataError: shapes, names or values do not fit.
            CheckpointError: it knows another encoder.
        """
        _check_tracks(tracks_NCT, names, roles)
        trim_db = trims_db(tracks_NCT, sample_rate_hz)
        excerpt_NCT = busiest_part(tracks_NCT, sample_rate_hz, EXCERPT_S)
        if roles is None:
            roles = [guess_role(name) for name in names]
        role_N = role_numbers(roles, self.network.config.roles)
        song = SongInputs(describe_tracks(excerpt_NCT, trim_db, sample_rate_hz), role_N)
        if stems_SCT is not None:
            song = self._with_stems(song, stems_SCT, encoder, sample_rate_hz)
        elif reference_CT is not None:
            _check_audio("reference", reference_CT[None])
            (mix_CT,) = busiest_part(reference_CT[None], sample_rate_hz, EXCERPT_S)
            reference_2D = describe_reference(mix_CT, sample_rate_hz)
            song = replace(song, reference_RD=reference_2D, kind_R=torch.tensor(MID_SIDE_KINDS))
        return self.predict_song(song, names, trim_db, sample_rate_hz)

    @torch.no_grad()
    def predict_song(
        self,
        song: SongInputs,
        names: Sequence[str],
        trim_db: Sequence[float],
        sample_rate_hz: int,
    ) -> Prediction:
        """Set the console for a song that is described.

        Args:
            song: its description.
            names: of its tracks.
            trim_db: of its tracks.
            sample_rate_hz: of the audio.
        """
        inputs = batched([song], self.network.config.embedding_dim).to(self.device)
        return _predicted(self.network(inputs), names, trim_db, sample_rate_hz)

    def _with_stems(
        self, song: SongInputs, stems_SCT: Tensor, encoder: Encoder | None, sample_rate_hz: int
    ) -> SongInputs:
        """Describe the stems of the reference."""
        _check_audio("stems", stems_SCT)
        if stems_SCT.shape[:2] != (NUM_STEMS, NUM_CHANNELS):
            raise DataError(
                f"stems: expected {NUM_STEMS} of {NUM_CHANNELS} channels, found shape "
                f"{tuple(stems_SCT.shape)}"
            )
        stems_SCT = busiest_part(stems_SCT.float(), sample_rate_hz, EXCERPT_S)
        embedding_E = None
        if encoder is not None:
            self.check_encoder(encoder.fingerprint)
            embedding_E = embed_stems(encoder, stems_SCT, sample_rate_hz)
        return replace(
            song,
            reference_RD=describe_audio(stems_SCT, sample_rate_hz),
            kind_R=torch.tensor(STEM_KINDS),
            embedding_E=embedding_E,
        )


def _predicted(
    found: Outputs, names: Sequence[str], trim_db: Sequence[float], sample_rate_hz: int
) -> Prediction:
    """Turn what a network says of one song, without padding, into a prediction."""
    track, master = (StripPrediction(*(value.detach().cpu() for value in strip)) for strip in found)
    targets = thresholded(Outputs(track, master)).gated()
    spread, gates = {}, {}
    strips = [(TRACK, track, row, name) for row, name in enumerate(names)]
    for layout, strip, row, name in [*strips, (MASTER, master, 0, MASTER_NAME)]:
        position_K = (targets.track_NK if layout is TRACK else targets.master_K[None])[row]
        spread[name] = layout.spreads(position_K, strip.log_sigma_NK[row].exp())
        gates[name] = _probabilities(layout, strip.gate_logit_NG[row])
    settings = targets.settings(names, trim_db, sample_rate_hz)
    return Prediction(settings, spread, gates)


def thresholded(found: Outputs) -> Targets:
    """Return the predicted settings of one song with gates that are open or closed."""

    def is_open(gate_logit: Tensor) -> Tensor:
        return (torch.sigmoid(gate_logit) >= GATE_THRESHOLD).to(gate_logit)

    return Targets(
        found.track.position_NK,
        is_open(found.track.gate_logit_NG),
        found.master.position_NK[0],
        is_open(found.master.gate_logit_NG[0]),
    )


def _probabilities(layout: Layout, gate_logit_G: Tensor) -> dict[str, float]:
    return dict(zip(layout.gates, torch.sigmoid(gate_logit_G).tolist(), strict=True))


def _check_tracks(tracks_NCT: Tensor, names: Sequence[str], roles: Sequence[str] | None) -> None:
    _check_audio("tracks", tracks_NCT)
    if not 1 <= len(tracks_NCT) <= MAX_TRACKS:
        raise DataError(f"tracks: expected 1 to {MAX_TRACKS}, found {len(tracks_NCT)}")
    for what, given in (("names", names), ("roles", roles)):
        if given is not None and len(given) != len(tracks_NCT):
            raise DataError(f"{what}: expected {len(tracks_NCT)}, one a track, found {len(given)}")
    if len(set(names)) < len(names):
        raise DataError(f"names: expected different ones, found {', '.join(names)}")


def _check_audio(what: str, audio_NCT: Tensor) -> None:
    shape = tuple(audio_NCT.shape)
    if audio_NCT.ndim != 3 or shape[1] not in (1, NUM_CHANNELS) or shape[-1] == 0:
        raise DataError(f"{what}: expected audio of one or two channels, found shape {shape}")
    if not audio_NCT.isfinite().all():
        raise DataError(f"{what}: expected finite samples, found others")


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    """Description of a controller, as far as it is read."""

    architecture: ControllerConfig
    encoder: str
    metadata: Mapping[str, Any]


def save_controller(
    folder: Path,
    network: ControllerNetwork,
    encoder_fingerprint: str,
    metadata: Mapping[str, Any],
) -> None:
    """Write a controller, see `mixprint.checkpoints.form`.

    Args:
        folder: created if missing; files of an older one are replaced.
        network: what is saved.
        encoder_fingerprint: of the encoder whose embeddings it reads; empty: of none.
        metadata: JSON values that describe how it came to be.
    """
    FORM.write(
        CheckpointFiles.in_folder(folder),
        network.state_dict(),
        {
            "architecture": asdict(network.config),
            "encoder": encoder_fingerprint,
            "metadata": dict(metadata),
        },
        dtype=torch.float32,
    )


def load_controller(folder: Path, device: torch.device | str = "cpu") -> Controller:
    """Read a controller.

    Args:
        folder: as written by `save_controller`.
        device: where it shall compute.

    Raises:
        CheckpointError: a file is missing, broken, of another format, or does not fit the
            architecture.
    """
    checkpoint = FORM.read(CheckpointFiles.in_folder(Path(folder)))
    known = checkpoint.described(_Description)
    return Controller(
        checkpoint.restored(lambda: ControllerNetwork(known.architecture)),
        encoder_fingerprint=known.encoder,
        metadata=known.metadata,
        fingerprint=checkpoint.fingerprint("architecture", "encoder"),
    ).to(device)
