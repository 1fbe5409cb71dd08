"""Computes days of summaries and keeps them: raw records in, whole days of rows out.

Invariants: a day is replaced as a whole or not at all; its generation grows each time its rows
change and stays when they do not, so receivers are told of changes only; one process computes at
a time (a lock file), so older records never overwrite newer ones.
Must not know: brokers.
Tests: tests/unit/agents/test_summary_days.py, tests/property/test_summary.py
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Final, final

import msgspec

from agents.dimensions import production_id, row_id
from agents.errors import AgentError
from agents.recordstore.condition import Condition
from agents.recordstore.interface import (
    Cursor,
    Kind,
    RecordStore,
    Selection,
    StoredRecord,
    day_of_ms,
    day_start_ms,
)
from agents.summaries.corrections import Corrections, Row
from agents.summaries.ledger import ComputedDay, SummaryLedger
from agents.summaries.rows import DayRows, definition_digest, rows_digest

log = logging.getLogger(__name__)

PAGE_RECORDS: Final = 2_000
DEFINITION: Final = "definition"


class Stopped(AgentError):
    """The agent stops; the day was left as it was."""


@final
class Days:
    """The days of one site's summaries."""

    def __init__(
        self,
        raw: RecordStore,
        summary: RecordStore,
        ledger: SummaryLedger,
        corrections: Corrections,
        lock_path: Path,
        now_ms: Callable[[], int],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._raw = raw
        self._summary = summary
        self._ledger = ledger
        self._corrections = corrections
        self._lock_path = lock_path
        self._now_ms = now_ms
        self._is_stopping = is_stopping

    def check_definition(self) -> None:
        """Mark every computed day when what rows are made of has changed since."""
        digest = definition_digest(self._corrections.digest)
        if self._ledger.fact(DEFINITION) != digest:
            days = self._ledger.computed_days()
            if days:
                log.info("dimensions or corrections changed: %d days to compute again", len(days))
            self._ledger.mark_dirty(days, {DEFINITION: digest})

    def compute(self, day: date) -> bool:
        """Compute a day from its records and keep it; True when its rows changed.

        Raises Stopped, or what the stores raise; the day's mark stays then.
        """
        with self._alone():
            mark = self._ledger.dirty_mark(day)
            rows = self._rows(day)
            is_changed = self._keep(day, rows)
            self._ledger.clear_dirty(day, mark)
        return is_changed

    def stored_rows(self, day: date) -> Iterator[StoredRecord]:
        """Give the kept rows of a day, in the order of their ids."""
        return self._summary.scan(days_selection(day, day))

    def generation(self, day: date) -> int | None:
        """Give the generation of the kept rows of a day."""
        return self._summary.day_generation(day)

    def _rows(self, day: date) -> list[Row]:
        gathered = DayRows(day)
        misplaced_count = 0
        place: Cursor | None = None
        while True:
            if self._is_stopping():
                raise Stopped(f"stopped while computing {day}")
            found = self._raw.page(_raw_selection(day), place, PAGE_RECORDS)
            if not found:
                break
            place = found[-1].cursor
            for each in found:
                if each.end_ms is not None and day_of_ms(each.end_ms) != day:
                    misplaced_count += 1
                    continue
                gathered.add(msgspec.json.decode(each.text))
        if gathered.unreadable_count or misplaced_count:
            log.warning(
                "summary of %s: %d unreadable numbers taken as missing, %d records left out"
                " because their @timestamp is of another day than their EndTime",
                day,
                gathered.unreadable_count,
                misplaced_count,
            )
        return gathered.rows(self._corrections.apply)

    def _keep(self, day: date, rows: list[Row]) -> bool:
        digest = rows_digest(rows)
        known = self._ledger.computed(day)
        stored_generation = self._summary.day_generation(day)
        if known is None and stored_generation is None and not rows:
            return False
        if known is not None and known.digest == digest and known.generation == stored_generation:
            return False
        generation = max(
            self._now_ms(),
            (stored_generation or 0) + 1,
            (known.generation if known else 0) + 1,
        )
        records: list[StoredRecord] = []
        for row in rows:
            row["checksum"] = production_id(row)
            records.append(StoredRecord.of(Kind.SUMMARY, row_id(row), row))
        if not self._summary.replace_day(day, generation, records):
            raise AgentError(f"the summary of {day} was replaced by somebody else meanwhile")
        self._ledger.note_computed(ComputedDay(day, generation, digest, len(rows)))
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock_path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def days_selection(first: date, last: date, condition: Condition | None = None) -> Selection:
    """Select the summary rows of some days, both included."""
    end_ms = day_start_ms(last + timedelta(days=1))
    return Selection(Kind.SUMMARY, day_start_ms(first), end_ms, condition)


def _raw_selection(day: date) -> Selection:
    return Selection(Kind.RAW, day_start_ms(day), day_start_ms(day + timedelta(days=1)))
