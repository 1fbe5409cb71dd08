"""Queues by the time at which somebody must look at them: messages or the queue itself expire.

A heap with one valid entry a queue; an entry that an earlier one replaced is stale and passed over.  Costs nothing while nothing
is due.  Tests: tests/unit/broker/core/test_expiry.py.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from broker.core.queue import Queue

_SPARE: Final = 64
"""Entries below which nothing is tidied."""


@final
class Deadlines:
    """When to look at which queue; times are milliseconds since 1970."""

    __slots__ = ("_heap", "_serial", "_tidy_at")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Queue]] = []
        self._serial = 0
        self._tidy_at = _SPARE

    def add(self, queue: Queue, at_ms: int) -> None:
        """Look at a queue at that time; an earlier time that is set already stays."""
        if queue.look_at_ms and queue.look_at_ms <= at_ms:
            return
        queue.look_at_ms = at_ms
        self._serial += 1
        heappush(self._heap, (at_ms, self._serial, queue))
        if len(self._heap) > self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        self._heap = [entry for entry in self._heap if _is_valid(entry)]
        heapify(self._heap)
        self._tidy_at = _SPARE + 2 * len(self._heap)

    def is_due(self, now_ms: int) -> bool:
        """Whether `take` may have something."""
        return bool(self._heap) and self._heap[0][0] <= now_ms

    def take(self, now_ms: int, count_max: int) -> list[Queue]:
        """Take the queues whose time has come, at most so many."""
        found: list[Queue] = []
        heap = self._heap
        while heap and heap[0][0] <= now_ms and len(found) < count_max:
            entry = heappop(heap)
            if _is_valid(entry):
                entry[2].look_at_ms = 0
                found.append(entry[2])
        return found


def _is_valid(entry: tuple[int, int, Queue]) -> bool:
    return entry[2].look_at_ms == entry[0] and not entry[2].is_deleted
