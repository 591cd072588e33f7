"""Excerpts of songs as the tracks that an engineer gets: some, at any level, in any order.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mixprint.console.levels import working_trim_db
from mixprint.console.mixing import as_stereo
from mixprint.console.settings import MAX_TRACKS
from mixprint.controller.roles import stem_of
from mixprint.controller.songs import DrySong
from mixprint.dsp.decibels import amplitude
from mixprint.schema import Part, Range
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

# A track is in an excerpt if any moment of it is louder than this.
_HEARD_DBFS, _HEARD_S = -55.0, 0.1


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Parameters of what becomes of an excerpt's tracks.

    Attributes:
        stems_share: part of the styles whose songs come as stems, a track for each.
        submix_probability: of each stem of the others, to come as one track.
        track_dropout: of tracks up to this part is missing, drawn anew for each excerpt.
        solo_share: part of the excerpts that is a single track, a voice where there is one.
        level_jitter_db: level of each track, -+ this.
    """

    stems_share: Part
    submix_probability: Part
    track_dropout: Part
    solo_share: Part
    level_jitter_db: Annotated[float, Range(0.0, 40.0)]


@dataclass(frozen=True)
class Segment:
    """Dry tracks.

    Attributes:
        tracks_NCT: two channels each, float32, full scale at +-1.
        names: of the tracks, all different.
        roles: theirs.
    """

    tracks_NCT: Tensor
    names: tuple[str, ...]
    roles: tuple[str, ...]

    def chosen(self, places: Sequence[int]) -> "Segment":
        """Return some of the tracks, in a given order."""
        names, roles = (tuple(of[place] for place in places) for of in (self.names, self.roles))
        return Segment(self.tracks_NCT[list(places)], names, roles)

    def trims_db(self) -> list[float]:
        """Return what brings the tracks to the working level."""
        return working_trim_db(self.tracks_NCT, SAMPLE_RATE_HZ)


def cut(song: DrySong, first: int, num_samples: int) -> Segment:
    """Cut an excerpt: the tracks that sound there; the loudest one where none does.

    Args:
        song: where it is from.
        first: sample that it begins with.
        num_samples: its length.
    """
    parts = song.read(first, num_samples)
    size = min(round(_HEARD_S * SAMPLE_RATE_HZ), num_samples)
    power_N = torch.stack([_loudest_power(part_CT, size) for part_CT in parts])
    is_heard_N = power_N > min(10 ** (_HEARD_DBFS / 10), 0.99 * float(power_N.max()))
    places = is_heard_N.nonzero()[:, 0].tolist() or [0]
    names, roles = (tuple(of[place] for place in places) for of in (song.names, song.roles))
    return Segment(torch.stack([as_stereo(parts[place]) for place in places]), names, roles)


def _loudest_power(audio_CT: Tensor, size: int) -> Tensor:
    """Return the highest mean square of blocks of some samples."""
    num_blocks = audio_CT.shape[-1] // size
    blocks_CMS = audio_CT[:, : num_blocks * size].unflatten(-1, (num_blocks, size))
    return blocks_CMS.square().mean(dim=(0, 2)).max()


def varied(segment: Segment, generator: torch.Generator, config: SegmentConfig) -> Segment:
    """Leave some tracks out, and change levels and order."""
    order, kept = draw_kept(len(segment.names), generator, config.track_dropout)
    if uniform(generator) < config.solo_share:
        voices = [place for place in order if segment.roles[place] == "vocals"]
        kept = (voices or order)[:1]
    segment = segment.chosen(kept[:MAX_TRACKS])
    jitter_N = 2 * torch.rand(len(segment.names), generator=generator) - 1
    gain_N11 = amplitude(config.level_jitter_db * jitter_N)[:, None, None]
    return Segment(gain_N11 * segment.tracks_NCT, segment.names, segment.roles)


def draw_kept(
    num_tracks: int, generator: torch.Generator, track_dropout: float
) -> tuple[list[int], list[int]]:
    """Draw an order of tracks, and which of them are kept; one at least.

    Args:
        num_tracks: there are.
        generator: draws.
        track_dropout: up to this part is missing.

    Returns:
        places of all tracks, and of those that are kept, in the drawn order.
    """
    order = torch.randperm(num_tracks, generator=generator).tolist()
    dropout = track_dropout * uniform(generator)
    is_kept_N = torch.rand(num_tracks, generator=generator) >= dropout
    return order, [place for place in order if is_kept_N[place]] or order[:1]


def uniform(generator: torch.Generator) -> float:
    """Draw a number between 0 and 1."""
    return float(torch.rand((), generator=generator))


def integer(generator: torch.Generator, size: int) -> int:
    """Draw a number from 0 to `size` - 1."""
    return int(torch.randint(size, (), generator=generator))


def draw_submixed(generator: torch.Generator, config: SegmentConfig) -> frozenset[str]:
    """Draw the stems that come as one track, in all songs of a style."""
    comes_as_stems = uniform(generator) < config.stems_share
    probability = 1.0 if comes_as_stems else config.submix_probability
    is_summed_S = torch.rand(len(STEMS), generator=generator) < probability
    return frozenset(stem for stem, is_summed in zip(STEMS, is_summed_S, strict=True) if is_summed)


def submixed(segment: Segment, stems: Collection[str]) -> Segment:
    """Sum up the tracks of some stems; the sum is called as the stem, which is its role, too."""
    tracks, names, roles = [], [], []
    for stem in STEMS:
        places = [n for n, role in enumerate(segment.roles) if stem_of(role) == stem]
        if stem in stems and places:
            tracks.append(segment.tracks_NCT[places].sum(dim=0))
            names.append(stem)
            roles.append(stem)
            continue
        for place in places:
            tracks.append(segment.tracks_NCT[place])
            names.append(segment.names[place])
            roles.append(segment.roles[place])
    return Segment(torch.stack(tracks), tuple(names), tuple(roles))
