"""The form of a probe: its fields, as bytes (gracc.md 2.1).

Invariants: fields of the query string count as well as those of the body; the old un-encoded form is known by the
raw markup in `arg1`, and an `&` inside it is payload.  Pure.
Tests: tests/unit/agents/collector/test_form.py, tests/property/test_records.py.
"""

from __future__ import annotations

import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

_UNENCODED: Final = re.compile(rb"arg1=\s*(?:<|replication\|\s*<)")
_TRAILER: Final = re.compile(
    rb"&(from|bundlesize|xmlfiles|tarfiles|maxpendingfiles|backlog|command)=([^&<>]*)\Z"
)
# Each hexadecimal digit to "0": an escape is then found by a plain count, which costs nothing beside a regex.
_SHAPE: Final = bytes(
    ord("0") if chr(byte) in "0123456789abcdefABCDEF" else byte for byte in range(256)
)
FIELDS_MAX: Final = 64


def parse_form(query: bytes, body: bytes) -> dict[str, bytes]:
    """Return the fields of query string and body (the body's win), each once: the first of its name."""
    fields = _pairs(query)
    start = 0 if body.startswith(b"arg1=") else body.find(b"&arg1=") + 1
    match = _UNENCODED.match(body, start)
    if match is None:
        return fields | _pairs(body)
    payload = body[start + len(b"arg1=") :]
    trailing: dict[str, bytes] = {}
    while (trailer := _TRAILER.search(payload, max(0, len(payload) - 4096))) is not None:
        trailing[trailer[1].decode()] = decode_value(trailer[2])
        payload = payload[: trailer.start()]
    return fields | trailing | _pairs(body[:start]) | {"arg1": payload}


def decode_value(value: bytes) -> bytes:
    """Return a form value without its percent escapes; a `%` that is no escape stays."""
    if b"+" in value:
        value = value.replace(b"+", b" ")
    if b"%" not in value:
        return value
    if value.translate(_SHAPE).count(b"%00") != value.count(b"%"):
        return unquote_to_bytes(value)
    # The decoder for quoted-printable does the same in C, with "=" for "%": thirty times faster than the loop of
    # urllib, which counts at hundreds of escapes a record.
    if b"=" in value:
        value = value.replace(b"=", b"%3D")
    return binascii.a2b_qp(value.replace(b"%", b"="))


def _pairs(text: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    if not text:
        return fields
    for part in text.split(b"&", FIELDS_MAX):
        name, _, value = part.partition(b"=")
        key = decode_value(name).decode("utf-8", "replace").strip()
        if key and key not in fields:
            fields[key] = decode_value(value)
    return fields
