from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agents.errors import BadRecord
from agents.records import timestamp
from agents.records.timestamp import normal_time, parse_time, precise_text, time_text


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2016-05-27T22:44:08Z", "2016-05-27T22:44:08Z"),
        ("2016-05-27T22:44:08.999Z", "2016-05-27T22:44:08Z"),
        ("2016-05-27T22:44:08+02:00", "2016-05-27T22:44:08+02:00"),
        ("2016-05-27T22:44:08-00:30", "2016-05-27T22:44:08-00:30"),
        ("2016-05-27T22:44:08+00:00", "2016-05-27T22:44:08Z"),
        (" 2016-05-27T22:44:08Z\n", "2016-05-27T22:44:08Z"),
        ("0001-01-01T00:00:00Z", ""),
    ],
)
def test_normal_form_keeps_the_zone_and_whole_seconds(text, normal):
    assert normal_time(text, "EndTime") == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2016-05-27",
        "2016-05-27T22:44:08",
        "2016-05-27 22:44:08Z",
        "2016-02-30T00:00:00Z",
        "2016-05-27T24:00:00Z",
        "2016-05-27T22:44:60Z",
        "2016-05-27T22:44:08z",
        "2016-05-27T22:44:08+25:00",
        "20160527T224408Z",
        "2016-W21-5T10:00:0Z",
        "1464389048",
    ],
)
def test_other_texts_are_refused_with_the_name_of_the_field(text):
    with pytest.raises(BadRecord, match="EndTime"):
        normal_time(text, "EndTime")


def test_parse_time_gives_utc_or_nothing():
    assert parse_time("2016-05-27T22:44:08+02:00") == datetime(2016, 5, 27, 20, 44, 8, tzinfo=UTC)
    assert parse_time("0001-01-01T00:00:00+23:00") is None
    assert parse_time(None) is None and parse_time(12) is None and parse_time("x") is None


def test_texts_of_a_moment():
    moment = datetime(2016, 5, 27, 20, 44, 8, 123456, tzinfo=UTC)
    assert time_text(moment) == "2016-05-27T20:44:08Z"
    assert precise_text(moment) == "2016-05-27T20:44:08.123Z"


@pytest.mark.parametrize(
    "text",
    [
        "2016-05-27T22:44:08Z",
        "2016-13-27T22:44:08Z",
        "2016-05-27 22:44:08Z",
        "2016-W21-5T22:44:08Z",
        "2016-05-27T24:00:00Z",
        "2016-05-27T22:44:60Z",
        "2016-05-27T22:44:0xZ",
        "20160527T224408.123Z",
        "2016-05-27T22:44+02Z",
    ],
)
def test_the_quick_way_takes_what_the_pattern_takes(text: str) -> None:
    """Texts of twenty characters that end in Z: read quickly or refused exactly as the pattern has it."""
    assert timestamp.parse_time(text) == timestamp._parsed(text)
