"""A JSON record as it goes over the exchange, and back (gracc.md 1.2, "on the wire").

Indented by 4 spaces, keys sorted, angle brackets, ampersands and Unicode's line separators as escapes, other
characters as UTF-8.
Tests: tests/unit/agents/records/test_wire.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agents.errors import BadRecord

CONTENT_TYPE: Final = "application/json"
_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(dict[str, object])


def encode_record(record: Mapping[str, object]) -> bytes:
    """Return the wire form of a record."""
    text = msgspec.json.format(_ENCODER.encode(record), indent=4)
    # These characters can only stand inside strings, so replacing bytes is safe; and much faster than by string.
    if b"<" in text:
        text = text.replace(b"<", b"\\u003c")
    if b">" in text:
        text = text.replace(b">", b"\\u003e")
    if b"&" in text:
        text = text.replace(b"&", b"\\u0026")
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def decode_record(body: bytes) -> dict[str, object]:
    """Return the record of a JSON body; raise BadRecord when it is not one JSON object in UTF-8."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(f"not a JSON object: {error}") from error
