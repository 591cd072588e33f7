"""Progress of long work: log lines with counts and the time left, a bar where a terminal is."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Self, TextIO, TypeVar

BAR_CELLS = 24
LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.2

Item = TypeVar("Item")


class Progress:
    """Counts finished units of work: a bar on a terminal, else a line every few seconds.

    ``with Progress(log, "separated", total=12, unit="tracks") as shown: ... shown.advance()``
    logs ``separated 3/12 tracks, 31 s, about 93 s left``.
    """

    def __init__(
        self,
        log: logging.Logger,
        verb: str,
        *,
        total: int,
        unit: str,
        every_s: float = LINE_EVERY_S,
        terminal: TextIO | None = None,
    ) -> None:
        """Start the clock.

        Args:
            log: receives the lines, at level INFO.
            verb: what is done to a unit, in the past tense.
            total: how many units there are.
            unit: their name, in the plural.
            every_s: least time between two lines; the last one always appears.
            terminal: where a bar may be drawn, if it is a terminal; standard error by default.
        """
        self._log, self._verb, self._total, self._unit = log, verb, total, unit
        self._stream = terminal or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._every_s = BAR_EVERY_S if self._is_terminal else every_s
        self._start_s = self._reported_s = time.monotonic()
        self.done = 0

    def __enter__(self) -> Self:
        """Use it as a context, so that the last line is there even after an error."""
        return self

    def __exit__(self, *_: object) -> None:
        """Replace the bar by a line of the log, which also says where an error stopped it."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._log.info(self.describe(time.monotonic() - self._start_s))

    def advance(self, units: int = 1) -> None:
        """Count units as done, and show it when it is time."""
        self.done += units
        now_s = time.monotonic()
        if now_s - self._reported_s < self._every_s or self.done >= self._total:
            return
        self._reported_s = now_s
        text = self.describe(now_s - self._start_s)
        if self._is_terminal:
            filled = BAR_CELLS * self.done // self._total
            bar = "#" * filled + "." * (BAR_CELLS - filled)
            self._stream.write(f"\r\x1b[K[{bar}] {text}")
            self._stream.flush()
        else:
            self._log.info(text)

    def describe(self, elapsed_s: float) -> str:
        """Say how far the work is; the time left assumes that all units take equally long."""
        text = f"{self._verb} {self.done}/{self._total} {self._unit}, {elapsed_s:.0f} s"
        if 0 < self.done < self._total:
            left_s = elapsed_s * (self._total - self.done) / self.done
            text += f", about {left_s:.0f} s left"
        return text


def progress(
    items: Iterable[Item], total: int, verb: str, unit: str, log: logging.Logger
) -> Iterator[Item]:
    """Pass items on, and count each as done when the next one is asked for.

    The arguments are those of `Progress`.
    """
    with Progress(log, verb, total=total, unit=unit) as shown:
        for item in items:
            yield item
            shown.advance()
