"""Text of REAPER's projects: lines of words, and blocks of lines between `<` and `>`.

    <TRACK {6E2D...}
      NAME "lead vocal"
      VOLPAN 1 0 -1 -1 1
    >

A word that is empty, or has a space or a quotation mark in it, stands in double or single quotation
marks or in backticks, whichever the word does not contain.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mixprint.errors import DataError
from mixprint.schema import shortened

MAX_DEPTH = 32
MAX_LINES = 1_000_000
ROOT = "REAPER_PROJECT"
_WORD = re.compile(r"""\s*(?:"([^"]*)"?|'([^']*)'?|`([^`]*)`?|([^\s]+))""")
_BARE = re.compile(r"[A-Za-z0-9_.,:/{}()+=-]+")


@dataclass
class Line:
    """A line or a block.

    Attributes:
        name: its first word.
        words: the others.
        inner: the lines of a block; None for a plain line.
    """

    name: str
    words: list[str] = field(default_factory=list)
    inner: "list[Line] | None" = None

    def all(self, name: str) -> "list[Line]":
        """Return the lines and blocks of this name directly in this block."""
        return [each for each in self.inner or [] if each.name == name]

    def first(self, name: str) -> "Line | None":
        """Return the first line or block of this name directly in this block."""
        return next(iter(self.all(name)), None)

    def word(self, place: int, default: str = "") -> str:
        """Return a word by its place after the name."""
        return self.words[place] if place < len(self.words) else default


def parse(text: str, where: str) -> Line:
    """Read a project.

    Args:
        text: of the file.
        where: its name, for messages.

    Returns:
        the outermost block.

    Raises:
        DataError: it is no project, blocks do not match, or it is deeper or longer than any is.
    """
    root: Line | None = None
    open_blocks: list[Line] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        if number > MAX_LINES:
            raise DataError(f"{where}: expected at most {MAX_LINES} lines, found more")
        line = raw.strip()
        if not line:
            continue
        if root is None:
            if not line.startswith(f"<{ROOT}"):
                raise DataError(
                    f"{where}: expected a project of REAPER, which begins with <{ROOT}, found "
                    f"{shortened(line)}"
                )
        elif not open_blocks:
            raise DataError(f"{where}, line {number}: expected nothing after the project's end")
        if line == ">":
            open_blocks.pop()
            continue
        is_block = line.startswith("<")
        words = split(line[1:] if is_block else line)
        each = Line(words[0] if words else "", words[1:], [] if is_block else None)
        if root is None:
            root = each
        else:
            inner = open_blocks[-1].inner
            assert inner is not None
            inner.append(each)
        if is_block:
            open_blocks.append(each)
            if len(open_blocks) > MAX_DEPTH:
                raise DataError(f"{where}, line {number}: expected {MAX_DEPTH} levels, found more")
    if root is None:
        raise DataError(f"{where}: expected a project of REAPER, found an empty file")
    if open_blocks:
        raise DataError(
            f"{where}: expected > at the end of each block, found the file's end in "
            f"{shortened(open_blocks[-1].name)}"
        )
    return root


def split(line: str) -> list[str]:
    """Split a line into its words, without their quotation marks."""
    words = []
    for match in _WORD.finditer(line.rstrip()):
        assert match.lastindex is not None
        words.append(match[match.lastindex])
    return words


def written(root: Line) -> str:
    """Return the text of a block and all in it."""
    return "\n".join(_lines(root, "")) + "\n"


def _lines(line: Line, indent: str) -> Iterator[str]:
    text = " ".join([line.name, *map(quoted, line.words)])
    if line.inner is None:
        yield f"{indent}{text}"
        return
    yield f"{indent}<{text}"
    for each in line.inner:
        yield from _lines(each, f"{indent}  ")
    yield f"{indent}>"


def quoted(word: str) -> str:
    """Write a word so that it is read as one; `writable` says which words come back as they are."""
    word = writable(word)
    if _BARE.fullmatch(word):
        return word
    mark = next(mark for mark in "\"'`" if mark not in word)
    return f"{mark}{word}{mark}"


def writable(word: str) -> str:
    """Return a word as it can be written: on one line, and without all three quotation marks."""
    word = "".join(" " if each.isspace() else each for each in word)
    return word.replace("`", "'") if all(mark in word for mark in "\"'`") else word
