"""Styles near those of measured examples, without mixing anew.

Of a reference the powers of its tracks are known. Faders, equalisers, pans and widths change these
by factors that follow from the settings, and so the numbers that describe the reference; the same
settings of the answer go along. What comes after an equaliser follows the level that it changes:
the threshold of a compressor moves by as much, and the level by which a drive is entered, so both
do what they did before. What tells how sounds change over time stays as it is.

Shape suffixes: B example, N track of any example, P track of any reference, T any of both, S stem,
Q what a reference is described as: stems, mid and side; R role (in the order of `ROLES`), K field,
M mel, D number of a descriptor, A number of `Sounds`; 3 is mid, side and their product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mixprint.console.mixing import Values, stereo_matrix
from mixprint.controller.descriptors import mel_points_hz, remixed, total_power
from mixprint.controller.draws import shared_deviations
from mixprint.controller.levels import squared
from mixprint.controller.measured import MeasuredExample
from mixprint.controller.measures import weights_of
from mixprint.controller.roles import ROLES, stem_numbers
from mixprint.controller.targets import MASTER, TRACK, Layout
from mixprint.dsp.equaliser import power_response
from mixprint.features.descriptors import NUM_MELS
from mixprint.stems import NUM_STEMS, SAMPLE_RATE_HZ

# A master's gains are changed by this part of a track's: so much less they differ between styles.
_MASTER_PART = 0.5
# The response of an equaliser is computed at so many frequencies of each mel.
_NUM_POINTS = 4
_TINY = 1e-20
_STEM_OF_ROLE_R = torch.tensor(stem_numbers(ROLES))


@dataclass(frozen=True)
class StyleNoise:
    """Standard deviations of changes; only what is in use is changed.

    Attributes:
        level_db: of faders.
        tone_db: of the gains of equalisers.
        tone_octaves: of their frequencies and Qs.
        image: of pans and widths, as the natural logarithm of a factor. Unless it is 0, half of
            the pans change sides.
    """

    level_db: float
    tone_db: float
    tone_octaves: float
    image: float


class _Strips(NamedTuple):
    """Strips of several examples, one after another.

    Attributes:
        position_TK: positions of their settings.
        song_T: number of the example of each.
        role_T: their roles; -1, which is `other`, for unknown ones.
    """

    position_TK: Tensor
    song_T: Tensor
    role_T: Tensor

    @classmethod
    def joined(cls, each: Sequence[tuple[Tensor, Tensor]]) -> "_Strips":
        """Join positions and roles of examples."""
        size_B = torch.tensor([len(role_T) for _, role_T in each])
        return cls(
            torch.cat([position_TK for position_TK, _ in each]),
            torch.repeat_interleave(size_B),
            torch.cat([role_T for _, role_T in each]) - 1,
        )


class _Change:
    """Drawn changes of styles: the same for all tracks of a role."""

    def __init__(self, seeds: Sequence[int], noise: StyleNoise) -> None:
        self._noise = noise
        tracks, masters, turned = [], [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            tracks.append(shared_deviations(generator, len(TRACK.fields)))
            masters.append(torch.randn(len(MASTER.fields), generator=generator))
            turned.append(torch.rand(len(ROLES), generator=generator) < 0.5)
        self._track_BRK, self._master_BK = torch.stack(tracks).float(), torch.stack(masters)
        self._side_BR = 1.0 - 2.0 * torch.stack(turned).float()

    def tracks(self, strips: _Strips) -> Tensor:
        """Change tracks: position_TK."""
        noise_TK = self._track_BRK[strips.song_T, strips.role_T]
        position_TK = self._moved(TRACK, strips.position_TK, noise_TK, 1.0)
        if self._noise.image > 0:
            factor_TK = (self._noise.image * noise_TK).exp()
            pan_T = factor_TK[:, _PAN] * (2 * position_TK[:, _PAN] - 1)
            pan_T = (pan_T * self._side_BR[strips.song_T, strips.role_T]).clamp(-1.0, 1.0)
            position_TK[:, _PAN] = (1 + pan_T) / 2
            position_TK[:, _WIDTH] = (factor_TK[:, _WIDTH] * position_TK[:, _WIDTH]).clamp_max(1.0)
        return position_TK

    def masters(self, position_BK: Tensor) -> Tensor:
        """Change masters: position_BK."""
        return self._moved(MASTER, position_BK, self._master_BK, _MASTER_PART)

    def _moved(self, layout: Layout, position_TK: Tensor, noise_TK: Tensor, part: float) -> Tensor:
        """Add noise to faders and equalisers, as far as they are in use."""
        is_used_TK = (position_TK != layout.neutral_K)[:, layout.weigher_K]
        sizes = []
        for each in layout.fields:
            size = 0.0
            if each.group == "eq":
                octaves = math.log(2) * self._noise.tone_octaves
                size = part * self._noise.tone_db if each.scale == "linear" else octaves
            sizes.append(size / (each.on_scale(each.high) - each.on_scale(each.low)))
        moved_TK = position_TK + is_used_TK * torch.tensor(sizes) * noise_TK
        if layout is TRACK:
            moved_TK[:, _FADER] += (
                self._noise.level_db / TRACK.span("fader_db") * noise_TK[:, _FADER]
            )
        return moved_TK.clamp(0.0, 1.0)


_PAN, _WIDTH, _FADER = map(TRACK.place, ("pan", "width", "fader_db"))


def with_style_noise(
    items: Sequence[MeasuredExample], seeds: Sequence[int], noise: StyleNoise
) -> list[MeasuredExample]:
    """Change the styles of examples.

    What their references' embeddings would be is not known; they have none, then. Stems that are
    not the true ones are left out, too: mid and side remain.

    Args:
        items: examples with references of which the tracks are known.
        seeds: of what is drawn for each.
        noise: how far styles are changed.
    """
    if not items:
        return []
    change = _Change(seeds, noise)
    parts = _Strips.joined([(item.part_PK, item.part_role_P) for item in items])
    tracks = _Strips.joined([(item.track_NK, item.role_N) for item in items])
    master_BK = torch.stack([item.master_K for item in items])
    new_parts = parts._replace(position_TK=change.tracks(parts))
    new_master_BK, track_NK = change.masters(master_BK), change.tracks(tracks)
    part_P3M = torch.cat([item.part_P3M for item in items])
    before, after = _powers(parts, master_BK), _powers(new_parts, new_master_BK)
    # What was measured has passed the old equalisers.
    toned_P3M = part_P3M * (after.eq_PM / before.eq_PM)[:, None]
    before_BS3M = _stem_powers(part_P3M, before, parts)
    after_BS3M = _stem_powers(toned_P3M, after, parts)
    after_BS3M = after_BS3M * (after.master_BM / before.master_BM)[:, None, None]
    # After the equalisers.
    level_BR = torch.zeros(len(items), len(ROLES))
    level_BR[parts.song_T, parts.role_T] = _level_db(toned_P3M) - _level_db(part_P3M)
    mix_B = _level_db(after_BS3M.sum(dim=1)) - _level_db(before_BS3M.sum(dim=1))
    _follow(TRACK, track_NK, level_BR[tracks.song_T, tracks.role_T])
    _follow(MASTER, new_master_BK, mix_B)
    described_BQD = _described(items, before_BS3M, after_BS3M)
    counts = [len(item.role_N) for item in items]
    track_sound_NA = torch.cat([item.track_sound_NA for item in items])
    master_sound_BA = torch.stack([item.master_sound_A for item in items])
    changes = zip(
        described_BQD,
        track_NK.split(counts),
        weights_of(TRACK, track_sound_NA, track_NK).split(counts),
        new_master_BK,
        weights_of(MASTER, master_sound_BA, new_master_BK),
        strict=True,
    )
    return [_replaced(item, *own) for item, own in zip(items, changes, strict=True)]


def _replaced(
    item: MeasuredExample,
    described_QD: Tensor,
    track_NK: Tensor,
    track_weight_NK: Tensor,
    master_K: Tensor,
    master_weight_K: Tensor,
) -> MeasuredExample:
    return replace(
        item,
        stem_SD=described_QD[: NUM_STEMS if item.has_true_stems else 0],
        mid_side_2D=described_QD[NUM_STEMS:],
        embedding_E=item.embedding_E[:0],
        track_NK=track_NK,
        track_weight_NK=track_weight_NK,
        master_K=master_K,
        master_weight_K=master_weight_K,
    )


class _Powers(NamedTuple):
    """Factors by which settings change powers.

    Attributes:
        eq_PM: of the tracks' equalisers.
        master_BM: of the masters'.
        image_P33: of width, pan and fader: matrices of mid, side and their product.
    """

    eq_PM: Tensor
    master_BM: Tensor
    image_P33: Tensor


def _powers(parts: _Strips, master_BK: Tensor) -> _Powers:
    values = Values(
        TRACK.values(parts.position_TK), MASTER.values(master_BK), "inserts", SAMPLE_RATE_HZ
    )
    eq_PM, master_BM = (
        power_response(sections, mel_points_hz(_NUM_POINTS).flatten(), SAMPLE_RATE_HZ)
        .unflatten(-1, (NUM_MELS, _NUM_POINTS))
        .mean(dim=-1)
        .float()
        for sections in (values.track_sections(), values.master_sections())
    )
    return _Powers(eq_PM, master_BM, squared(stereo_matrix(values)).float())


def _stem_powers(part_P3M: Tensor, powers: _Powers, parts: _Strips) -> Tensor:
    """Add up what width, pan and fader make of tracks, which are not correlated: power_BS3M."""
    num_songs = len(powers.master_BM)
    stem_P = NUM_STEMS * parts.song_T + _STEM_OF_ROLE_R[parts.role_T]
    sum_3M = part_P3M.new_zeros(num_songs * NUM_STEMS, 3, NUM_MELS)
    return sum_3M.index_add(0, stem_P, powers.image_P33 @ part_P3M).unflatten(0, (num_songs, -1))


def _level_db(power_3M: Tensor) -> Tensor:
    """Return the level of powers, `...3M`, of mid and side together."""
    return 10 * (total_power(power_3M[..., :2, :].sum(dim=-2)) + _TINY).log10()


def _follow(layout: Layout, position_TK: Tensor, level_T: Tensor) -> None:
    """Move thresholds and drives by what the level before them has changed."""
    for own, name, sign in (
        ("comp.slope", "comp.threshold_db", 1.0),
        ("drive.mix", "drive.drive_db", -1.0),
    ):
        if own in layout:
            place, weigher = layout.place(name), layout.place(own)
            is_used_T = position_TK[:, weigher] != layout.neutral_K[weigher]
            moved_T = position_TK[:, place] + sign * is_used_T * level_T / layout.span(name)
            position_TK[:, place] = moved_T.clamp(0.0, 1.0)


def _described(items: Sequence[MeasuredExample], before_BS3M: Tensor, after_BS3M: Tensor) -> Tensor:
    """Describe stems, and mid and side of the mix, each as a sound of its own: described_BQD."""

    def with_mix(power_BS3M: Tensor) -> Tensor:
        alone_B23M = torch.zeros_like(power_BS3M[:, :2])
        alone_B23M[:, :, 0] = power_BS3M.sum(dim=1)[:, :2]
        return torch.cat([power_BS3M, alone_B23M], dim=1).flatten(0, 1)

    known = [torch.cat([item.stem_SD, item.mid_side_2D]) for item in items]
    found = remixed(torch.cat(known), with_mix(before_BS3M), with_mix(after_BS3M))
    return found.unflatten(0, (len(items), -1))
