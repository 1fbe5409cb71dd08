"""Dates of filters: the unit a date leaves open, zones, math."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agents.recordstore.dates import date_bound_ms

NOW = datetime(2026, 3, 14, 12, 30, 15, 123_000, tzinfo=UTC)


def ms(*parts):
    return round(datetime(*parts, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026", ms(2026, 1, 1), ms(2027, 1, 1) - 1),
        ("2024-02", ms(2024, 2, 1), ms(2024, 3, 1) - 1),
        ("2026-12", ms(2026, 12, 1), ms(2027, 1, 1) - 1),
        ("2026-12-31", ms(2026, 12, 31), ms(2027, 1, 1) - 1),
        ("2026-03-14T05", ms(2026, 3, 14, 5), ms(2026, 3, 14, 6) - 1),
        ("2026-03-14T05:06", ms(2026, 3, 14, 5, 6), ms(2026, 3, 14, 5, 7) - 1),
        ("2026-03-14T05:06:07", ms(2026, 3, 14, 5, 6, 7), ms(2026, 3, 14, 5, 6, 8) - 1),
        ("2026-03-14T05:06:07.5Z", ms(2026, 3, 14, 5, 6, 7) + 500, ms(2026, 3, 14, 5, 6, 7) + 500),
        ("2026-03-14T01:00:00+02:00", ms(2026, 3, 13, 23), ms(2026, 3, 13, 23, 0, 1) - 1),
        ("2026-03-14T01:00:00-0130", ms(2026, 3, 14, 2, 30), ms(2026, 3, 14, 2, 30, 1) - 1),
        ("1773446400000", 1773446400000, 1773446400000),
        ("now", ms(2026, 3, 14, 12, 30, 15) + 123, ms(2026, 3, 14, 12, 30, 15) + 123),
        ("now/d", ms(2026, 3, 14), ms(2026, 3, 15) - 1),
        ("now-1d/d", ms(2026, 3, 13), ms(2026, 3, 14) - 1),
        ("now/w", ms(2026, 3, 9), ms(2026, 3, 16) - 1),
        ("now/y", ms(2026, 1, 1), ms(2027, 1, 1) - 1),
        ("now/d+1h", ms(2026, 3, 14, 1), ms(2026, 3, 15, 1) - 1),
        ("2026-01-31||+1M", ms(2026, 2, 28), ms(2026, 2, 28)),
        ("2024-02-29||-1y", ms(2023, 2, 28), ms(2023, 2, 28)),
        ("2026-03-14||/M", ms(2026, 3, 1), ms(2026, 4, 1) - 1),
        ("2026-03-14||-1w+2H-30m+5s", ms(2026, 3, 7, 1, 30, 5), ms(2026, 3, 7, 1, 30, 5)),
        ("9999-12", ms(9999, 12, 1), None),
    ],
)
def test_first_and_last_moment(text, first, last):
    assert date_bound_ms(text, NOW, rounds_up=False) == first
    if last is None:
        with pytest.raises(ValueError, match="not a date"):
            date_bound_ms(text, NOW, rounds_up=True)
    else:
        assert date_bound_ms(text, NOW, rounds_up=True) == last


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "26-01-01",
        "2026-1-1",
        "2026-02-30",
        "2026-01-01T25",
        "2026-01-01T00:00:00+99:00",
        "2026||",
        "now+",
        "now+1q",
    ]
    + [
        "now-1d/",
        "2026-01-01 10:00",
        "now+999999y",
        "9" * 30,
        "２０２６",
        "now" + "+1d" * 20,
        "2026-01-01Z",
    ],
)
def test_no_dates(text):
    with pytest.raises(ValueError, match=r"not a date|out of range"):
        date_bound_ms(text, NOW, rounds_up=False)
