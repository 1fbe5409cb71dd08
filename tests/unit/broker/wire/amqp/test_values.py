"""Field tables and basic properties, byte for byte."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from broker.errors import ProtocolViolation
from broker.wire.amqp import values
from broker.wire.properties import Properties

FIELDS: list[tuple[bytes, Any, bytes]] = [
    (b"t\x01", True, b"t\x01"),
    (b"t\x00", False, b"t\x00"),
    (b"b\xff", -1, b"I\xff\xff\xff\xff"),
    (b"B\xff", 255, b"I\x00\x00\x00\xff"),
    (b"s\xff\xfe", -2, b"I\xff\xff\xff\xfe"),
    (b"u\xff\xfe", 65534, b"I\x00\x00\xff\xfe"),
    (b"I\xff\xff\xff\xff", -1, b"I\xff\xff\xff\xff"),
    (b"i\xff\xff\xff\xff", 4294967295, b"l\x00\x00\x00\x00\xff\xff\xff\xff"),
    (b"l\x00\x00\x00\x00\x00\x00\x00\x05", 5, b"l\x00\x00\x00\x00\x00\x00\x00\x05"),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xff", -1, b"l\xff\xff\xff\xff\xff\xff\xff\xff"),
    (b"f\x3f\x80\x00\x00", 1.0, b"d\x3f\xf0\x00\x00\x00\x00\x00\x00"),
    (b"d\x3f\xf0\x00\x00\x00\x00\x00\x00", 1.0, b"d\x3f\xf0\x00\x00\x00\x00\x00\x00"),
    (b"D\x02\x00\x00\x01\x3b", Decimal("3.15"), b"D\x02\x00\x00\x01\x3b"),
    (b"D\x01\xff\xff\xff\xff", Decimal("-0.1"), b"D\x01\xff\xff\xff\xff"),
    (b"S\x00\x00\x00\x02hi", "hi", b"S\x00\x00\x00\x02hi"),
    (b"S\x00\x00\x00\x01\xff", b"\xff", b"S\x00\x00\x00\x01\xff"),
    (b"x\x00\x00\x00\x01\xff", b"\xff", b"x\x00\x00\x00\x01\xff"),
    (b"A\x00\x00\x00\x03V\x74\x01", [None, True], b"A\x00\x00\x00\x03V\x74\x01"),
    (b"T\x00\x00\x00\x00\x00\x00\x00\x07", 7, b"T\x00\x00\x00\x00\x00\x00\x00\x07"),
    (b"F\x00\x00\x00\x03\x01aV", {"a": None}, b"F\x00\x00\x00\x03\x01aV"),
    (b"V", None, b"V"),
]


def table_of(field: bytes) -> bytes:
    return (2 + len(field)).to_bytes(4, "big") + b"\x01k" + field


@pytest.mark.parametrize(
    ("raw", "value", "back"), FIELDS, ids=[raw[:3].hex() for raw, _, _ in FIELDS]
)
def test_each_tag_is_read_and_written(raw: bytes, value: Any, back: bytes) -> None:
    table, end = values.decode_table(table_of(raw), 0)
    assert table == {"k": value}
    assert end == len(table_of(raw))
    assert values.encode_table(table) == table_of(back)


@pytest.mark.parametrize("raw", [raw for raw, _, _ in FIELDS if len(raw) > 1])
def test_a_cut_off_field_is_a_syntax_error(raw: bytes) -> None:
    whole = table_of(raw)
    for end in range(len(whole)):
        with pytest.raises(ProtocolViolation) as refused:
            values.decode_table(whole[:end], 0)
        assert refused.value.amqp_code == 502


@pytest.mark.parametrize("tag", [b"U", b"z", b"\x00"])
def test_an_unknown_tag_is_a_syntax_error(tag: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        values.decode_table(table_of(tag + b"\x00\x00"), 0)
    assert refused.value.amqp_code == 502


def test_a_field_must_end_with_its_table() -> None:
    with pytest.raises(ProtocolViolation) as refused:
        values.decode_table(b"\x00\x00\x00\x04\x01kI\x00\x00\x00\x05", 0)
    assert refused.value.amqp_code == 502


def test_nesting_is_bounded() -> None:
    raw = b"V"
    for _ in range(values.TABLE_DEPTH_MAX):
        raw = b"A" + len(raw).to_bytes(4, "big") + raw
    values.decode_table(table_of(raw), 0)
    raw = b"A" + len(raw).to_bytes(4, "big") + raw
    with pytest.raises(ProtocolViolation, match="nested"):
        values.decode_table(table_of(raw), 0)


def test_a_name_that_is_not_utf_8_is_a_frame_error() -> None:
    with pytest.raises(ProtocolViolation, match="Malformed UTF-8 in shortstr") as refused:
        values.decode_short_string(b"\x01\xff", 0)
    assert refused.value.amqp_code == 501


def test_short_strings_are_cut_between_characters() -> None:
    assert values.encode_short_string("é" * 200) == b"\xfe" + "é".encode() * 127


def test_properties_byte_for_byte() -> None:
    header = (
        b"\xff\xfc\x01a\x01b\x00\x00\x00\x00\x02\x05\x01c\x01d\x011\x01e"
        b"\x00\x00\x00\x00\x00\x00\x00\x09\x01f\x01g\x01h\x01i"
    )
    properties = values.decode_properties(header)
    assert [getattr(properties, name) for name in Properties.__slots__] == [
        "h", "i", "b", "a", "c", 2, "1", {}, "e", 5, "d", 9, "f", "g",
    ]  # fmt: skip
    assert values.encode_properties(properties) == header
    assert values.encode_properties(Properties()) == b"\x00\x00"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x80",
        b"\x00\x01",
        b"\x00\x02",
        b"\x80\x00",
        b"\x00\x40\x00",
        b"\x00\x00\x00",
        b"\x08\x00",
    ],
)
def test_malformed_properties_are_a_syntax_error(header: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        values.decode_properties(header)
    assert refused.value.amqp_code == 502


def test_a_property_too_long_for_its_place_moves_to_the_headers() -> None:
    properties = Properties(correlation_id="c" * 300, headers={"k": 1})
    back = values.decode_properties(values.encode_properties(properties))
    assert back.correlation_id is None
    assert back.headers == {"k": 1, "correlation-id": "c" * 300}


def test_what_no_tag_can_hold_is_kept_as_text() -> None:
    table = {"big": 1 << 70, "decimal": Decimal("1E-300")}
    back, _ = values.decode_table(values.encode_table(table), 0)
    assert back == {"big": str(1 << 70), "decimal": "1E-300"}
