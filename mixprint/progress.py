"""Progress of long work: log lines with counts and the time left, a bar where a terminal is.

The bar is the last line of the terminal: that of the innermost work, behind the counts of all work
around it, for example `trained 1/20 epochs | took 31/80 steps, 12 s`. What else is known of that
other work stands there, too, if there is room. Whatever else is printed
meanwhile takes its place, and the bar comes back below: log lines (`mixprint.log`) and results
(`echo`) go through `bar_cleared`.
"""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar, Self, TextIO, TypeVar

from mixprint.errors import DataError
from mixprint.text import printable

BAR_CELLS = 24
LEAST_CELLS = 4
# Of a terminal that does not tell its width.
DEFAULT_COLUMNS = 80
CLEAR_LINE = "\r\x1b[K"
LINE_EVERY_S = 5.0
# The longer a work lasts, the rarer are its lines: each time as much more, up to a minute.
LINE_GROWTH, RAREST_LINE_S = 0.05, 60.0
BAR_EVERY_S = 0.2

Item = TypeVar("Item")


class Progress:
    """Counts finished units of work: a bar on a terminal, else a line every few seconds.

    ``with Progress(log, "separated", total=12, unit="tracks") as shown: ... shown.advance()``
    logs ``separated 3/12 tracks, 31 s, about 93 s left``.
    """

    # Work that is under way on a terminal, the innermost last.
    _bars: ClassVar[list["Progress"]] = []
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(
        self,
        log: logging.Logger,
        verb: str,
        *,
        total: int | None,
        unit: str,
        every_s: float = LINE_EVERY_S,
        terminal: TextIO | None = None,
        has_lines: bool = True,
    ) -> None:
        """Start the clock.

        Args:
            log: receives the lines, at level INFO.
            verb: what is done to a unit, in the past tense.
            total: how many units there are; None: nobody knows.
            unit: their name, in the plural.
            every_s: least time between two lines; the last one always appears.
            terminal: where a bar may be drawn, if it is a terminal; standard error by default.
            has_lines: whether it has lines in the log; the bar has it in any case.
        """
        self._log, self._verb, self._total, self._unit = log, verb, total, unit
        self._stream = terminal or sys.stderr
        self._is_terminal = is_terminal(self._stream)
        self._every_s, self._has_lines = every_s, has_lines
        self._is_shown = False
        self._start_s = self._reported_s = time.monotonic()
        self.done, self.note = 0, ""

    def __enter__(self) -> Self:
        """Use it as a context, so that the last line is there even after an error."""
        if self._is_terminal:
            with self._lock:
                self._bars.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Replace the bar by a line of the log, which also says where an error stopped it."""
        with self._lock:
            if self in self._bars:
                if self._is_shown:
                    self._write(CLEAR_LINE)
                self._bars.remove(self)
        if self._has_lines:
            self._log.info(self.describe(time.monotonic() - self._start_s))

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count units as done, and show it when it is time.

        Args:
            units: how many.
            note: what else is known by now, for example a mean; it stays until the next one.
        """
        self.done += units
        self.note = note or self.note
        now_s = time.monotonic()
        is_done = self._total is not None and self.done >= self._total
        if now_s - self._reported_s < self._least_gap_s(now_s - self._start_s) or is_done:
            return
        self._reported_s = now_s
        if self._is_terminal:
            with self._lock:
                for bar in self._bars:
                    bar._is_shown = True
                if self._bars:
                    self._bars[-1].draw()
        elif self._has_lines:
            self._log.info(self.describe(now_s - self._start_s))

    def _least_gap_s(self, elapsed_s: float) -> float:
        """Return the least time between two reports."""
        if self._is_terminal:
            return BAR_EVERY_S
        return min(max(self._every_s, LINE_GROWTH * elapsed_s), RAREST_LINE_S)

    def draw(self) -> None:
        """Draw the bar in place of the terminal's last line, no wider than the terminal."""
        around = [bar for bar in self._bars if bar is not self]
        own = self.describe(time.monotonic() - self._start_s)
        # The last column stays free: some terminals go on to the next line behind it.
        room = _num_columns(self._stream) - 1
        text = " | ".join([*(bar._counts(bar.note) for bar in around), own])
        if len(text) > room:
            text = " | ".join([*(bar._counts() for bar in around), own])
        cells = min(BAR_CELLS, room - len(text) - len("[] "))
        if cells >= LEAST_CELLS and self._total:
            filled = cells * self.done // self._total
            text = f"[{'#' * filled}{'.' * (cells - filled)}] {text}"
        self._write(f"{CLEAR_LINE}{text[: max(room, 0)]}")

    def describe(self, elapsed_s: float) -> str:
        """Say how far the work is; the time left assumes that all units take equally long."""
        text = f"{self._verb} {self._fraction()} {self._unit}, {elapsed_s:.0f} s"
        if self._total is not None and 0 < self.done < self._total:
            left_s = elapsed_s * (self._total - self.done) / self.done
            text += f", about {left_s:.0f} s left"
        return f"{text}, {self.note}" if self.note else text

    def _counts(self, note: str = "") -> str:
        """Say how far the work is, beside that of work inside it."""
        text = f"{self._verb} {self._fraction()} {self._unit}"
        return f"{text}, {note}" if note else text

    def _fraction(self) -> str:
        return f"{self.done}" if self._total is None else f"{self.done}/{self._total}"

    def _write(self, text: str) -> None:
        # A terminal that is gone ends no work.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    @classmethod
    @contextmanager
    def bar_cleared(cls) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed."""
        with cls._lock:
            shown = [bar for bar in cls._bars if bar._is_shown]
            if not shown:
                yield
                return
            bar = shown[-1]
            bar._write(CLEAR_LINE)
            try:
                yield
            finally:
                bar.draw()


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


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, the bar out of its way.

    A pipe whose reader has gone (`| head -1`) ends no work: what it would get is left out from
    then on. Characters that the stream cannot encode, or a terminal would obey, are escaped.

    Args:
        text: the line.
        err: it goes to standard error instead of standard output.

    Raises:
        DataError: standard output cannot be written, for example because the disk is full.
    """
    stream = sys.stderr if err else sys.stdout
    # Closed by the shell (`>&-`).
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    # CSV ends its lines with both; alone, a return would write over a line.
    plain = "\r\n".join(printable(line, keep="\n\t") for line in text.split("\r\n"))
    line = plain.encode(encoding, "backslashreplace").decode(encoding)
    with Progress.bar_cleared():
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except OSError as error:
            discard(stream)
            if not err and not isinstance(error, BrokenPipeError):
                raise DataError(
                    f"standard output: expected to write the result there, found: {error.strerror}"
                ) from error


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a bar can be drawn there."""
    return stream is not None and not stream.closed and stream.isatty()


def _num_columns(stream: TextIO) -> int:
    """Ask a terminal for its width, which may change at any time."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, io.UnsupportedOperation):
        return DEFAULT_COLUMNS


def discard(stream: TextIO) -> None:
    """Let what is still written there go nowhere: Python's own last flush would fail again."""
    with suppress(OSError, io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())
