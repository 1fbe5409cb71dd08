"""AMQP 0-9-1 values: short and long strings, field tables and arrays, and basic properties.

Field tags are those that RabbitMQ reads and writes (its errata to section 4.2.1 of the specification), so `s` is a
16-bit integer and both `l` and `L` are signed.  Decoding is linear in the size of the input and bounded
in depth; malformed input raises ProtocolViolation (502, or 501 for a short string that is not UTF-8).
Encoding takes whatever decoding made.  Knows nothing of frames.
Tests: tests/unit/broker/wire/amqp/test_values.py, tests/property/test_amqp_values.py.
"""

from __future__ import annotations

from decimal import Decimal
from struct import Struct, error
from typing import Any, Final, final

from broker.errors import ProtocolViolation
from broker.wire.properties import Properties

TABLE_DEPTH_MAX: Final = 32
"""How deep tables and arrays may be nested."""

Table = dict[str, Any]


@final
class Long(int):
    """An integer to be written with the tag `l` whatever its size (as `count` in `x-death`)."""


@final
class Timestamp(int):
    """Seconds since 1970, tag `T`."""


@final
class LongString(bytes):
    """A long string (tag `S`) that is not UTF-8; plain bytes have the tag `x`."""


_LONG: Final = Struct(">I")
_LONG_LONG: Final = Struct(">Q")
_SHORT: Final = Struct(">H")
_SIGNED_LONG: Final = Struct(">i")
_SIGNED_LONG_LONG: Final = Struct(">q")
_DOUBLE: Final = Struct(">d")
_DECIMAL: Final = Struct(">Bi")

_FIXED: Final[dict[int, tuple[Struct, type[Any] | None]]] = {
    ord("b"): (Struct(">b"), None),
    ord("B"): (Struct(">B"), None),
    ord("s"): (Struct(">h"), None),
    ord("u"): (_SHORT, None),
    ord("I"): (_SIGNED_LONG, None),
    ord("i"): (_LONG, None),
    ord("l"): (_SIGNED_LONG_LONG, Long),
    ord("L"): (_SIGNED_LONG_LONG, Long),
    ord("f"): (Struct(">f"), None),
    ord("d"): (_DOUBLE, None),
    ord("T"): (_LONG_LONG, Timestamp),
    ord("t"): (Struct(">?"), None),
}
"""Fields of one fixed width: how to unpack them, and the type that keeps their tag."""

_PROPERTY_FLAGS: Final = (
    ("content_type", 0x8000),
    ("content_encoding", 0x4000),
    ("headers", 0x2000),
    ("delivery_mode", 0x1000),
    ("priority", 0x0800),
    ("correlation_id", 0x0400),
    ("reply_to", 0x0200),
    ("expiration", 0x0100),
    ("message_id", 0x0080),
    ("timestamp", 0x0040),
    ("type", 0x0020),
    ("user_id", 0x0010),
    ("app_id", 0x0008),
    ("cluster_id", 0x0004),
)
_FLAGS_KNOWN: Final = 0xFFFC
_LAYOUTS_MAX: Final = 256
_LAYOUTS: Final[dict[int, tuple[tuple[str, int], ...]]] = {}
"""Properties by their flags: a cache, the same for all connections."""


def syntax_error(text: str) -> ProtocolViolation:
    """Make the 502 for bytes that do not decode."""
    return ProtocolViolation(text, 502, "SYNTAX_ERROR")


def decode_short_string(data: bytes, at: int) -> tuple[str, int]:
    """The short string at an offset, and the offset behind it; raises ProtocolViolation."""
    if at >= len(data):
        raise syntax_error("short string is missing")
    start = at + 1
    end = start + data[at]
    if end > len(data):
        raise syntax_error("short string is cut off")
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError:
        raise ProtocolViolation("Malformed UTF-8 in shortstr") from None


def encode_short_string(text: str) -> bytes:
    """Encode a short string, cut at 255 bytes (at the border of a character)."""
    raw = text.encode(errors="replace")
    if len(raw) > 255:
        raw = raw[:255].decode(errors="ignore").encode()
    return bytes((len(raw),)) + raw


def decode_long_string(data: bytes, at: int) -> tuple[bytes, int]:
    """The long string at an offset, and the offset behind it; raises ProtocolViolation."""
    start = at + 4
    if start > len(data):
        raise syntax_error("long string is missing")
    end = start + _LONG.unpack_from(data, at)[0]
    if end > len(data):
        raise syntax_error("long string is cut off")
    return data[start:end], end


def encode_long_string(raw: bytes) -> bytes:
    """Encode a long string."""
    return _LONG.pack(len(raw)) + raw


def decode_table(data: bytes, at: int, depth: int = 0) -> tuple[Table, int]:
    """The field table at an offset, and the offset behind it.

    A name given twice has its last value.  Raises ProtocolViolation.
    """
    at, end = _bounds(data, at, depth)
    table: Table = {}
    while at < end:
        name, at = decode_short_string(data, at)
        table[name], at = _decode_field(data, at, depth)
    if at != end:
        raise syntax_error("field table is longer than it says")
    return table, end


def encode_table(table: Table) -> bytes:
    """Encode a field table; raises ValueError for a value of a type that has no tag."""
    parts: list[bytes] = []
    for name, value in table.items():
        parts.append(encode_short_string(name))
        parts.append(_encode_field(value))
    return encode_long_string(b"".join(parts))


def _bounds(data: bytes, at: int, depth: int) -> tuple[int, int]:
    """Where the content of a table or array begins and ends."""
    if depth > TABLE_DEPTH_MAX:
        raise syntax_error(f"field tables nested deeper than {TABLE_DEPTH_MAX}")
    start = at + 4
    if start > len(data):
        raise syntax_error("field table is missing")
    end = start + _LONG.unpack_from(data, at)[0]
    if end > len(data):
        raise syntax_error("field table is cut off")
    return start, end


def _decode_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    at, end = _bounds(data, at, depth)
    array: list[Any] = []
    while at < end:
        value, at = _decode_field(data, at, depth)
        array.append(value)
    if at != end:
        raise syntax_error("field array is longer than it says")
    return array, end


def _decode_field(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """A tag and its value."""
    if at >= len(data):
        raise syntax_error("field value is missing")
    tag = data[at]
    at += 1
    fixed = _FIXED.get(tag)
    if fixed is not None:
        struct, kind = fixed
        try:
            value = struct.unpack_from(data, at)[0]
        except error:
            raise syntax_error("field value is cut off") from None
        return (value if kind is None else kind(value)), at + struct.size
    if tag == 0x53:  # S
        raw, at = decode_long_string(data, at)
        try:
            return raw.decode(), at
        except UnicodeDecodeError:
            return LongString(raw), at
    if tag == 0x46:  # F
        return decode_table(data, at, depth + 1)
    if tag == 0x41:  # A
        return _decode_array(data, at, depth + 1)
    if tag == 0x56:  # V
        return None, at
    if tag == 0x78:  # x
        return decode_long_string(data, at)
    if tag == 0x44:  # D
        if at + 5 > len(data):
            raise syntax_error("field value is cut off")
        scale, unscaled = _DECIMAL.unpack_from(data, at)
        digits = tuple(int(digit) for digit in str(abs(unscaled)))
        return Decimal((int(unscaled < 0), digits, -scale)), at + 5
    raise syntax_error(f"unknown field tag {tag}")


def _encode_field(value: Any) -> bytes:
    """A value behind its tag."""
    if isinstance(value, str):
        return b"S" + encode_long_string(value.encode(errors="replace"))
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\1" if value else b"t\0"
    if isinstance(value, int):
        return _encode_integer(value)
    if isinstance(value, float):
        return b"d" + _DOUBLE.pack(value)
    if isinstance(value, dict):
        return b"F" + encode_table(value)
    if isinstance(value, list | tuple):
        return b"A" + encode_long_string(b"".join(map(_encode_field, value)))
    if isinstance(value, bytes):
        return (b"S" if isinstance(value, LongString) else b"x") + encode_long_string(value)
    if isinstance(value, Decimal):
        return _encode_decimal(value)
    raise ValueError(f"no field tag for {type(value).__name__}")


def _encode_integer(value: int) -> bytes:
    if isinstance(value, Timestamp):
        return b"T" + _LONG_LONG.pack(value)
    if isinstance(value, Long) or not -0x80000000 <= value <= 0x7FFFFFFF:
        if not -(1 << 63) <= value < 1 << 63:
            # No integer tag is that wide; as text nothing of it is lost.
            return b"S" + encode_long_string(str(int(value)).encode())
        return b"l" + _SIGNED_LONG_LONG.pack(value)
    return b"I" + _SIGNED_LONG.pack(value)


def _encode_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and -255 <= exponent <= 9:
        unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
        if unscaled <= 0x7FFFFFFF + sign:
            return b"D" + _DECIMAL.pack(max(-exponent, 0), -unscaled if sign else unscaled)
    return b"S" + encode_long_string(str(value).encode())


def _find_layout(flags: int) -> tuple[tuple[str, int], ...]:
    """The properties that the flags announce, in order; kept, since few combinations are in use."""
    if flags & ~_FLAGS_KNOWN:
        raise syntax_error(f"unknown property flags {flags & ~_FLAGS_KNOWN}")
    layout = tuple(pair for pair in _PROPERTY_FLAGS if flags & pair[1])
    if len(_LAYOUTS) >= _LAYOUTS_MAX:
        _LAYOUTS.clear()
    _LAYOUTS[flags] = layout
    return layout


def decode_properties(header: bytes) -> Properties:
    """Decode the property flags and list of a basic content header; raises ProtocolViolation."""
    if len(header) < 2:
        raise syntax_error("property flags are missing")
    flags = _SHORT.unpack_from(header)[0]
    layout = _LAYOUTS.get(flags)
    if layout is None:
        layout = _find_layout(flags)
    properties = Properties()
    at = 2
    value: Any
    for name, flag in layout:
        if flag == 0x2000:
            value, at = decode_table(header, at)
        elif flag & 0x1800:
            if at >= len(header):
                raise syntax_error(f"property {name} is missing")
            value = header[at]
            at += 1
        elif flag == 0x0040:
            if at + 8 > len(header):
                raise syntax_error("property timestamp is missing")
            value = _LONG_LONG.unpack_from(header, at)[0]
            at += 8
        else:
            value, at = decode_short_string(header, at)
        setattr(properties, name, value)
    if at != len(header):
        raise syntax_error("content header is longer than its properties")
    return properties


def encode_properties(properties: Properties) -> bytes:
    """Encode properties as the flags and list of a basic content header.

    A text property over 255 bytes does not fit its place and becomes a field of `headers` (`correlation-id`, …).
    """
    flags = 0
    parts: list[bytes] = [b""]
    headers_at = 0
    headers = properties.headers
    too_long: Table = {}
    for name, flag in _PROPERTY_FLAGS:
        if flag == 0x2000:
            headers_at = len(parts)
            parts.append(b"")
            continue
        value = getattr(properties, name)
        if value is None:
            continue
        if flag & 0x1800:
            parts.append(bytes((min(max(value, 0), 255),)))
        elif flag == 0x0040:
            parts.append(_LONG_LONG.pack(min(max(value, 0), 0xFFFFFFFFFFFFFFFF)))
        elif len(value) > 63 and len(value.encode(errors="replace")) > 255:
            too_long[name.replace("_", "-")] = value
            continue
        else:
            parts.append(encode_short_string(value))
        flags |= flag
    if headers is not None or too_long:
        flags |= 0x2000
        parts[headers_at] = encode_table({**(headers or {}), **too_long})
    parts[0] = _SHORT.pack(flags)
    return b"".join(parts)
