"""What a probe or a collector sends, cut into single elements (gracc.md 2.1): envelope, bare record, replication form.

Invariants: every byte that may be a record ends up in exactly one item, whole or marked as broken, so that one bad
record never takes its neighbors along; a payload that was cut off is refused as a whole, because `OK` would make the
probe delete records that never arrived.  Nothing is expanded, nothing is looked up; time is linear in the payload.
Tests: tests/unit/agents/records/test_payload.py, tests/property/test_records.py.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, final

from agents.errors import BadRecord, BadRequest
from agents.records.parse import RECORD_ROOTS
from agents.records.tree import parse_element

ENVELOPE: Final = "RecordEnvelope"
REPLICATION: Final = b"replication|"

_SPACE: Final = re.compile(rb"\s*")
_DECLARATION: Final = re.compile(
    rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*?\?>"""
)
_MARKUP: Final = re.compile(rb"<\?.*?\?>|<!--.*?-->", re.DOTALL)
_DOCTYPE: Final = re.compile(rb"<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
# Possessive, so that a tag without an end costs one pass and no memory.
_START: Final = re.compile(rb"""<([^\s<>/="'|!?]++)((?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>""")
_END_TAG: Final = re.compile(rb"</([^\s<>/]*)\s*>")
_ENVELOPE_END: Final = re.compile(rb"</(?:[^\s<>/:]+:)?RecordEnvelope\s*>\s*\Z")
_RECORD_START: Final = re.compile(
    rb"<(?:[^\s<>/:]+:)?(?:JobUsageRecord|UsageRecord|StorageElement|StorageElementRecord)[\s/>]"
)
_ENCODINGS: Final = frozenset({"iso-8859-1", "latin-1", "latin1", "iso-8859-15", "windows-1252"})
_WINDOWS_MAX: Final = 16
ITEMS_MAX: Final = 50_000
_SEARCH_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes looked through in vain for missing end tags, per payload: bounds the time that a hostile one can take."""


@final
class _Source:
    """The payload's bytes, and how much may still be searched in vain."""

    __slots__ = ("bytes", "search_bytes_left")

    def __init__(self, source: bytes) -> None:
        self.bytes = source
        self.search_bytes_left = _SEARCH_BYTES_MAX

    def spend(self, count: int) -> None:
        """Count bytes searched in vain."""
        self.search_bytes_left -= count
        if self.search_bytes_left < 0:
            raise BadRequest("error unmarshalling xml: too many elements without an end")


class Form(Enum):
    """How the payload was framed."""

    BARE = "bare"
    ENVELOPE = "envelope"
    REPLICATION = "replication"


@final
class Item:
    """One element of a payload: its local name and source; `problem` says why it cannot be one."""

    __slots__ = ("name", "problem", "source")

    def __init__(self, name: str, source: bytes, problem: str = "") -> None:
        self.name = name
        self.source = source
        self.problem = problem


@final
class Payload:
    """A payload taken apart."""

    __slots__ = ("form", "items")

    def __init__(self, form: Form, items: list[Item]) -> None:
        self.form = form
        self.items = items


def split_payload(payload: bytes) -> Payload:
    """Cut a payload into its elements; raise BadRequest when it is none of the known forms or was cut off."""
    source = _as_utf8(payload).rstrip()
    start = _after_space(source, 0)
    if source.startswith(REPLICATION, start):
        return Payload(Form.REPLICATION, _replication_items(source, start))
    start = _after_prolog(source, start)
    tag = _START.match(source, start)
    if tag is not None and _local(tag[1]) == ENVELOPE:
        return Payload(Form.ENVELOPE, _envelope_items(source, tag))
    if tag is None and _RECORD_START.match(source, start) is None:
        shown = source[:40].decode("utf-8", "replace")
        raise BadRequest(f"error unmarshalling xml: no record or envelope begins with {shown!r}")
    item, end = _element(_Source(source), start, len(source))
    rest = source[_after_prolog(source, end) :]
    if rest:
        item = Item(item.name, source[start:], item.problem or "text after the end of the record")
    if item.problem and b"</" + item.name.encode() not in source and item.name not in RECORD_ROOTS:
        raise BadRequest(f"error unmarshalling xml: {item.problem}")
    return Payload(Form.BARE, [item])


def _envelope_items(source: bytes, tag: re.Match[bytes]) -> list[Item]:
    if tag[2].endswith(b"/"):
        return []
    closing = _ENVELOPE_END.search(source, max(tag.end(), len(source) - 256))
    if closing is None:
        raise BadRequest("error unmarshalling xml: the envelope has no end")
    limit = closing.start()
    whole = _Source(source)
    items: list[Item] = []
    position = tag.end()
    while True:
        _bound(items)
        position = _after_prolog(source, position, limit)
        if position >= limit:
            return items
        if source[position : position + 1] != b"<":
            end = source.find(b"<", position, limit)
            end = limit if end < 0 else end
            items.append(Item("", source[position:end], "text between the records"))
        elif (stray := _END_TAG.match(source, position, limit)) is not None:
            end = stray.end()
            items.append(Item("", source[position:end], "an end tag without its start"))
        else:
            item, end = _element(whole, position, limit)
            items.append(item)
        position = end


def _replication_items(source: bytes, start: int) -> list[Item]:
    whole = _Source(source)
    items: list[Item] = []
    position = start
    while position < len(source):
        _bound(items)
        begin = position + len(REPLICATION)
        item, end = _replicated(whole, begin)
        items.append(item)
        position = _after_space(source, end)
        if position < len(source) and not source.startswith(REPLICATION, position):
            following = source.find(b"|" + REPLICATION, position)
            end = len(source) if following < 0 else following + 1
            items.append(Item("", source[position:end], "text between the replicated records"))
            position = end
    return items


def _replicated(whole: _Source, begin: int) -> tuple[Item, int]:
    """Return the record of `xml|rawxml|extraxml|` and where the next one starts."""
    source = whole.bytes
    following = source.find(b"|" + REPLICATION, begin)
    resume = len(source) if following < 0 else following + 1
    position = _after_prolog(source, begin)
    if source[position : position + 1] != b"<":
        return Item("", source[begin:resume], "no record in the replication form"), resume
    item, end = _element(whole, position, len(source))
    if item.problem:
        # Without its end the record could swallow the rest: go on where the next one says that it starts.
        return Item(item.name, source[position:resume], item.problem), resume
    end = _after_prolog(source, end)
    if source[end : end + 1] != b"|":
        problem = "text after the record" if end < len(source) else "cut off after the record"
        return Item(item.name, source[position : max(resume, end)], problem), max(resume, end)
    end += 1
    for _part in ("rawxml", "extraxml"):
        content = _after_prolog(source, end)
        if source[content : content + 1] == b"<":
            part, end = _element(whole, content, len(source))
            if part.problem:
                # The record itself is whole and counts; its other forms are not needed.
                return item, max(resume, content)
            end = _after_prolog(source, end)
        bar = source.find(b"|", end)
        if bar < 0:
            return Item(item.name, item.source, "the replication form was cut off"), len(source)
        end = bar + 1
    return item, end


def _bound(items: list[Item]) -> None:
    if len(items) >= ITEMS_MAX:
        raise BadRequest(f"more than {ITEMS_MAX} elements in one payload")


def _element(whole: _Source, start: int, limit: int) -> tuple[Item, int]:
    """Return the element that starts at `start` and its end; without an end of its own, a broken item."""
    source = whole.bytes
    tag = _START.match(source, start, limit)
    if tag is None:
        end = _next_record(source, start + 1, limit)
        return Item("", source[start:end], "not well-formed XML: a tag is broken"), end
    name = _local(tag[1])
    if tag[2].endswith(b"/"):
        return Item(name, source[start : tag.end()]), tag.end()
    closing = re.compile(rb"</" + re.escape(tag[1]) + rb"\s*>")
    again = re.compile(rb"<" + re.escape(tag[1]) + rb"[\s/>]|<!|<\?")
    position = tag.end()
    for attempt in range(_WINDOWS_MAX):
        match = closing.search(source, position, limit)
        if match is None:
            whole.spend(limit - position)
            break
        # Text cannot contain "<", so the first end tag is the right one, unless it stands in a comment or a CDATA
        # section or belongs to an element of the same name inside.
        is_certain = attempt == 0 and again.search(source, tag.end(), match.start()) is None
        if is_certain or _is_well_formed(source[start : match.end()]):
            return Item(name, source[start : match.end()]), match.end()
        whole.spend(match.end() - start)
        position = match.end()
    first = closing.search(source, tag.end(), limit)
    end = _next_record(source, tag.end(), limit)
    if first is not None and first.end() < end:
        end = first.end()
    problem = f"not well-formed XML: {name} does not end where it should"
    return Item(name, source[start:end], problem), end


def _is_well_formed(source: bytes) -> bool:
    try:
        parse_element(source)
    except BadRecord:
        return False
    return True


def _next_record(source: bytes, position: int, limit: int) -> int:
    match = _RECORD_START.search(source, position, limit)
    return limit if match is None else match.start()


def _after_space(source: bytes, position: int) -> int:
    match = _SPACE.match(source, position)
    return position if match is None else match.end()


def _after_prolog(source: bytes, position: int, limit: int | None = None) -> int:
    """Return the position after white space, comments, declarations and document types (never looked into)."""
    end = len(source) if limit is None else limit
    while True:
        match = _SPACE.match(source, position, end)
        position = position if match is None else match.end()
        match = _MARKUP.match(source, position, end) or _DOCTYPE.match(source, position, end)
        if match is None:
            return position
        position = match.end()


def _local(name: bytes) -> str:
    return name.rpartition(b":")[2].decode("utf-8", "replace")


def _as_utf8(payload: bytes) -> bytes:
    """Return the payload in UTF-8 if it declares one of the usual other encodings; else as it is."""
    payload = payload.removeprefix(b"\xef\xbb\xbf")
    match = _DECLARATION.match(payload, _after_space(payload, 0))
    if match is None:
        return payload
    encoding = match[1].decode("ascii").lower()
    if encoding not in _ENCODINGS:
        return payload
    return payload[match.end() :].decode(encoding, "replace").encode()
