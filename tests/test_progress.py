import fcntl
import io
import logging
import os
import re
import select
import struct
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from mixprint.errors import DataError
from mixprint.log import setup_logging
from mixprint.progress import Progress, echo, progress

log = logging.getLogger("mixprint.test")


def test_items_pass_and_the_last_line_has_the_count(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress("abc", 3, "read", "letters", log)) == ["a", "b", "c"]
    assert caplog.messages == ["read 3/3 letters, 0 s"]


def test_time_left_is_in_proportion() -> None:
    shown = Progress(log, "read", total=12, unit="songs")
    shown.advance(3)
    assert shown.describe(31.0) == "read 3/12 songs, 31 s, about 93 s left"


def test_lines_without_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        Progress(log, "read", total=2, unit="songs", every_s=0.0, terminal=io.StringIO()) as shown,
    ):
        shown.advance()
        shown.advance()
    assert len(caplog.messages) == 2


def test_bar_on_a_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("mixprint.progress.BAR_EVERY_S", 0.0)
    terminal = Terminal()
    with (
        caplog.at_level(logging.INFO),
        Progress(log, "read", total=2, unit="songs", terminal=terminal) as shown,
    ):
        shown.advance()
        shown.advance()
    assert "[############............] read 1/2 songs" in terminal.getvalue()
    assert caplog.messages == ["read 2/2 songs, 0 s"]


class Terminal:
    """A terminal of so many columns, and what is seen on it."""

    def __init__(self, num_columns: int) -> None:
        self._read, write = os.openpty()
        self.resize(num_columns)
        tty.setraw(write)
        self.stream = os.fdopen(write, "w", encoding="utf-8")

    def resize(self, num_columns: int) -> None:
        self.num_columns = num_columns
        fcntl.ioctl(self._read, termios.TIOCSWINSZ, struct.pack("HHHH", 24, num_columns, 0, 0))

    def close(self) -> None:
        self.stream.close()
        os.close(self._read)

    def rows(self) -> list[str]:
        """Read what was written, and lay it out as a terminal does."""
        self.stream.flush()
        text = ""
        while select.select([self._read], [], [], 0.05)[0]:
            text += os.read(self._read, 1 << 16).decode()
        rows, column = [""], 0
        for part in re.findall(r"\x1b\[K|[\s\S]", text):
            if part == "\x1b[K":
                rows[-1] = rows[-1][:column]
            elif part == "\r":
                column = 0
            elif part == "\n":
                rows.append("")
                column = 0
            else:
                if column == self.num_columns:
                    rows.append("")
                    column = 0
                rows[-1] = rows[-1][:column] + part + rows[-1][column + 1 :]
                column += 1
        return rows


@contextmanager
def on_terminal(num_columns: int = 80) -> Iterator[Terminal]:
    """Be the terminal of standard output and standard error, and of the log."""
    terminal = Terminal(num_columns)
    root = logging.getLogger("mixprint")
    level, propagate = root.level, root.propagate
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(terminal.stream),
        redirect_stderr(terminal.stream),
    ):
        patch.setattr("mixprint.progress.BAR_EVERY_S", 0.0)
        patch.setattr("mixprint.progress.time", SimpleNamespace(monotonic=lambda: 0.0))
        patch.setattr(root, "handlers", [])
        setup_logging()
        try:
            yield terminal
        finally:
            root.setLevel(level)
            root.propagate = propagate
    terminal.close()


@pytest.mark.parametrize("num_columns", [200, 105, 104, 89, 85, 84, 74, 40, 12, 1])
def test_a_bar_is_one_row_on_a_terminal_of_any_width(num_columns: int) -> None:
    text = "separated 20/1000 seconds of all the audio that there is, 0 s, about 0 s left"
    with on_terminal(num_columns) as terminal:
        shown = Progress(
            log, "separated", total=1000, unit="seconds of all the audio that there is"
        )
        with shown:
            for _ in range(20):
                shown.advance()
            (row,) = terminal.rows()
    # 24 cells or as many as there is room for, but 4 at least; the last column stays free.
    num_cells = {200: 24, 105: 24, 104: 23, 89: 8, 85: 4}.get(num_columns)
    assert row == (f"[{num_cells * '.'}] {text}" if num_cells else text[: num_columns - 1])


def test_a_bar_follows_the_width_of_its_terminal() -> None:
    widths = []
    with on_terminal() as terminal, Progress(log, "read", total=10, unit="songs") as shown:
        for num_columns in (80, 50, 20, 80):
            terminal.resize(num_columns)
            shown.advance()
            widths.append(len(terminal.rows()[-1]))
    assert widths == [len(f"[{24 * '.'}] read 4/10 songs, 0 s, about 0 s left"), 49, 19, widths[0]]


def test_log_lines_and_results_have_rows_of_their_own_above_the_bar() -> None:
    with on_terminal() as terminal:
        with Progress(log, "read", total=4, unit="songs") as outer:
            outer.advance()
            echo("stems/a")
            log.warning("b is odd")
            with Progress(log, "heard", total=9, unit="s") as inner:
                inner.advance()
                echo("failed: c", err=True)
            outer.advance()
            seen = terminal.rows()
        last = terminal.rows()
    assert seen[0] == "stems/a"
    assert seen[1].endswith(" W mixprint.test: b is odd")
    assert seen[2] == "failed: c"
    assert " I mixprint.test: heard 1/9 s, 0 s" in seen[3]
    assert seen[4:] == ["[############............] read 2/4 songs, 0 s, about 0 s left"]
    assert len(last) == 2
    assert " I mixprint.test: read 2/4 songs, 0 s" in last[0]


def test_a_bar_has_the_counts_of_the_work_around_it() -> None:
    with (
        on_terminal(100) as terminal,
        Progress(log, "trained", total=None, unit="epochs", has_lines=False) as outer,
    ):
        outer.advance(2, note="loss 0.5")
        with Progress(log, "took", total=4, unit="steps") as inner:
            inner.advance(note="loss 0.25")
            (row,) = terminal.rows()
            log.info("a line")
            assert terminal.rows()[-1] == row
        last = terminal.rows()
    text = "trained 2 epochs, loss 0.5 | took 1/4 steps, 0 s, about 0 s left, loss 0.25"
    assert row == f"[{5 * '#'}{16 * '.'}] {text}"
    assert last[-1] == "trained 2 epochs, 0 s, loss 0.5"


def test_on_a_narrow_terminal_the_inner_work_keeps_its_note() -> None:
    with (
        on_terminal(72) as terminal,
        Progress(log, "trained", total=None, unit="epochs", has_lines=False) as outer,
    ):
        outer.advance(2, note="loss 0.5")
        with Progress(log, "took", total=4, unit="steps") as inner:
            inner.advance(note="loss 0.25")
            (row,) = terminal.rows()
    assert row == "trained 2 epochs | took 1/4 steps, 0 s, about 0 s left, loss 0.25"


def test_lines_of_long_work_are_rare(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(10_000))
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("mixprint.progress.time", clock)
    with (
        caplog.at_level(logging.INFO),
        Progress(log, "took", total=None, unit="steps", terminal=io.StringIO()) as shown,
    ):
        for _ in range(3600):
            shown.advance()
    # After a minute every 5 s, later every minute.
    assert len(caplog.messages) == pytest.approx(90, abs=20)
    gaps = [int(re.findall(r"took (\d+)", text)[0]) for text in caplog.messages]
    assert gaps[1] - gaps[0] == 5
    assert gaps[-2] - gaps[-3] == 60


@pytest.mark.parametrize("err", [False, True])
def test_a_reader_that_has_gone_ends_no_work(monkeypatch: pytest.MonkeyPatch, err: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr" if err else "stdout", stream)
        for _ in range(3):
            echo("stems/a", err=err)


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(DataError, match=r"standard output: .*No space left on device"):
            echo("{}")


def test_what_a_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    echo("stems/Café \udce9")
    assert raw.getvalue() == b"stems/Caf\\xe9 \\udce9\n"


def test_closed_streams_end_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    echo("stems/a")
    echo("failed", err=True)
    with Progress(log, "read", total=2, unit="songs", every_s=0.0) as shown:
        shown.advance()
    assert shown.done == 1
