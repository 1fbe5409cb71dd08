"""The messages of a replay, page by page: raw records in time order, summaries day by day.

Invariants: a page's `cursor` is the place after it, so reading from there gives what follows and
nothing twice; a summary page is one whole day of one generation, never half of it.
Must not know: brokers, the ledger.
Tests: tests/unit/agents/test_replay_pages.py
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final, Protocol, final

from agents.recordstore.condition import Condition
from agents.recordstore.interface import (
    Cursor,
    Kind,
    RecordStore,
    Selection,
    StoredRecord,
    StoreUnavailable,
    day_of_ms,
    day_start_ms,
    time_ms,
)
from agents.replays.original import original_body
from agents.replays.request import RAW, ReplayRequest
from agents.summaries.days import days_selection
from agents.summaries.messages import day_messages
from agents.transport import Outgoing

RECORD_HEADERS: Final = {"content-type": "application/json", "mandatory": "true"}
DAY_READ_TRIES: Final = 5


@final
class Page:
    """Some messages and what they stand for; `record_count` may differ (a day without rows)."""

    __slots__ = ("cursor", "first_ms", "last_ms", "messages", "record_count")

    def __init__(
        self,
        messages: list[Outgoing],
        record_count: int,
        cursor: str,
        first_ms: int | None,
        last_ms: int | None,
    ) -> None:
        self.messages = messages
        self.record_count = record_count
        self.cursor = cursor
        self.first_ms = first_ms
        self.last_ms = last_ms


class Pages(Protocol):
    """Where a replay's messages come from."""

    def count(self) -> int:
        """Count the records of the whole request."""
        ...

    def after(self, cursor: str) -> Page | None:
        """Read the page after a cursor (empty: the first); None at the end."""
        ...


@final
class RecordPages:
    """Single records of a time range: raw ones as they were sent in, summary rows without their day."""

    def __init__(
        self,
        store: RecordStore,
        selection: Selection,
        body_of: Callable[[str], bytes],
        records_max: int,
    ) -> None:
        self._store = store
        self._selection = selection
        self._body_of = body_of
        self._records_max = records_max

    def count(self) -> int:
        return self._store.count(self._selection)

    def after(self, cursor: str) -> Page | None:
        place = Cursor.parse(cursor) if cursor else None
        found = self._store.page(self._selection, place, self._records_max)
        if not found:
            return None
        messages = [Outgoing(self._body_of(each.text), RECORD_HEADERS) for each in found]
        return Page(
            messages,
            len(found),
            found[-1].cursor.text(),
            found[0].timestamp_ms,
            found[-1].timestamp_ms,
        )


@final
class SummaryPages:
    """Whole days of summary rows, each with its generation, so that a receiver replaces the day."""

    def __init__(self, store: RecordStore, request: ReplayRequest, page_records: int) -> None:
        self._store = store
        self._page_records = page_records
        self._first = request.start.date()
        self._last = request.end.date()

    def count(self) -> int:
        return self._store.count(days_selection(self._first, self._last))

    def after(self, cursor: str) -> Page | None:
        day = date.fromisoformat(cursor) + timedelta(days=1) if cursor else self._first
        while day <= self._last:
            generation = self._store.day_generation(day)
            if generation is None:
                day += timedelta(days=1)
                continue
            generation, rows = self._read_day(day, generation)
            bodies = [each.text.encode() for each in rows]
            start_ms = day_start_ms(day)
            return Page(
                day_messages(day, generation, bodies),
                len(rows),
                day.isoformat(),
                start_ms if rows else None,
                start_ms if rows else None,
            )
        return None

    def _read_day(self, day: date, generation: int) -> tuple[int, list[StoredRecord]]:
        for _ in range(DAY_READ_TRIES):
            rows = list(self._store.scan(days_selection(day, day), None, self._page_records))
            now = self._store.day_generation(day)
            if now == generation:
                return generation, rows
            assert now is not None, "a day keeps its generation"
            generation = now
        raise StoreUnavailable(f"the summary of {day} changes faster than it can be read")


def pages_of(
    request: ReplayRequest,
    raw: RecordStore,
    summary: RecordStore,
    condition: Condition | None,
    records_max: int,
) -> RecordPages | SummaryPages:
    """Give the pages that a request asks for.

    Filtered summary rows go out one by one, without their day: a part of a day must not take
    the place of the whole one at the other end.
    """
    if request.kind == RAW:
        start_ms, end_ms = _milliseconds(request.start), _milliseconds(request.end) + 1
        selection = Selection(Kind.RAW, start_ms, end_ms, condition)
        return RecordPages(raw, selection, original_body, records_max)
    if condition is None:
        return SummaryPages(summary, request, records_max)
    selection = days_selection(request.start.date(), request.end.date(), condition)
    return RecordPages(summary, selection, str.encode, records_max)


def end_time_text(timestamp_ms: int) -> str:
    """Write a time for a control message; whole seconds without a fraction."""
    day = day_of_ms(timestamp_ms)
    seconds, milliseconds = divmod(timestamp_ms - day_start_ms(day), 1000)
    fraction = f".{milliseconds:03d}" if milliseconds else ""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{day.isoformat()}T{hours:02d}:{minutes:02d}:{seconds:02d}{fraction}Z"


def _milliseconds(moment: datetime) -> int:
    milliseconds = time_ms(moment.isoformat())
    assert milliseconds is not None, "a checked request has readable times"
    return milliseconds
