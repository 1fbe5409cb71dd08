"""Units that were committed and are not yet in a batch.

Filled by the caller's thread, emptied by the writer's; reading sees through it what waits.  Tests:
tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import threading
from typing import final

from store.interface import (
    CHANGE_DROP_LANE,
    CHANGE_PURGE,
    CHANGE_REQUEUE,
    LINGER_SECONDS,
    StoredMessage,
    UnitOfWork,
)


@final
class Overlay:
    """What waiting units change in one lane."""

    __slots__ = ("_published", "_purged", "_removed", "counts", "is_dropped")

    def __init__(self) -> None:
        self._published: list[tuple[int, StoredMessage]] = []
        self._removed: set[int] = set()
        self._purged: list[tuple[int, frozenset[int]]] = []
        self.counts: dict[int, int] = {}
        self.is_dropped = False

    def add(self, unit: UnitOfWork, lane: int) -> None:
        """Take in what a unit does to the lane."""
        if unit.published:
            self._published += [(row[2], row[0]) for row in unit.published if row[1] == lane]
        if unit.acknowledged:
            self._removed.update(row[1] for row in unit.acknowledged if row[0] == lane)
        for change in unit.changes:
            if change[1] != lane:
                continue
            if change[0] == CHANGE_PURGE:
                self._purged.append((change[2], frozenset(change[3])))
            elif change[0] == CHANGE_DROP_LANE:
                self.is_dropped = True
            elif change[0] == CHANGE_REQUEUE:
                self.counts[change[2]] = change[3]

    @property
    def removes_nothing(self) -> bool:
        """Whether every written message of the lane is as alive as the index says."""
        return not (self._removed or self._purged or self.is_dropped)

    def is_alive(self, position: int) -> bool:
        """Whether no waiting unit removes the message at the position."""
        if self.is_dropped or position in self._removed:
            return False
        return not any(position < end and position not in keep for end, keep in self._purged)

    def living(self, rows: list[tuple[int, StoredMessage]]) -> list[tuple[int, StoredMessage]]:
        """Of written messages, those that no waiting unit removes."""
        if self.is_dropped or self._purged:
            return [row for row in rows if self.is_alive(row[0])]
        removed = self._removed
        return [row for row in rows if row[0] not in removed]

    def rows(self, first: int) -> list[tuple[int, StoredMessage]]:
        """The messages that wait and live, from `first` on."""
        return [row for row in self._published if row[0] >= first and self.is_alive(row[0])]


@final
class PendingUnits:
    """A queue of units between two threads, with the messages and bytes they publish."""

    __slots__ = ("_gate", "_units", "is_urgent", "message_count", "size_bytes")

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._units: list[tuple[UnitOfWork, int]] = []
        self.message_count = 0
        self.size_bytes = 0
        # Whether any of them does more than acknowledge.
        self.is_urgent = False

    def __bool__(self) -> bool:
        return bool(self._units)

    def add(self, unit: UnitOfWork) -> float | None:
        """Append a unit; returns in how many seconds the writer must come, None if that is sure already."""
        published = unit.published
        size_bytes = sum([len(row[0].body) for row in published]) if published else 0
        with self._gate:
            self._units.append((unit, size_bytes))
            self.message_count += len(published)
            self.size_bytes += size_bytes
            if not self.is_urgent and (published or unit.changes):
                self.is_urgent = True
                return 0.0
            return LINGER_SECONDS if len(self._units) == 1 and not self.is_urgent else None

    def hurry(self) -> bool:
        """Have what waits written at once; True when the writer does not know yet."""
        with self._gate:
            if self.is_urgent or not self._units:
                return False
            self.is_urgent = True
            return True

    def take(self, messages_max: int, bytes_max: int) -> list[UnitOfWork]:
        """Take units from the front: all, or as many as stay within both limits, at least one."""
        with self._gate:
            units = self._units
            if self.message_count <= messages_max and self.size_bytes <= bytes_max:
                self._units = []
                self.message_count = self.size_bytes = 0
                self.is_urgent = False
                return [unit for unit, _ in units]
            count = taken = taken_bytes = 0
            for unit, size_bytes in units:
                more = taken + len(unit.published)
                if count and (more > messages_max or taken_bytes + size_bytes > bytes_max):
                    break
                count += 1
                taken = more
                taken_bytes += size_bytes
            self._units = units[count:]
            self.message_count -= taken
            self.size_bytes -= taken_bytes
            return [unit for unit, _ in units[:count]]

    def overlay(self, lane: int) -> Overlay:
        """What the waiting units change in a lane."""
        overlay = Overlay()
        with self._gate:
            for unit, _ in self._units:
                overlay.add(unit, lane)
        return overlay
