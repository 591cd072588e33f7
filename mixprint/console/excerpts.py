"""Excerpts of songs in which all tracks sound.

Shape suffixes: N track, C channel, T sample, M second, S sample of a second.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

# A track that is silent for a second counts so little against one that sounds.
_LEAST = 1e-3


def busiest_second(power_NM: Tensor, num_seconds: int) -> int:
    """Find where an excerpt begins in which all tracks sound the most.

    Args:
        power_NM: of each track in each second.
        num_seconds: length of the excerpt.

    Returns:
        the second that it begins with; 0 where the song is no longer than the excerpt.
    """
    if power_NM.shape[-1] <= num_seconds:
        return 0
    mean_N1 = power_NM.mean(dim=1, keepdim=True).clamp_min(1e-12)
    sounding_M = torch.log10(power_NM / mean_N1 + _LEAST).sum(dim=0)
    return int(sounding_M.unfold(0, num_seconds, 1).sum(dim=-1).argmax())


def busiest_part(tracks_NCT: Tensor, sample_rate_hz: int, num_seconds: int) -> Tensor:
    """Cut the excerpt in which all tracks sound the most; what is no longer stays whole."""
    start = busiest_second(power_per_second(tracks_NCT, sample_rate_hz), num_seconds)
    return tracks_NCT[..., start * sample_rate_hz : (start + num_seconds) * sample_rate_hz]


def power_per_second(tracks_NCT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return power_NM of whole seconds; a rest is left out."""
    num_seconds = tracks_NCT.shape[-1] // sample_rate_hz
    whole_NCT = tracks_NCT[..., : num_seconds * sample_rate_hz]
    frames_NMS = whole_NCT.square().mean(dim=1).unflatten(-1, (num_seconds, sample_rate_hz))
    return frames_NMS.mean(dim=-1)


class WatchedPower:
    """Power of tracks that pass by in blocks, in each second."""

    def __init__(self, sample_rate_hz: int) -> None:
        """Start at the beginning of the song."""
        self._sample_rate_hz = sample_rate_hz
        self._held_NCT: Tensor | None = None
        self._powers: list[Tensor] = []

    def watch(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass blocks of tracks_NCT on, and measure them."""
        for block_NCT in blocks:
            held_NCT = block_NCT
            if self._held_NCT is not None:
                held_NCT = torch.cat([self._held_NCT, block_NCT], dim=-1)
            self._powers.append(power_per_second(held_NCT, self._sample_rate_hz))
            num_done = self._powers[-1].shape[-1] * self._sample_rate_hz
            self._held_NCT = held_NCT[..., num_done:].clone()
            yield block_NCT

    def power(self) -> Tensor:
        """Return power_NM of what has passed; without a second there is none."""
        return torch.cat(self._powers, dim=-1)


def part_of(blocks: Iterable[Tensor], start: int, stop: int) -> Tensor:
    """Cut samples `start` to `stop` out of tracks_NCT that come in blocks."""
    parts, position = [], 0
    for block_NCT in blocks:
        parts.append(block_NCT[..., max(start - position, 0) : max(stop - position, 0)])
        position += block_NCT.shape[-1]
        if position >= stop:
            break
    return torch.cat(parts, dim=-1)
