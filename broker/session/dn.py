"""Distinguished names in both spellings: `/DC=ch/DC=cern/CN=me` and `CN=me,DC=cern,DC=ch`.

Invariant: two names are equal only if they have the same attributes in the same order.  What a certificate says is
compared attribute by attribute, never as text: a common name that contains "/CN=…" matches nothing but itself.
Tests: tests/unit/broker/session/test_dn.py, tests/property/test_rights_names.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

Rdn = tuple[tuple[str, str], ...]
"""One level of a name: type and value, several only for a multi-valued one; sorted."""
DN = tuple[Rdn, ...]
"""A name in the order of the certificate: country or domain first, common name last."""

NAME_CHARACTERS_MAX: Final = 2000

TYPES: Final = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "SERIALNUMBER",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "TITLE",
    "2.5.4.42": "GIVENNAME",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "EMAILADDRESS",
}
"""Attribute types by object identifier; any other is known by its numbers."""
_ALIASES: Final = {"E": "EMAILADDRESS", "EMAIL": "EMAILADDRESS", "S": "ST", "USERID": "UID"}
_SLASH: Final = re.compile(r"/(?=[A-Za-z][A-Za-z0-9-]*=|[0-9]+(?:\.[0-9]+)+=)")
_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+")
_ESCAPED: Final = re.compile(r"\\([0-9A-Fa-f]{2})|\\(.)", re.DOTALL)
_TO_ESCAPE: Final = re.compile(r'[,+"\\<>;=]|^[ #]| $')


def parse(text: str) -> DN:
    """Read a name in either spelling; raises ValueError."""
    text = text.strip()
    if not text or len(text) > NAME_CHARACTERS_MAX:
        raise ValueError("not a distinguished name")
    if text.startswith("/"):
        parts = _SLASH.split(text)
        if parts[0] or len(parts) < 2:
            raise ValueError("not a distinguished name")
        return tuple((_attribute(part, is_escaped=False),) for part in parts[1:])
    levels = [
        tuple(sorted(_attribute(one, is_escaped=True) for one in _split(level, "+")))
        for level in _split(text, ",")
    ]
    return tuple(reversed(levels))


def from_attributes(levels: Iterable[Iterable[tuple[str, str]]]) -> DN:
    """Make a name of object identifiers and values, in the certificate's order."""
    return tuple(
        tuple(sorted((TYPES.get(identifier, identifier), value) for identifier, value in level))
        for level in levels
    )


def slash_form(name: DN) -> str:
    """The spelling of grid tools: `/DC=ch/CN=me`.  For people; never parsed again."""
    return "".join(f"/{kind}={value}" for level in name for kind, value in level)


def comma_form(name: DN) -> str:
    """The spelling of RFC 4514: `CN=me,DC=ch`."""
    return ",".join(
        "+".join(f"{kind}={_escape(value)}" for kind, value in level) for level in reversed(name)
    )


def _attribute(text: str, *, is_escaped: bool) -> tuple[str, str]:
    kind, equals, value = text.partition("=")
    kind = kind.strip()
    if not equals or not _TYPE.fullmatch(kind):
        raise ValueError(f"'{text[:80]}': TYPE=VALUE expected")
    kind = kind.upper()
    kind = TYPES.get(kind, _ALIASES.get(kind, kind))
    return kind, _unescape(value) if is_escaped else value


def _split(text: str, separator: str) -> Iterator[str]:
    """Parts between separators that are neither escaped nor quoted."""
    start = 0
    is_quoted = False
    at = 0
    while at < len(text):
        one = text[at]
        if one == "\\":
            at += 1
        elif one == '"':
            is_quoted = not is_quoted
        elif one == separator and not is_quoted:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _unescape(value: str) -> str:
    stripped = value.lstrip(" ")
    ends = len(stripped.rstrip(" "))
    # An escaped blank at the end belongs to the value.
    if ends < len(stripped) and stripped[:ends].endswith("\\"):
        ends += 1
    stripped = stripped[:ends]
    if len(stripped) >= 2 and stripped[0] == stripped[-1] == '"':
        stripped = stripped[1:-1]
    raw = bytearray()
    at = 0
    for found in _ESCAPED.finditer(stripped):
        raw += stripped[at : found.start()].encode()
        raw += bytes.fromhex(found[1]) if found[1] else found[2].encode()
        at = found.end()
    raw += stripped[at:].encode()
    return raw.decode("utf-8")


def _escape(value: str) -> str:
    escaped = _TO_ESCAPE.sub(lambda found: "\\" + found[0], value)
    return "".join(
        one if one.isprintable() else "".join(f"\\{byte:02X}" for byte in one.encode())
        for one in escaped
    )
