"""Songs as a controller is given them: described, put together, and padded to a batch.

Shape suffixes: B song, N track, S stem, R part of the reference, C channel, T sample, D number of a
descriptor, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixprint.audio.resampling import resample_tracks
from mixprint.console.levels import working_trim_db
from mixprint.console.schema import TRACK_FIELDS_BY_NAME
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.model import REFERENCE_KINDS, Inputs
from mixprint.dsp.decibels import amplitude
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import MIN_SEGMENT_S
from mixprint.features.descriptors import NUM_DESCRIPTORS
from mixprint.stems import NUM_STEMS

STEM_KINDS = tuple(range(NUM_STEMS))
MID_SIDE_KINDS = tuple(REFERENCE_KINDS.index(name) for name in ("mid", "side"))


@dataclass(frozen=True)
class SongInputs:
    """Inputs of one song, without padding.

    Attributes:
        track_ND: descriptors of the tracks at the working level.
        role_N: their roles, 0 where unknown.
        reference_RD: descriptors of the parts of the reference; of none where they are not known.
        kind_R: their numbers in `REFERENCE_KINDS`.
        embedding_E: of the reference; None: it is not known.
    """

    track_ND: Tensor
    role_N: Tensor
    reference_RD: Tensor = field(default_factory=lambda: torch.zeros(0, NUM_DESCRIPTORS))
    kind_R: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    embedding_E: Tensor | None = None

    @property
    def has_reference(self) -> bool:
        """Tell whether anything is known of a reference."""
        return len(self.reference_RD) > 0 or self.embedding_E is not None

    def without_reference(self) -> "SongInputs":
        """Return the song with nothing known of a reference."""
        return SongInputs(self.track_ND, self.role_N)


def embed_stems(encoder: Encoder, stems_SCT: Tensor, sample_rate_hz: int) -> Tensor | None:
    """Embed the stems of a reference: embedding_E; None of stems that are too short for that.

    Args:
        encoder: on the device of the stems.
        stems_SCT: in the order of `STEMS`, full scale at +-1.
        sample_rate_hz: of the stems; they are brought to the encoder's.
    """
    if stems_SCT.shape[-1] < MIN_SEGMENT_S * sample_rate_hz:
        return None
    expected_hz = encoder.model.config.sample_rate_hz
    heard_SCT = resample_tracks(stems_SCT, sample_rate_hz, expected_hz)
    (embedding_E,) = encoder.embed(heard_SCT[None], expected_hz)
    return embedding_E


def role_numbers(roles: Sequence[str], known: Sequence[str]) -> Tensor:
    """Return role_N of tracks, from 1 on; 0 for those that are not known."""
    numbers = {role: number for number, role in enumerate(known, start=1)}
    return torch.tensor([numbers.get(role, 0) for role in roles], dtype=torch.long)


def describe_tracks(tracks_NCT: Tensor, trim_db: Sequence[float], sample_rate_hz: int) -> Tensor:
    """Describe dry tracks at the working level: track_ND.

    Args:
        tracks_NCT: one or two channels, full scale at +-1.
        trim_db: what brings each there, see `mixprint.console.levels.working_trim_db`.
        sample_rate_hz: of the audio.
    """
    trim_N = torch.tensor(trim_db, device=tracks_NCT.device)
    return describe_audio(amplitude(trim_N)[:, None, None] * tracks_NCT, sample_rate_hz)


def describe_reference(mix_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Describe mid and side of a mix: reference_RD of `MID_SIDE_KINDS`."""
    left_T, right_T = mix_CT[0], mix_CT[-1]
    parts_21T = torch.stack([left_T + right_T, left_T - right_T])[:, None] / 2
    return describe_audio(parts_21T, sample_rate_hz)


def trims_db(tracks_NCT: Tensor, sample_rate_hz: int) -> list[float]:
    """Return what brings tracks to the working level, within the range of a trim."""
    trims = working_trim_db(tracks_NCT, sample_rate_hz)
    return [TRACK_FIELDS_BY_NAME["trim_db"].held(trim_db) for trim_db in trims]


def batched(songs: Sequence[SongInputs], embedding_dim: int) -> Inputs:
    """Pad songs to a batch.

    Args:
        songs: one at least, each with a track.
        embedding_dim: of the embeddings.
    """
    num_songs = len(songs)
    num_tracks = max(len(song.track_ND) for song in songs)
    num_parts = max(max(len(song.reference_RD) for song in songs), 1)
    inputs = Inputs(
        torch.zeros(num_songs, num_tracks, NUM_DESCRIPTORS),
        torch.zeros(num_songs, num_tracks, dtype=torch.long),
        torch.zeros(num_songs, num_tracks, dtype=torch.bool),
        torch.zeros(num_songs, num_parts, NUM_DESCRIPTORS),
        torch.zeros(num_songs, num_parts, dtype=torch.long),
        torch.zeros(num_songs, num_parts, dtype=torch.bool),
        torch.zeros(num_songs, embedding_dim),
        torch.zeros(num_songs, dtype=torch.bool),
    )
    for row, song in enumerate(songs):
        tracks, parts = len(song.track_ND), len(song.reference_RD)
        inputs.track_BND[row, :tracks] = song.track_ND
        inputs.role_BN[row, :tracks] = song.role_N
        inputs.is_track_BN[row, :tracks] = True
        inputs.reference_BRD[row, :parts] = song.reference_RD
        inputs.kind_BR[row, :parts] = song.kind_R
        inputs.is_part_BR[row, :parts] = True
        if song.embedding_E is not None:
            inputs.embedding_BE[row] = song.embedding_E
            inputs.has_embedding_B[row] = True
    return inputs
