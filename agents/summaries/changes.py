"""Which days have new, changed or removed raw records.

Best, the record store itself keeps a growing number of the last change of each day and
`changed_days` reads it.  A store without that is watched by counting each day's records, which
sees new and removed ones; changed ones are then found by computing the recent days again.

Invariants: positions are read before the records are, so a change in between is seen next time.
Tests: tests/unit/agents/test_summary_changes.py
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Protocol, final, runtime_checkable

from agents.recordstore.interface import (
    Kind,
    RecordStore,
    Selection,
    day_of_ms,
    day_start_ms,
)


@runtime_checkable
class CountsChanges(Protocol):
    """A record store that knows when each day last changed."""

    def changed_days(self, after: int) -> list[tuple[date, int]]:
        """Give days with raw records put, changed or deleted after a change, with their last change."""
        ...


class Changes(Protocol):
    """Tells what changed since a position."""

    @property
    def misses_corrections(self) -> bool:
        """Whether a record stored again under its id with other values may go unnoticed."""
        ...

    def since(self, position: str) -> tuple[list[date], str]:
        """Give the days that changed after a position (empty: the beginning), and the new position."""
        ...


@final
class StoreChanges:
    """The changes that the record store itself counts."""

    misses_corrections = False

    def __init__(self, store: CountsChanges) -> None:
        self._store = store

    def since(self, position: str) -> tuple[list[date], str]:
        after = int(position) if position.isdecimal() else 0
        # The last change seen is asked for again: where neither it nor a later one is there, the
        # store was made anew, and its numbers began again.
        found = self._store.changed_days(after - 1) if after else []
        if not found:
            after = 0
            found = self._store.changed_days(0)
        found = [(day, change) for day, change in found if change > after]
        return [day for day, _ in found], str(max([after, *[change for _, change in found]]))


@final
class DayCounts:
    """The changes that the number of records of each day shows."""

    misses_corrections = True

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    def since(self, position: str) -> tuple[list[date], str]:
        before: dict[str, int] = json.loads(position) if position.startswith("{") else {}
        now = self._counts()
        changed = {day for day in before.keys() | now.keys() if before.get(day) != now.get(day)}
        return sorted(map(date.fromisoformat, changed)), json.dumps(now)

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        from_ms: int | None = None
        while True:
            found = self._store.page(Selection(Kind.RAW, from_ms), None, 1)
            if not found:
                return counts
            day = day_of_ms(found[0].timestamp_ms)
            from_ms = day_start_ms(day + timedelta(days=1))
            selection = Selection(Kind.RAW, day_start_ms(day), from_ms)
            counts[day.isoformat()] = self._store.count(selection)


def changes_of(store: RecordStore) -> Changes:
    """Give the best way to see what changes in a store."""
    return StoreChanges(store) if isinstance(store, CountsChanges) else DayCounts(store)
