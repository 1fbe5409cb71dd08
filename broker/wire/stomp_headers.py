"""STOMP header blocks: lines, escapes by version, and the canonical form that messages are kept in.

A *block* is what stands between a frame's command line and its empty line, each line ended by LF.  The canonical form is
STOMP 1.2 escaping, without CR, each name once.  Knows nothing of commands, sessions or destinations.
Tests: tests/unit/broker/wire/test_stomp_headers.py, tests/property/test_stomp_headers.py.
"""

from __future__ import annotations

import re
from typing import Final

from broker.errors import ProtocolViolation

V10: Final = 10
V11: Final = 11
V12: Final = 12
VERSION_TEXTS: Final = {V10: "1.0", V11: "1.1", V12: "1.2"}

Pairs = list[tuple[bytes, bytes]]

_ESCAPE_MARK: Final = re.compile(rb"\\(.?)", re.DOTALL)
_UNESCAPED: Final[dict[int, dict[bytes, bytes]]] = {
    V11: {b"n": b"\n", b"c": b":", b"\\": b"\\"},
    V12: {b"n": b"\n", b"c": b":", b"\\": b"\\", b"r": b"\r"},
}
_SPECIAL: Final = re.compile(rb"[\\\r\n:]")
_ESCAPED: Final[dict[int, dict[bytes, bytes]]] = {
    # 1.0 has no escapes at all; a line feed must still not end the line.
    V10: {b"\\": b"\\", b"\r": b"\r", b"\n": b"\\n", b":": b":"},
    V11: {b"\\": b"\\\\", b"\r": b"\r", b"\n": b"\\n", b":": b"\\c"},
    V12: {b"\\": b"\\\\", b"\r": b"\\r", b"\n": b"\\n", b":": b"\\c"},
}


def malformed(text: str) -> ProtocolViolation:
    """Make the violation for a frame that cannot be read."""
    return ProtocolViolation(text, 502, "SYNTAX_ERROR")


def unescape(raw: bytes, version: int) -> bytes:
    """Undo the escapes of a header name or value (STOMP 1.1 and 1.2, "Value Encoding").

    Raises ProtocolViolation for an escape that the version does not have.
    """
    if b"\\" not in raw or version == V10:
        return raw
    table = _UNESCAPED[version]

    def replace(found: re.Match[bytes]) -> bytes:
        plain = table.get(found[1])
        if plain is None:
            shown = found[0].decode("utf-8", "replace")
            raise malformed(f"Undefined escape sequence '{shown}' in a header")
        return plain

    return _ESCAPE_MARK.sub(replace, raw)


def escape(raw: bytes, version: int) -> bytes:
    """Write a header name or value in the escapes of the version; 1.0 has none, so there LF becomes two characters."""
    if _SPECIAL.search(raw) is None:
        return raw
    table = _ESCAPED[version]
    return _SPECIAL.sub(lambda found: table[found[0]], raw)


def split_block(block: bytes, version: int, *, has_escapes: bool = True) -> Pairs:
    """Read a block as (name, value) without escapes; of repeated names the first counts.

    `has_escapes` False is for CONNECT.  Leading blanks of values are dropped for 1.0 only.  Raises ProtocolViolation for a line without colon or name, a bad
    escape, or a NUL.
    """
    if b"\0" in block:
        raise malformed("A header contains NUL")
    pairs: Pairs = []
    seen: set[bytes] = set()
    has_escapes = has_escapes and version != V10 and b"\\" in block
    for line in block.split(b"\n"):
        if line.endswith(b"\r"):
            line = line[:-1]
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name:
            shown = line[:80].decode("utf-8", "replace")
            raise malformed(f"Header line '{shown}' is not name:value")
        if has_escapes:
            name = unescape(name, version)
            value = unescape(value, version)
        elif version == V10:
            value = value.lstrip(b" \t")
        if name not in seen:
            seen.add(name)
            pairs.append((name, value))
    return pairs


def join_block(pairs: Pairs, version: int = V12) -> bytes:
    """Write pairs as a block in the escapes of the version (canonical for 1.2)."""
    lines: list[bytes] = []
    for name, value in pairs:
        lines.append(escape(name, version) + b":" + escape(value, version) + b"\n")
    return b"".join(lines)


def convert_block(block: bytes, version: int) -> bytes:
    """Rewrite a canonical block for a peer of an older version; unchanged where nothing is escaped."""
    if version == V12 or b"\\" not in block:
        return block
    return join_block(split_block(block, V12), version)
