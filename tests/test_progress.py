import io
import logging

import pytest

from mixprint.progress import Progress, progress

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
