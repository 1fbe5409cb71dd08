from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agents.records.checksum import record_checksum
from agents.records.stored import stored_record

NOW = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
JOB = {
    "type": "JobUsageRecord",
    "StartTime": "2026-04-01T00:00:00Z",
    "EndTime": "2026-04-01T01:00:00Z",
    "WallDuration": 3600,
    "Processors": "4",
    "Memory": "3.75",
    "Network": "0",
    "Njobs": "1",
}


def test_adds_what_the_databases_add():
    record = stored_record(JOB, NOW)
    assert (record["Processors"], record["Njobs"]) == (4, 1)
    assert repr(record["Memory"]) == "3.75" and repr(record["Network"]) == "0.0"
    assert record["CoreHours"] == 4.0
    assert record["@received"] == "2026-05-01T12:00:00.250Z"
    assert record["@timestamp"] == "2026-04-01T01:00:00.000Z"
    assert "Quarantine" not in record
    assert JOB["Processors"] == "4", "the raw record is left alone"


def test_checksum_is_taken_after_the_conversions_and_before_the_rest():
    converted = {**JOB, "Processors": 4, "Memory": 3.75, "Network": 0.0, "Njobs": 1}
    assert stored_record(JOB, NOW)["checksum"] == record_checksum(converted)


def test_the_same_record_later_has_the_same_id():
    later = datetime(2027, 1, 1, tzinfo=UTC)
    assert stored_record(JOB, NOW)["checksum"] == stored_record(JOB, later)["checksum"]


@pytest.mark.parametrize("missing", ["EndTime", "StartTime"])
def test_a_replayed_record_keeps_its_id_and_arrival(missing):
    raw = {key: value for key, value in JOB.items() if key != missing}
    once = stored_record(raw, NOW)
    again = stored_record(once, datetime(2027, 1, 1, tzinfo=UTC))
    assert again == once


def test_a_sender_cannot_choose_an_id_alone():
    assert stored_record({**JOB, "checksum": "0" * 32}, NOW)["checksum"] != "0" * 32


def test_payload_site_and_missing_type():
    record = stored_record(
        {**JOB, "type": "", "ResourceType": "Payload", "Host_description": "SITE"}, NOW
    )
    assert record["PayloadSiteName"] == "SITE" and record["type"] == "JobUsageRecord"


def test_missing_end_is_start_plus_wall():
    record = stored_record({"StartTime": "2026-04-01T00:00:00Z", "WallDuration": 90}, NOW)
    assert (
        record["EndTime"] == "2026-04-01T00:01:30Z"
        and record["@timestamp"] == "2026-04-01T00:01:30.000Z"
    )


def test_an_end_after_arrival_moves_the_start_back():
    record = stored_record({"StartTime": "2026-05-01T11:59:59Z", "WallDuration": 60}, NOW)
    assert (record["StartTime"], record["EndTime"]) == (
        "2026-05-01T11:59:00Z",
        "2026-05-01T12:00:00Z",
    )


def test_missing_start_is_end_minus_wall():
    record = stored_record({"EndTime": "2026-04-01T00:01:30Z", "WallDuration": 90}, NOW)
    assert record["StartTime"] == "2026-04-01T00:00:00Z" and "Quarantine" not in record


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"WallDuration": 5}, "MissingEndTime"),
        ({"StartTime": "2026-04-01T00:00:00Z"}, "MissingEndTime"),
        ({"EndTime": "soon", "WallDuration": 5}, "MissingEndTime"),
        ({"StartTime": "2026-04-01T00:00:00Z", "WallDuration": 1e30}, "MissingEndTime"),
        ({"StartTime": "1970-01-02T00:00:00Z", "WallDuration": 0}, "EpochStartTime"),
        ({**JOB, "StartTime": "1970-01-01T00:00:00Z"}, "EpochStartTime"),
        ({"type": "StorageElement"}, "MissingEndTime"),
        ({**JOB, "Processors": "many"}, "BadNumber"),
        ({**JOB, "Memory": "1e999"}, "BadNumber"),
        ({**JOB, "Processors": "9" * 5000}, "BadNumber"),
    ],
)
def test_nonsense_is_marked_and_kept(raw, reason):
    record = stored_record(raw, NOW)
    assert record["Quarantine"] == reason
    assert record["@timestamp"] and record["checksum"]


def test_just_after_the_epoch_is_fine():
    record = stored_record({**JOB, "StartTime": "1970-01-02T00:00:01Z"}, NOW)
    assert "Quarantine" not in record


@pytest.mark.parametrize(
    ("text", "number"), [("1,024", 1024), (" 7 cores", 7), ("2.9", 2), ("-3", -3)]
)
def test_numbers_are_read_as_the_databases_do(text, number):
    assert stored_record({**JOB, "Processors": text}, NOW)["Processors"] == number


def test_storage_records_go_by_their_timestamp():
    record = stored_record(
        {"type": "StorageElementRecord", "Timestamp": "2013-03-25T18:37:59Z"}, NOW
    )
    assert record["@timestamp"] == "2013-03-25T18:37:59.000Z"
    assert "CoreHours" not in record and "Quarantine" not in record
