"""One XML element as a small tree, by expat without namespaces.

Invariants: names lose their prefix, declared or not (replayed records come without their declarations); a document
type is refused before any entity could be expanded, undefined entities are errors, depth is bounded.  The caller
bounds the size.  Tests: tests/unit/agents/records/test_tree.py.
"""

from __future__ import annotations

from typing import Final, final
from xml.parsers import expat

from agents.errors import BadRecord

DEPTH_MAX: Final = 32
ATTRIBUTES_MAX: Final = 64
_NAMES_MAX: Final = 4_096
_LOCAL_NAMES: Final[dict[str, str]] = {}
"""Names without their prefix, remembered: records use the same hundred again and again."""


@final
class Element:
    """An element: its local name, attributes by local name, own text (not its children's), children."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.text = ""
        self.children: list[Element] = []


def parse_element(source: bytes) -> Element:
    """Return the one element that `source` (UTF-8) consists of; raise BadRecord with the reason."""
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    top = Element("", {})
    stack = [top]
    # Text goes into one list by a C method; an element's end takes what came since its start and was not taken by
    # its children: its own text.
    texts: list[str] = []
    marks: list[int] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > DEPTH_MAX:
            raise BadRecord(f"elements nested deeper than {DEPTH_MAX}")
        if attributes:
            if len(attributes) > ATTRIBUTES_MAX:
                raise BadRecord(f"more than {ATTRIBUTES_MAX} attributes")
            attributes = {
                _LOCAL_NAMES.get(key) or _local(key): value for key, value in attributes.items()
            }
        element = Element(_LOCAL_NAMES.get(name) or _local(name), attributes)
        stack[-1].children.append(element)
        stack.append(element)
        marks.append(len(texts))

    def end(name: str) -> None:
        element = stack.pop()
        mark = marks.pop()
        count = len(texts) - mark
        if count == 1:
            element.text = texts.pop()
        elif count:
            element.text = "".join(texts[mark:])
            del texts[mark:]

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(source, True)
    except expat.ExpatError as error:
        raise BadRecord(f"not well-formed XML: {_reason(error, source)}") from error
    return top.children[0]


def _local(name: str) -> str:
    local = name.rpartition(":")[2] or name
    if len(_LOCAL_NAMES) < _NAMES_MAX:
        _LOCAL_NAMES[name] = local
    return local


def _refuse_doctype(
    name: str, system_id: str | None, public_id: str | None, has_subset: bool
) -> None:
    raise BadRecord("a document type declaration is not allowed in a record")


def _reason(error: expat.ExpatError, source: bytes) -> str:
    try:
        source.decode()
    except UnicodeDecodeError as problem:
        return f"byte {problem.start} is not UTF-8"
    return f"{expat.ErrorString(error.code)} (line {error.lineno}, column {error.offset + 1})"
