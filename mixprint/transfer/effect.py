"""Effect of a transfer on stems, and its way over a song of any length.

An effect is found on segments and then kept: the same effect gives the same output for a part of a
song as for the whole song around it.

The *amount*, a number per stem, says how much of it is done. 0 gives the input to the bit, 1 what
was found, and values between scale the controls in their own units (dB, dB per dB) and what a
network adds to its input. Above 1 is more of the same, beyond what the target has: 2 doubles each
dB. Below 0 is refused: the inverse of a style is no style.

Shape suffixes: S stem, C channel, T sample.
"""

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.stems import NUM_STEMS, STEMS

log = logging.getLogger("mixprint.transfer")

# What is computed at once: short enough for small memories, long beside the context.
WINDOW_S = 20.0
# Ten times each decibel is beyond anything that is still a mix, and beyond it float32 overflows.
MAX_AMOUNT = 10.0


class Effect(Protocol):
    """Effect of a transfer on stems: fitted on segments, applicable to whole songs."""

    @property
    def context_samples(self) -> int:
        """An output sample depends on input at most this far away, on either side."""

    @property
    def hop_samples(self) -> int:
        """Parts of a song must start at multiples of this."""

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """Process stems that lie where the effect lies; amount 0 gives the input to the bit."""

    def settings(self, amount_S: Tensor) -> dict[str, dict[str, float]]:
        """Say for people, per stem, what is done; may be empty."""

    def to(self, device: torch.device | str) -> Self:
        """Move it."""


class LeavesAlone:
    """An effect without some stems, which are passed on to the bit."""

    def __init__(self, effect: Effect, left_alone: Sequence[str]) -> None:
        """Wrap an effect.

        Args:
            effect: the effect.
            left_alone: stems that it shall not touch, whatever the amount.
        """
        self._effect = effect
        self._left_alone = tuple(left_alone)
        self._active_S = torch.tensor([stem not in left_alone for stem in STEMS])

    @property
    def context_samples(self) -> int:
        """See `Effect`."""
        return self._effect.context_samples

    @property
    def hop_samples(self) -> int:
        """See `Effect`."""
        return self._effect.hop_samples

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `Effect`."""
        active_S = self._active_S.to(stems_SCT.device)
        out_SCT = self._effect(stems_SCT, torch.where(active_S, amount_S, 0.0))
        return torch.where(active_S.view(-1, 1, 1), out_SCT, stems_SCT)

    def settings(self, amount_S: Tensor) -> dict[str, dict[str, float]]:
        """See `Effect`."""
        settings = self._effect.settings(amount_S)
        return {stem: values for stem, values in settings.items() if stem not in self._left_alone}

    def to(self, device: torch.device | str) -> Self:
        """See `Effect`."""
        self._effect = self._effect.to(device)
        return self


def check_amount(amount_S: Tensor) -> Tensor:
    """Return the amounts if there is one per stem, from 0 to `MAX_AMOUNT`.

    Raises:
        ConfigError: it is not so.
    """
    in_range_S = (amount_S >= 0) & (amount_S <= MAX_AMOUNT)
    if amount_S.shape != (NUM_STEMS,) or not in_range_S.all():
        raise ConfigError(
            f"amount: expected {NUM_STEMS} numbers from 0 to {MAX_AMOUNT:g}, found "
            f"{amount_S.tolist()}"
        )
    return amount_S


def apply_to_blocks(
    effect: Effect,
    blocks: Iterable[Tensor],
    amount_S: Tensor,
    *,
    sample_rate_hz: int,
    window_s: float = WINDOW_S,
    device: torch.device | str = "cpu",
    notes: list[str] | None = None,
) -> Iterator[Tensor]:
    """Process a song that comes in blocks, in memory that does not grow with it.

    The song is cut into windows on the effect's grid, each computed with the context that the
    effect needs on both sides. The output equals that of one pass up to float32's rounding. Where
    memory does not suffice the windows are halved, then the CPU goes on, with a warning.

    Args:
        effect: on `device`.
        blocks: stems_SCT of any lengths, on the CPU; together the song.
        amount_S: see the module.
        sample_rate_hz: of the song.
        window_s: length of a window without its context, rounded up to the effect's grid.
        device: where it is computed.
        notes: receives a sentence for people where memory did not suffice.

    Yields:
        stems_SCT on the CPU; together as long as the song.

    Raises:
        ConfigError: an amount or the window's length is out of range.
    """
    check_amount(amount_S)
    if not (window_s > 0 and math.isfinite(window_s)):
        raise ConfigError(f"window_s: expected a length above 0, found {window_s}")
    hop = effect.hop_samples
    window = _to_grid(round(window_s * sample_rate_hz), hop)
    context = _to_grid(effect.context_samples, hop)
    device = torch.device(device)
    song = _Stretch(blocks)
    position = 0  # of the next output
    while position < song.read(position + window + context):
        start = max(position - context, 0)
        part_SCT = song.part(start, position + window + context)
        done_SCT = _apply_if_it_fits(effect, part_SCT, amount_S, device)
        if done_SCT is None:
            if window > max(hop, context):
                window = _to_grid(window // 2, hop)
                note = f"memory was short: windows of {window / sample_rate_hz:.1f} s from there on"
            else:
                # A copy: the effect itself stays where its owner has put it.
                effect, device = copy.deepcopy(effect).to("cpu"), torch.device("cpu")
                note = "memory was short: the CPU went on"
            log.warning("%s", note)
            if notes is not None:
                notes.append(note)
            continue
        yield done_SCT[..., position - start :][..., : min(window, song.end - position)]
        position += window
        song.forget(position - context)


def _apply_if_it_fits(
    effect: Effect, part_SCT: Tensor, amount_S: Tensor, device: torch.device
) -> Tensor | None:
    """Process a part; None where the memory of the GPU does not suffice."""
    try:
        return effect(part_SCT.to(device), amount_S.to(device)).cpu()
    except torch.OutOfMemoryError:
        if device.type == "cpu":
            raise
    # Only here, behind the handler, does no traceback hold the failed run's tensors.
    torch.cuda.empty_cache()
    return None


class _Stretch:
    """Stretch of a song that comes in blocks: what has been read and is still needed."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._parts: list[Tensor] = []  # consecutive
        self._start = 0  # first sample that is held
        self.end = 0  # one behind the last sample that has been read

    def read(self, stop: int) -> int:
        """Read up to a sample, or to the end of the song; return `end`."""
        while self.end < stop and (block_SCT := next(self._blocks, None)) is not None:
            self._parts.append(block_SCT)
            self.end += block_SCT.shape[-1]
        return self.end

    def part(self, start: int, stop: int) -> Tensor:
        """Return what is held of these samples."""
        self._parts = [torch.cat(self._parts, dim=-1)]
        return self._parts[0][..., start - self._start : stop - self._start]

    def forget(self, before: int) -> None:
        """Hold nothing before a sample any more."""
        start = max(before, self._start)
        # A copy, so that what is held does not keep the memory of what is done.
        self._parts = [self.part(start, self.end).clone()]
        self._start = start


def _to_grid(num_samples: int, hop: int) -> int:
    """Round up to the grid."""
    return max(-(-num_samples // hop), 1) * hop
