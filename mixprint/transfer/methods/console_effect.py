"""Settings of a console as the effect of a transfer.

Shape suffixes: S stem, C channel, T sample.
"""

from typing import Self

import torch
from torch import Tensor

from mixprint.console.rendering import Renderer, render
from mixprint.console.settings import Settings
from mixprint.stems import NUM_CHANNELS, NUM_STEMS
from mixprint.transfer.effect import Running, Stream, check_amount


class ConsoleEffect:
    """Console whose tracks are the stems; it computes exactly, on the CPU."""

    def __init__(self, found: Settings, sample_rate_hz: int) -> None:
        """Take what was found.

        Args:
            found: settings of tracks that are called as the stems, in their order.
            sample_rate_hz: of all audio that it will process.
        """
        self._found, self._sample_rate_hz = found, sample_rate_hz

    def settings(self, amount_S: Tensor) -> Settings:
        """See `Effect`.

        The master acts on all stems alike: it is done as much as the stem that is changed the
        least, and so not at all where a stem is left as it is.
        """
        amounts = check_amount(amount_S).tolist()
        tracks = {
            name: strip.scaled(amount)
            for (name, strip), amount in zip(self._found.tracks.items(), amounts, strict=True)
        }
        return Settings(
            tracks,
            self._found.master.scaled(min(amounts)),
            self._found.sample_rate_hz,
            self._found.rooms,
        )

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `Effect`."""
        made_SCT = render(stems_SCT.cpu(), self.settings(amount_S), self._sample_rate_hz)
        return made_SCT.to(stems_SCT)

    def start(self, amount_S: Tensor, running: Running) -> Stream:
        """See `Effect`."""
        return _Rendered(Renderer(self.settings(amount_S), self._sample_rate_hz), running)

    def to(self, device: torch.device | str) -> Self:  # noqa: ARG002
        """See `Effect`: it stays on the CPU."""
        return self


class _Rendered:
    """Song on its way through a console.

    Short blocks are gathered: each costs the echoes of a whole room.
    """

    def __init__(self, renderer: Renderer, running: Running) -> None:
        self._renderer, self._window = renderer, running.window_samples
        self._held: list[Tensor] = []
        self._num_held = 0

    def step(self, block_SCT: Tensor) -> Tensor:
        """See `Stream`."""
        self._held.append(block_SCT)
        self._num_held += block_SCT.shape[-1]
        return self._computed() if self._num_held >= self._window else _joined([])

    def finish(self) -> Tensor:
        """See `Stream`."""
        return _joined([self._computed(), *self._renderer.finish()])

    def _computed(self) -> Tensor:
        held_SCT = _joined(self._held)
        parts = held_SCT.split(self._window, dim=-1) if self._num_held else ()
        self._held, self._num_held = [], 0
        return _joined([done for part_SCT in parts for done in self._renderer.add(part_SCT)])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(NUM_STEMS, NUM_CHANNELS, 0), *(p.float() for p in parts)], dim=-1)
