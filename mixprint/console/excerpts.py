"""Excerpts of songs in which all tracks sound.

Shape suffixes: N track, C channel, T sample, M frame (here a second), S sample of a frame.
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
    start = busiest_second(frame_power(tracks_NCT, sample_rate_hz), num_seconds)
    return tracks_NCT[..., start * sample_rate_hz : (start + num_seconds) * sample_rate_hz]


def frame_power(tracks_NCT: Tensor, size: int) -> Tensor:
    """Return power_NM of whole frames of some samples; a rest is left out."""
    num_frames = tracks_NCT.shape[-1] // size
    whole_NCT = tracks_NCT[..., : num_frames * size]
    return whole_NCT.square().mean(dim=1).unflatten(-1, (num_frames, size)).mean(dim=-1)


class FramePower:
    """Power of tracks that come in blocks, in frames of some samples.

    Attributes:
        rest_NCT: what no whole frame has been made of yet; None before the first block.
    """

    def __init__(self, size: int) -> None:
        """Start at the beginning of the song."""
        self._size = size
        self.rest_NCT: Tensor | None = None
        self._powers: list[Tensor] = []

    def add(self, block_NCT: Tensor) -> None:
        """Measure the next block, of any length."""
        if self.rest_NCT is not None:
            block_NCT = torch.cat([self.rest_NCT, block_NCT], dim=-1)
        self._powers.append(frame_power(block_NCT, self._size))
        self.rest_NCT = block_NCT[..., self._powers[-1].shape[-1] * self._size :].clone()

    def watch(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass blocks of tracks_NCT on, and measure them."""
        for block_NCT in blocks:
            self.add(block_NCT)
            yield block_NCT

    def power(self) -> Tensor:
        """Return power_NM of what was added; there may be no whole frame."""
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
