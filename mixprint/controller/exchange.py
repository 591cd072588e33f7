"""Other tracks for a measured example: those of another one, which sound in the style of this one.

A style has settings for every role, whatever sounds on a track. So any dry tracks can be given with
a reference in it, and the answer and its weights are known without mixing anew. Tracks are
exchanged between examples in which the same stems come as one track. Those that begin with the
stems of a mix have tracks that their reference is mixed of, and keep them.

Shape suffixes: N track, A number of `Sounds`, K field.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mixprint.controller.measured import MeasuredExample
from mixprint.controller.measures import weights_of
from mixprint.controller.targets import TRACK

_PAN = TRACK.place("pan")


def exchangeable(items: Sequence[MeasuredExample]) -> Mapping[int, list[int]]:
    """Number the examples whose tracks can be exchanged: kind -> numbers."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        if len(item.style_RK):
            found[int(item.kind)].append(number)
    return found


def exchanged(
    items: Sequence[MeasuredExample], others: Sequence[MeasuredExample]
) -> list[MeasuredExample]:
    """Give examples the tracks of others.

    Args:
        items: with styles that are known.
        others: whose tracks they get, one for each.
    """
    if not items:
        return []
    positions = [_position(item, other) for item, other in zip(items, others, strict=True)]
    sound_NA = torch.cat([other.track_sound_NA for other in others])
    weight_NK = weights_of(TRACK, sound_NA, torch.cat(positions))
    weights = weight_NK.split([len(position_NK) for position_NK in positions])
    return [
        replace(
            item,
            track_ND=other.track_ND,
            role_N=other.role_N,
            trim_N=other.trim_N,
            track_sound_NA=other.track_sound_NA,
            track_NK=position_NK,
            track_gate_NG=item.style_gate_RG[other.role_N - 1],
            track_weight_NK=own_weight_NK,
        )
        for item, other, position_NK, own_weight_NK in zip(
            items, others, positions, weights, strict=True
        )
    ]


def _position(item: MeasuredExample, other: MeasuredExample) -> Tensor:
    """Return the settings of the other tracks: every second one of a role on the other side."""
    position_NK = item.style_RK[other.role_N - 1]
    roles = other.role_N.tolist()
    is_opposite_N = torch.tensor([roles[:n].count(role) % 2 == 1 for n, role in enumerate(roles)])
    position_NK[is_opposite_N, _PAN] = 1 - position_NK[is_opposite_N, _PAN]
    return position_NK
