"""Stored records come back as they were sent, and get their id again."""

import json
from datetime import UTC, datetime

import pytest

from agents.records.stored import stored_record
from agents.replays.original import original_body

RECEIVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 2, 2, tzinfo=UTC)
JOB = {
    "type": "JobUsageRecord",
    "RecordId": "gw:1.0",
    "LocalJobId": "1",
    "VOName": "/cms/Role=x",
    "ProbeName": "condor:gw",
    "StartTime": "2016-05-27T10:00:00Z",
    "EndTime": "2016-05-27T11:00:00+02:00",
    "WallDuration": 3600.5,
    "CpuDuration": 18,
    "Processors": "4",
    "Memory": "1024",
    "Njobs": "1",
    "ResourceType": "Payload",
    "Host_description": "GRID_<a&b>\u2028",
    "RawXML": "<JobUsageRecord/>",
}


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


CASES = {
    "whole": JOB,
    "no end": without(JOB, "EndTime"),
    "no start": without(JOB, "StartTime"),
    "end in the future": {**without(JOB, "EndTime"), "StartTime": "2026-01-02T03:00:00Z"},
    "no type": without(JOB, "type"),
    "storage": {"type": "StorageElement", "UniqueID": "u", "Timestamp": "2016-05-27T00:00:00Z"},
    "big numbers": {**JOB, "CpuDuration": 2**63, "WallDuration": 1e22, "Network": "-0.0"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_id_is_the_same_at_the_other_end(name):
    stored = stored_record(CASES[name], RECEIVED)
    sent = json.loads(original_body(json.dumps(stored)))
    again = stored_record(sent, LATER)
    assert again["checksum"] == stored["checksum"]
    assert again["@timestamp"] == stored["@timestamp"]
    assert again.get("EndTime") == stored.get("EndTime")


def test_what_storage_added_is_taken_away():
    sent = json.loads(original_body(json.dumps(stored_record(JOB, RECEIVED))))
    assert sent == {**JOB, "Processors": 4, "Memory": 1024.0, "Njobs": 1}


def test_a_filled_in_time_is_taken_away_again():
    for missing in ("EndTime", "StartTime"):
        sent = json.loads(original_body(json.dumps(stored_record(without(JOB, missing), RECEIVED))))
        assert missing not in sent and "checksum" not in sent


def test_a_record_whose_times_were_both_changed_keeps_its_id_with_it():
    stored = stored_record(CASES["end in the future"], RECEIVED)
    sent = json.loads(original_body(json.dumps(stored)))
    assert sent["checksum"] == stored["checksum"]
    assert sent["@received"] == stored["@received"]
