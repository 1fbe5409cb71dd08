"""A stored record as it was before the database agent took it in, so that it can be sent again.

A record's id is a hash over its fields: sent with the fields that storage added or repaired, it
would get another id at the other end.  So they are taken away, and where the rest does not hash to
the record's id (its times were repaired), `checksum` and `@received` go along, by which
our database agents keep the id.

Invariant: the database agent at the other end arrives at the same id.
Source: GRACC's raw stash, the order of its steps.
Tests: tests/unit/agents/test_replay_original.py
"""

from __future__ import annotations

from typing import Final

from agents.records.checksum import record_checksum
from agents.records.stored import DERIVED_NAMES
from agents.records.wire import decode_record, encode_record

VERSION_NAME: Final = "@version"
REPAIRED_NAMES: Final = ("StartTime", "EndTime")


def original_body(stored_text: str) -> bytes:
    """Give the message body of a stored raw record: its JSON without what storage added."""
    stored = decode_record(stored_text.encode())
    original = {
        name: value
        for name, value in stored.items()
        if name not in DERIVED_NAMES and name != VERSION_NAME
    }
    checksum = stored.get("checksum")
    if checksum is None or record_checksum(original) == checksum:
        return encode_record(original)
    for repaired in REPAIRED_NAMES:
        if repaired in original:
            candidate = {name: value for name, value in original.items() if name != repaired}
            if record_checksum(candidate) == checksum:
                return encode_record(candidate)
    original["checksum"] = checksum
    if "@received" in stored:
        original["@received"] = stored["@received"]
    return encode_record(original)
