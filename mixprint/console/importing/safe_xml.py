"""XML of unknown origin: read without document types, and within limits.

A document type could define entities of entities, which a small file uses to fill any memory, or
name other files. So none is read at all.
"""

from collections.abc import Container
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from mixprint.errors import DataError
from mixprint.schema import shortened

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ELEMENTS = 100_000


class _RefusedError(ValueError):
    """Something that is not read."""


def parse_xml(content: bytes, where: str, *, counted: Container[str] = ()) -> Element:
    """Parse XML.

    Args:
        content: of the file.
        where: its name, for messages.
        counted: elements whose content may be huge and is not looked at: they are kept without it,
            and their attribute `descendants` lists the tags inside, each once, with spaces between.

    Returns:
        the root element.

    Raises:
        DataError: it is no XML, has a document type, or is larger or deeper than `MAX_BYTES`,
            `MAX_ELEMENTS` and `MAX_DEPTH` say.
    """
    if len(content) > MAX_BYTES:
        raise DataError(f"{where}: expected XML of at most {MAX_BYTES} bytes, found more")
    handler = _Handler(counted)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = handler.start
    parser.EndElementHandler = handler.end
    parser.StartDoctypeDeclHandler = handler.document_type
    try:
        parser.Parse(content, True)
        return handler.builder.close()
    # An encoding that Python does not know is a LookupError.
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{where}: expected XML, found: {error}") from error


class _Handler:
    """Builder of elements, which gives up where a limit is passed."""

    def __init__(self, counted: Container[str]) -> None:
        self.builder = TreeBuilder()
        self._counted = counted
        self._depth = self._num_elements = 0
        # Depth of the element whose content is left out, and the tags in it.
        self._hidden_below: int | None = None
        self._hidden: Element | None = None
        self._tags: dict[str, None] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"more than {MAX_DEPTH} levels of nesting")
        if self._hidden_below is not None:
            if len(self._tags) < MAX_DEPTH:
                self._tags[tag] = None
            return
        self._num_elements += 1
        if self._num_elements > MAX_ELEMENTS:
            raise _RefusedError(f"more than {MAX_ELEMENTS} elements")
        element = self.builder.start(tag, attributes)
        if tag in self._counted:
            self._hidden_below, self._hidden, self._tags = self._depth, element, {}

    def end(self, tag: str) -> None:
        if self._hidden_below is not None:
            if self._depth > self._hidden_below:
                self._depth -= 1
                return
            assert self._hidden is not None
            self._hidden.set("descendants", " ".join(self._tags))
            self._hidden_below = None
        self._depth -= 1
        self.builder.end(tag)

    def document_type(self, name: str, *_: object) -> None:
        raise _RefusedError(f"a document type {shortened(name)}, which may define entities")
