import io
import logging
import os

import pytest

from mixprint import log as mixprint_log
from mixprint.text import printable, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("Björk – Jóga  (日本語) \N{NO-BREAK SPACE}", "Björk – Jóga  (日本語) \N{NO-BREAK SPACE}"),
        ("👩‍🎤 Beyoncé", "👩‍🎤 Beyoncé"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x9b31m", r"\x9b31m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x08", r"a\rb\x08"),
        ("two\nlines", r"two\nlines"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        (os.fsdecode(b"caf\xe9.wav"), r"caf\udce9.wav"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    printable(text).encode("utf-8")


def test_a_byte_of_a_path_that_is_no_text_reads_as_that_byte() -> None:
    assert shown(os.fsdecode(b"caf\xe9\n.wav")) == r"caf\xe9\n.wav"


def test_lines_stay_where_they_are_wanted() -> None:
    assert printable("two\n\tlines\x1b", keep="\n\t") == "two\n\tlines\\x1b"


def test_log_lines_hold_no_escape_sequences_and_no_half_characters() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(mixprint_log._PlainFormatter("%(message)s"))
    record = logging.LogRecord("a", 20, "", 0, "song %s", ("\x1b[2J\udce9",), None)
    handler.handle(record)
    assert stream.getvalue() == "song \\x1b[2J\\udce9\n"
