from __future__ import annotations

import json

import pytest

from agents.errors import BadRecord
from agents.records.checksum import UNHASHED_NAMES, record_checksum
from agents.records.wire import decode_record, encode_record


def test_wire_form_is_exact():
    record = {"b": '<a> & \u2028 é "', "a": 0, "c": 1.5, "B": "x"}
    assert encode_record(record) == (
        b'{\n    "B": "x",\n    "a": 0,\n    "b": "\\u003ca\\u003e \\u0026 \\u2028 \xc3\xa9 \\"",\n    "c": 1.5\n}'
    )
    assert json.loads(encode_record(record)) == record


def test_decode_takes_one_object_only():
    assert decode_record(b' {"a": 1} ') == {"a": 1}
    for body in (b"", b"[]", b"1", b'{"a":1}{}', b'{"a":\xff}', b"{" * 100_000, b'{"a":' * 5000):
        with pytest.raises(BadRecord):
            decode_record(body)


def test_checksum_is_md5_of_the_documented_json():
    record = {"b": "é", "a": 0.0, "n": 1, **dict.fromkeys(UNHASHED_NAMES, "never seen")}
    import hashlib

    assert record_checksum(record) == hashlib.md5('{"a":0.0,"b":"é","n":1}'.encode()).hexdigest()
    assert record_checksum(record) == record_checksum({"n": 1, "a": 0.0, "b": "é"})
    assert record_checksum({"a": 0}) != record_checksum({"a": 0.0})


def test_what_changes_between_two_sendings_of_a_job_is_not_hashed():
    assert {"RecordId", "CreateTime", "RawXML", "SiteName", "@received"} <= UNHASHED_NAMES
    assert not UNHASHED_NAMES & {"GratiaVersion", "Origin_hop", "ProbeName", "DN"}
