"""Stored records, cursors and times."""

from __future__ import annotations

from datetime import date

import pytest

from agents.recordstore.interface import (
    Cursor,
    Kind,
    StoredRecord,
    UnstorableRecord,
    day_of_ms,
    day_start_ms,
    time_ms,
)


def test_time_of_a_record_is_end_time_then_timestamp_then_the_given_one():
    end, stamp = "1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z"
    cases = [
        ({"EndTime": end, "@timestamp": stamp}, 1000, 1000),
        ({"@timestamp": stamp}, 2000, None),
        ({"EndTime": "x"}, 5, None),
    ]
    for document, timestamp_ms, end_ms in cases:
        record = StoredRecord.of(Kind.RAW, "1", document, 5)
        assert (record.timestamp_ms, record.end_ms) == (timestamp_ms, end_ms)
    with pytest.raises(UnstorableRecord, match="no time"):
        StoredRecord.of(Kind.RAW, "1", {})


@pytest.mark.parametrize(
    "document",
    [{"a": float("nan")}, {"a": [float("inf")]}, {"a": "\ud800"}, {"a": object()}, {"\ud800": 1}],
)
def test_what_is_no_json_is_unstorable(document):
    with pytest.raises(UnstorableRecord, match="cannot be written as JSON"):
        StoredRecord.of(Kind.RAW, "1", document, 0)


def test_nulls_and_text_survive():
    document = {"a": None, "b": "null é \U0001f600 \x00 </x>", "c": [1, 2.5, True, {}]}
    assert StoredRecord.of(Kind.RAW, "1", document, 0).document == document


@pytest.mark.parametrize("record_id", ["", "x" * 257])
def test_ids_are_bounded(record_id):
    with pytest.raises(UnstorableRecord, match="1 to 256"):
        StoredRecord.of(Kind.RAW, record_id, {}, 0)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-02T00:00:00Z", 86_400_000),
        ("1970-01-01T02:00:00.250+02:00", 250),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01", 1000),
        ("now", None),
        ("", None),
        (5, None),
        (None, None),
        ("0001-01-01T00:00:00+14:00", -62135647200000),
    ],
)
def test_times(text, milliseconds):
    assert time_ms(text) == milliseconds


def test_days():
    for day in (date(1969, 12, 31), date(1970, 1, 1), date(2026, 3, 14)):
        assert day_of_ms(day_start_ms(day)) == day
        assert day_of_ms(day_start_ms(day) - 1) < day


def test_cursors_are_read_back():
    cursor = Cursor(-5, "a,b")
    assert Cursor.parse(cursor.text()) == cursor
    for text in ("", "5", "5,", "x,y"):
        with pytest.raises(ValueError, match=r"cursor|int"):
            Cursor.parse(text)
