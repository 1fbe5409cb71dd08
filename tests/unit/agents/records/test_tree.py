from __future__ import annotations

import time

import pytest

from agents.errors import BadRecord
from agents.records.tree import ATTRIBUTES_MAX, DEPTH_MAX, parse_element

BOMB = (
    b'<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(
        b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % (98 + i, *([97 + i] * 8))
        for i in range(12)
    )
    + b"]><r>&m;</r>"
)


def test_names_lose_their_prefix_declared_or_not():
    root = parse_element(b'<x:a y:b="1"><z:c/></x:a>')
    assert (root.name, root.attributes, root.children[0].name) == ("a", {"b": "1"}, "c")


def test_own_text_is_what_is_not_in_children():
    root = parse_element(b"<a>1<b>2</b>3<c/>4<![CDATA[<5>]]>&amp;<!-- no --></a>")
    assert root.text == "134<5>&"
    assert [child.text for child in root.children] == ["2", ""]


def test_entity_bomb_is_refused_at_once():
    started = time.thread_time()
    with pytest.raises(BadRecord, match="document type"):
        parse_element(BOMB)
    # Of this thread's own processor time; expanded, it would be minutes.
    assert time.thread_time() - started < 5


def test_external_entity_is_refused():
    with pytest.raises(BadRecord, match="document type"):
        parse_element(b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>')


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"<a>&unknown;</a>", "undefined entity"),
        (b"<a><b></a>", "mismatched tag"),
        (b"<a>", "no element found"),
        (b"", "no element found"),
        (b"<a/><b/>", "junk after document element"),
        (b"<a>&#1;</a>", "reference to invalid character number"),
        (b"<a x='1' x='2'/>", "duplicate attribute"),
        (b"<a>\xff</a>", "byte 3 is not UTF-8"),
    ],
)
def test_broken_markup_has_its_reason(source, reason):
    with pytest.raises(BadRecord, match=reason):
        parse_element(source)


def test_depth_and_attributes_are_bounded():
    parse_element(b"<a>" * DEPTH_MAX + b"</a>" * DEPTH_MAX)
    with pytest.raises(BadRecord, match="nested deeper"):
        parse_element(b"<a>" * (DEPTH_MAX + 1) + b"</a>" * (DEPTH_MAX + 1))
    many = b" ".join(b"a%d='1'" % i for i in range(ATTRIBUTES_MAX + 1))
    with pytest.raises(BadRecord, match="attributes"):
        parse_element(b"<a " + many + b"/>")
