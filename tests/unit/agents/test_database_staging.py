"""Summary rows gathered until a day is whole."""

from __future__ import annotations

import sqlite3
from datetime import date

import pytest

from agents.recordstore.interface import SchemaMismatch, StoreUnavailable
from agents.staging import BadRow, DayStaging, staged_row
from agents.summaries.messages import day_messages

DAY = date(2026, 3, 14)


def bodies(count, day=DAY):
    return [
        b'{"EndTime":"%sT00:00:00.000Z","VOName":"vo%d","Count":1}' % (day.isoformat().encode(), n)
        for n in range(count)
    ]


def parts(count, generation=1, day=DAY):
    return [
        staged_row(m.headers, m.body) for m in day_messages(day, generation, bodies(count, day))
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent" / "staged.sqlite"


@pytest.fixture
def staging(path):
    made = DayStaging(path)
    yield made
    made.close()


def test_a_day_is_whole_with_its_last_row_in_any_order(staging):
    rows = parts(5)
    for row in (rows[3], rows[0], rows[0], rows[4], rows[1]):
        staging.add([row])
        assert staging.whole_days() == []
    staging.add([rows[2], rows[2]])
    assert staging.whole_days() == [(DAY, 1)]
    assert [r.document["VOName"] for r in staging.rows(DAY, 1)] == [f"vo{n}" for n in range(5)]
    assert len({r.id for r in staging.rows(DAY, 1)}) == 5


def test_a_day_without_rows_is_whole_at_once(staging):
    staging.add(parts(0))
    assert staging.whole_days() == [(DAY, 1)]
    assert staging.rows(DAY, 1) == []


def test_what_was_added_survives_a_new_start(staging, path):
    staging.add(parts(3)[:2])
    staging.close()
    again = DayStaging(path)
    again.add(parts(3)[2:])
    assert again.whole_days() == [(DAY, 1)]
    again.close()


def test_newest_whole_generation_counts_and_older_ones_are_forgotten_with_it(staging):
    other = date(2026, 3, 15)
    staging.add(
        [*parts(2, 1), *parts(3, 2)[:2], *parts(2, 3), *parts(4, 4)[:1], *parts(1, 1, other)]
    )
    assert staging.whole_days() == [(DAY, 3), (other, 1)]
    staging.forget(DAY, 3)
    assert staging.whole_days() == [(other, 1)]
    staging.add(parts(4, 4)[1:])
    assert staging.whole_days() == [(DAY, 4), (other, 1)]


def test_another_number_of_rows_starts_the_generation_over(staging):
    staging.add(parts(3)[:2])
    staging.add(parts(2))
    assert staging.whole_days() == [(DAY, 1)]
    assert len(staging.rows(DAY, 1)) == 2


def test_too_many_unfinished_rows_wait(staging, monkeypatch):
    monkeypatch.setattr("agents.staging.STAGED_ROWS_MAX", 3)
    staging.add(parts(5)[:3])
    with pytest.raises(StoreUnavailable, match="3 rows of unfinished days"):
        staging.add(parts(5)[3:])


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("nothing " * 1000)
    with pytest.raises(SchemaMismatch, match="delete it and have the summaries sent again"):
        DayStaging(path)


def test_a_busy_file_is_unavailable(staging, path):
    staging._connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        staging.add(parts(1))
    other.close()
    staging.add(parts(1))


@pytest.mark.parametrize(
    ("changed", "body", "reason"),
    [
        ({"gridmsg-summary-day": "14.3.2026"}, None, "gridmsg-summary-day"),
        (
            {"gridmsg-summary-generation": "-1"},
            None,
            "gridmsg-summary-generation is not a whole number",
        ),
        ({"gridmsg-summary-generation": "9" * 19}, None, "not a whole number"),
        ({"gridmsg-summary-rows": ""}, None, "gridmsg-summary-rows"),
        ({"gridmsg-summary-row": "1"}, None, "row 1 of 1"),
        ({"gridmsg-summary-rows": "9999999"}, None, "at most 5000000"),
        ({"gridmsg-summary-day": "2026-03-15"}, None, "EndTime of the row is not on 2026-03-15"),
        ({}, b"[]", "not a JSON object"),
        ({}, b"{}", "no time"),
        ({"gridmsg-summary-rows": "0"}, None, "not an empty object"),
    ],
)
def test_bad_rows_say_why(changed, body, reason):
    (good,) = day_messages(DAY, 1, bodies(1))
    with pytest.raises(BadRow) as caught:
        staged_row({**good.headers, **changed}, good.body if body is None else body)
    assert reason in caught.value.text
