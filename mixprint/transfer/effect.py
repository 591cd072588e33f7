"""Effect of a transfer on stems, and its way over a song of any length.

An effect is found on segments and then kept: the same effect gives the same output for a part of a
song as for the whole song around it. A song passes it in blocks: what the effect must remember of
earlier blocks (filters, compressors, rooms) or know of later ones lies in a `Stream`.

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
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from mixprint.console.settings import Settings
from mixprint.errors import ConfigError
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, STEMS

log = logging.getLogger("mixprint.transfer")

# What is computed at once: short enough for small memories, long beside the context.
WINDOW_S = 20.0
# Ten times each decibel is beyond anything that is still a mix, and beyond it float32 overflows.
MAX_AMOUNT = 10.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """Conditions under which a song passes an effect.

    Attributes:
        sample_rate_hz: of the song.
        window_s: what is computed at once, in seconds.
        device: where it is computed; the effect is there.
        notes: receives a sentence for people where memory did not suffice.
    """

    sample_rate_hz: int
    window_s: float = WINDOW_S
    device: torch.device | str = "cpu"
    notes: list[str] | None = None

    def __post_init__(self) -> None:
        """Check the window.

        Raises:
            ConfigError: it has no length.
        """
        if not (self.window_s > 0 and math.isfinite(self.window_s)):
            raise ConfigError(f"window_s: expected a length above 0, found {self.window_s}")

    @property
    def window_samples(self) -> int:
        """Length of a window, one sample at least."""
        return max(round(self.window_s * self.sample_rate_hz), 1)


class Stream(Protocol):
    """A song on its way through an effect, on the CPU."""

    def step(self, block_SCT: Tensor) -> Tensor:
        """Take the next block of any length, and return what is finished, which may be nothing."""

    def finish(self) -> Tensor:
        """Return the last samples: the output is as long as the song."""


class Effect(Protocol):
    """Effect of a transfer on stems: fitted on segments, applicable to whole songs."""

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """Process stems that lie where the effect lies; amount 0 gives the input to the bit."""

    def start(self, amount_S: Tensor, running: Running) -> Stream:
        """Begin a song: in blocks it becomes what it becomes in one pass, to 1e-6."""

    def settings(self, amount_S: Tensor) -> Settings | None:
        """Return the console's settings that do the same; None where there are none."""

    def to(self, device: torch.device | str) -> Self:
        """Move it."""


class LocalEffect(Protocol):
    """Effect whose output depends on the input around it alone."""

    @property
    def context_samples(self) -> int:
        """An output sample depends on input at most this far away, on either side."""

    @property
    def hop_samples(self) -> int:
        """Parts of a song must start at multiples of this."""

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `Effect`."""

    def to(self, device: torch.device | str) -> Self:
        """Move it."""


class InWindows:
    """Local effect on songs of any length, in overlapping windows; some stems may be left alone."""

    def __init__(self, local: LocalEffect, left_alone: Sequence[str] = ()) -> None:
        """Wrap an effect.

        Args:
            local: the effect.
            left_alone: stems that pass to the bit, whatever the amount.
        """
        self.local = local
        self._active_S = torch.tensor([stem not in left_alone for stem in STEMS])

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `Effect`."""
        active_S = self._active_S.to(stems_SCT.device)
        out_SCT = self.local(stems_SCT, torch.where(active_S, amount_S, 0.0))
        return torch.where(active_S.view(-1, 1, 1), out_SCT, stems_SCT)

    def start(self, amount_S: Tensor, running: Running) -> "Stream":
        """See `Effect`.

        The song is cut into windows on the effect's grid, each computed with the context that the
        effect needs on both sides. Where memory does not suffice the windows are halved, then the
        CPU goes on, with a warning.
        """
        return _Windows(self, amount_S, running)

    def settings(self, amount_S: Tensor) -> Settings | None:  # noqa: ARG002
        """See `Effect`: there are none."""
        return None

    def to(self, device: torch.device | str) -> Self:
        """See `Effect`."""
        self.local = self.local.to(device)
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
    effect: Effect, blocks: Iterable[Tensor], amount_S: Tensor, running: Running
) -> Iterator[Tensor]:
    """Process a song that comes in blocks, in memory that does not grow with it.

    Args:
        effect: see `Running`.
        blocks: stems_SCT of any lengths, on the CPU; together the song.
        amount_S: see the module.
        running: how.

    Yields:
        stems_SCT on the CPU; together as long as the song.

    Raises:
        ConfigError: an amount is out of range.
    """
    stream = effect.start(check_amount(amount_S), running)
    for block_SCT in blocks:
        done_SCT = stream.step(block_SCT)
        if done_SCT.shape[-1]:
            yield done_SCT
    yield stream.finish()


class _Windows:
    """Song on its way through an effect in windows."""

    def __init__(self, effect: InWindows, amount_S: Tensor, running: Running) -> None:
        self._effect, self._amount_S, self._running = effect, amount_S, running
        self._hop = effect.local.hop_samples
        self._context = _to_grid(effect.local.context_samples, self._hop)
        self._window = _to_grid(running.window_samples, self._hop)
        self._device = torch.device(running.device)
        self._song = _Stretch()
        self._position = 0  # of the next output

    def step(self, block_SCT: Tensor) -> Tensor:
        """See `Stream`."""
        self._song.add(block_SCT)
        return self._computed(ends_here=False)

    def finish(self) -> Tensor:
        """See `Stream`."""
        return self._computed(ends_here=True)

    def _computed(self, *, ends_here: bool) -> Tensor:
        """Compute the windows whose context is there, or all to the end."""
        done = [torch.zeros(NUM_STEMS, NUM_CHANNELS, 0)]
        while self._position < self._song.end:
            needed = self._position + self._window + self._context
            if self._song.end < needed and not ends_here:
                break
            start = max(self._position - self._context, 0)
            part_SCT = self._song.part(start, needed)
            done_SCT = _apply_if_it_fits(self._effect, part_SCT, self._amount_S, self._device)
            if done_SCT is None:
                self._take_less()
                continue
            length = min(self._window, self._song.end - self._position)
            done.append(done_SCT[..., self._position - start :][..., :length])
            self._position += self._window
            self._song.forget(self._position - self._context)
        return torch.cat(done, dim=-1)

    def _take_less(self) -> None:
        """Halve the windows, or go on on the CPU."""
        if self._window > max(self._hop, self._context):
            self._window = _to_grid(self._window // 2, self._hop)
            seconds = self._window / self._running.sample_rate_hz
            note = f"memory was short: windows of {seconds:.1f} s from there on"
        else:
            # A copy: the effect itself stays where its owner has put it.
            self._effect = copy.deepcopy(self._effect).to("cpu")
            self._device = torch.device("cpu")
            note = "memory was short: the CPU went on"
        log.warning("%s", note)
        if self._running.notes is not None:
            self._running.notes.append(note)


def _apply_if_it_fits(
    effect: InWindows, part_SCT: Tensor, amount_S: Tensor, device: torch.device
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
    """Stretch of a song that comes in blocks: what is there and still needed."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []  # consecutive
        self._start = 0  # first sample that is held
        self.end = 0  # one behind the last sample that has come

    def add(self, block_SCT: Tensor) -> None:
        """Take the next block."""
        self._parts.append(block_SCT)
        self.end += block_SCT.shape[-1]

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
