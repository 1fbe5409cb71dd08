from __future__ import annotations

from datetime import date, timedelta

import pytest

from agents.summaries.ledger import ComputedDay, SummaryLedger, SummaryLedgerError

DAY = date(2026, 3, 14)


@pytest.fixture
def ledger(tmp_path):
    made = SummaryLedger(tmp_path / "ledger.sqlite")
    yield made
    made.close()


def test_a_day_is_due_until_its_generation_was_sent(ledger):
    ledger.note_computed(ComputedDay(DAY, 3, "digest", 2))
    assert [each.generation for each in ledger.due_copies("there")] == [3]
    ledger.note_sent(DAY, "there", 3)
    assert ledger.due_copies("there") == []
    ledger.note_computed(ComputedDay(DAY, 4, "other", 2))
    assert [each.generation for each in ledger.due_copies("there")] == [4]


def test_a_mark_made_meanwhile_stays(ledger):
    ledger.mark_dirty([DAY], {"read": "7"})
    mark = ledger.dirty_mark(DAY)
    ledger.mark_dirty([DAY])
    ledger.clear_dirty(DAY, mark)
    assert ledger.dirty_days() == [DAY] and ledger.fact("read") == "7"
    ledger.clear_dirty(DAY, ledger.dirty_mark(DAY))
    assert ledger.dirty_days() == []


def test_a_full_disk_is_named_as_such(ledger):
    """SQLite rolls back by itself then; a second rollback must not hide the reason."""
    (pages,) = ledger._file._database.execute("PRAGMA page_count").fetchone()
    ledger._file._database.execute(f"PRAGMA max_page_count={pages}")
    days = [DAY + timedelta(days=number) for number in range(2_000)]
    with pytest.raises(SummaryLedgerError, match="full"):
        ledger.mark_dirty(days)
    ledger._file._database.execute("PRAGMA max_page_count=100000")
    ledger.mark_dirty(days)
    assert len(ledger.dirty_days()) == 2_000
