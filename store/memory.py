"""A `Store` that forgets when the process ends: for tests and for brokers without durable queues.

Passes the same suite as the journal (tests/suites/store_suite.py), so that it is a verified fake; everything is
"durable" at once, told through `post`.  Tests: tests/unit/store/test_memory.py.
"""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Callable
from typing import Any, final

from store.interface import (
    CHANGE_DEFINE,
    CHANGE_DROP_LANE,
    CHANGE_HORIZON,
    CHANGE_PURGE,
    CHANGE_REQUEUE,
    Recovered,
    StoredMessage,
    UnitOfWork,
)


@final
class _Lane:
    __slots__ = ("counts", "messages", "positions")

    def __init__(self) -> None:
        self.messages: dict[int, StoredMessage] = {}
        # Ascending; may name what is gone, so that leaving costs nothing; tidied when half of it is.
        self.positions: list[int] = []
        self.counts: dict[int, int] = {}

    def remove(self, position: int) -> None:
        self.messages.pop(position, None)
        self.counts.pop(position, None)
        if len(self.positions) > 64 and len(self.positions) > 2 * len(self.messages):
            self.positions = sorted(self.messages)


@final
class MemoryStore:
    """Keeps lanes in dictionaries."""

    __slots__ = (
        "_commit",
        "_definitions",
        "_lanes",
        "_on_durable",
        "_post",
        "durable",
        "is_blocked",
    )

    def __init__(self) -> None:
        self.durable = 0
        self.is_blocked = False
        self._commit = 0
        self._lanes: dict[int, _Lane] = {}
        self._definitions: dict[str, dict[str, Any]] = {}

    def open(
        self,
        post: Callable[[Callable[[], None]], None],
        on_durable: Callable[[int], None],
        on_failed: Callable[[BaseException], None],
        on_blocked: Callable[[bool], None],
    ) -> Recovered:
        """Start empty."""
        self._post = post
        self._on_durable = on_durable
        return Recovered({}, {}, 1, 1, secrets.token_hex(16))

    def commit(self, unit: UnitOfWork) -> int:
        """Apply the unit at once."""
        if not unit:
            return self._commit
        self._commit += 1
        for message, number, position in unit.published:
            lane = self._lane(number)
            lane.messages[position] = message
            if lane.positions and lane.positions[-1] > position:
                bisect.insort(lane.positions, position)
            else:
                lane.positions.append(position)
        for number, position, _ in unit.acknowledged:
            self._lane(number).remove(position)
        for change in unit.changes:
            self._change(change)
        commit = self.durable = self._commit
        on_durable = self._on_durable
        self._post(lambda: on_durable(commit))
        return commit

    def hurry(self) -> None:
        """Nothing ever waits."""

    def _lane(self, number: int) -> _Lane:
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane()
        return lane

    def _change(self, change: tuple[Any, ...]) -> None:
        kind = change[0]
        if kind == CHANGE_DEFINE:
            if change[2] is None:
                self._definitions.pop(change[1], None)
            else:
                self._definitions[change[1]] = change[2]
        elif kind == CHANGE_DROP_LANE:
            self._lanes.pop(change[1], None)
        elif kind == CHANGE_PURGE:
            lane = self._lane(change[1])
            keep = set(change[3])
            for position in [p for p in lane.messages if p < change[2] and p not in keep]:
                lane.remove(position)
        elif kind == CHANGE_REQUEUE:
            lane = self._lane(change[1])
            if change[2] in lane.messages:
                lane.counts[change[2]] = change[3]
        else:
            assert kind == CHANGE_HORIZON, f"unknown change {change!r}"

    def read(
        self, lane: int, first: int, count_max: int, bytes_max: int
    ) -> list[tuple[int, StoredMessage, int]]:
        """The next live messages of a lane, in order."""
        found = self._lanes.get(lane)
        rows: list[tuple[int, StoredMessage, int]] = []
        if found is None:
            return rows
        size_bytes = 0
        index = bisect.bisect_left(found.positions, first)
        while index < len(found.positions) and len(rows) < count_max and size_bytes < bytes_max:
            position = found.positions[index]
            index += 1
            message = found.messages.get(position)
            if message is not None:
                rows.append((position, message, found.counts.get(position, 0)))
                size_bytes += len(message.body) + len(message.header)
        return rows

    def close(self) -> None:
        """Nothing to write."""

    def stat(self) -> dict[str, Any]:
        """Figures in the journal's words."""
        messages = [m for lane in self._lanes.values() for m in lane.messages.values()]
        return {
            "epoch": 1,
            "segments": 0,
            "lanes": len(self._lanes),
            "messages": len(messages),
            "message_bytes": sum(len(m.body) + len(m.header) for m in messages),
            "commits": self._commit,
            "commits_durable": self.durable,
            "is_blocked": False,
            "sync": "none: this store is memory only",
        }
