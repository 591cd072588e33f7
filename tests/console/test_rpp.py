"""Text of REAPER's projects: read, written, and refused where it is none."""

import pytest

from mixprint.console.rpp import MAX_DEPTH, Line, parse, quoted, split, writable, written
from mixprint.errors import DataError


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("NAME drums", ["NAME", "drums"]),
        ('NAME "lead vocal"', ["NAME", "lead vocal"]),
        ("NAME 'the \"big\" one'", ["NAME", 'the "big" one']),
        ('NAME `it\'s "it"`', ["NAME", 'it\'s "it"']),
        ('JS a "" -1', ["JS", "a", "", "-1"]),
        ('FILE "not closed', ["FILE", "not closed"]),
        ("  AUXRECV\t0 1  -1:U ''  ", ["AUXRECV", "0", "1", "-1:U", ""]),
    ],
)
def test_a_line_is_split_into_words(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize(
    "word", ["", "plain", "lead vocal", 'a "b"', "it's", 'it\'s "it"', "Gesang ü", "<", ">", "|x"]
)
def test_a_word_comes_back_as_it_was(word: str) -> None:
    assert split(f"NAME {quoted(word)}") == ["NAME", word]
    assert writable(word) == word


def test_what_cannot_be_written_is_changed_as_little_as_possible() -> None:
    assert writable("a\nb") == "a b"
    assert split(f"NAME {quoted('`')}") == ["NAME", "`"]
    assert split("NAME " + quoted("\"'`")) == ["NAME", "\"''"]


def test_a_project_comes_back_as_it_was() -> None:
    track = Line("TRACK", ["{1}"], [Line("NAME", ["a b"]), Line("FXCHAIN", [], [])])
    root = Line("REAPER_PROJECT", ["0.1"], [Line("TEMPO", ["120"]), track])
    text = written(root)
    assert parse(text, "x") == root
    assert parse(text.replace("\n", "\r\n"), "x") == root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ("\x00\x01\x02", "begins with <REAPER_PROJECT"),
        ("<TRACK\n>\n", "begins with <REAPER_PROJECT"),
        ("<REAPER_PROJECT 0.1\n  <TRACK\n  >\n", "found the file's end in 'REAPER_PROJECT'"),
        ("<REAPER_PROJECT 0.1\n>\n>\n", "line 3: expected nothing after the project's end"),
        ("<REAPER_PROJECT 0.1\n" + "<A\n" * 100_000, f"expected {MAX_DEPTH} levels, found more"),
    ],
)
def test_what_is_no_project_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^x.*{message}"):
        parse(text, "x.rpp")


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixprint.console.rpp.MAX_LINES", 100)
    with pytest.raises(DataError, match=r"^x\.rpp: expected at most 100 lines, found more"):
        parse("<REAPER_PROJECT\n" + "A\n" * 100, "x.rpp")
