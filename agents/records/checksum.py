"""The id of a stored record, bit-compatible with the databases in production (gracc.md 1.5).

Tests: tests/unit/agents/records/test_wire.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

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


def record_checksum(record: Mapping[str, object]) -> str:
    """Return the MD5 in hexadecimal of the record's compact JSON, keys sorted, without the unhashed names."""
    hashed = {key: record[key] for key in sorted(record) if key not in UNHASHED_NAMES}
    text = _encode(hashed)
    # An identifier, not a safeguard: whoever may publish may say anything anyway.
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
