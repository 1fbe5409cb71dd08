"""The id of a stored record, bit-compatible with the databases in production (gracc.md 1.5).

Tests: tests/unit/agents/records/test_wire.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

import msgspec

UNHASHED_NAMES: Final = frozenset(
    {
        *("RecordId", "CreateTime", "GlobalUsername", "LocalUserId", "VOName", "ReportableVOName"),
        *(
            "CommonName",
            "SiteName",
            "Grid",
            "RawXML",
            "type",
            "@timestamp",
            "@received",
            "@version",
        ),
    }
)
"""What the databases leave out, as Gratia did: fields that change between two sendings of one job."""


# Made once: json.dumps with options makes an encoder for each call.
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
# Ten times as quick; it writes very large and very small fractions otherwise than Python.
_encode_quickly: Final = msgspec.json.Encoder().encode


def record_checksum(record: Mapping[str, object]) -> str:
    """Return the MD5 in hexadecimal of the record's compact JSON, keys sorted, without the unhashed names."""
    hashed = {key: record[key] for key in sorted(record) if key not in UNHASHED_NAMES}
    # An identifier, not a safeguard: whoever may publish may say anything anyway.
    return hashlib.md5(_compact_json(hashed), usedforsecurity=False).hexdigest()


def _compact_json(values: dict[str, object]) -> bytes:
    """The bytes that json.dumps(values, separators=(",", ":"), ensure_ascii=False) has in UTF-8."""
    for value in values.values():
        kind = type(value)
        if kind is str or kind is int:
            continue
        if kind is float and (value == 0.0 or 1e-4 <= abs(value) < 1e16):  # type: ignore[arg-type]
            continue
        break
    else:
        try:
            return _encode_quickly(values)
        except (msgspec.MsgspecError, ValueError, OverflowError):
            pass  # lone surrogates and integers over 64 bits
    return _encode(values).encode("utf-8", "surrogatepass")
