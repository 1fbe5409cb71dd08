"""What a receiver knows of a sender's queue, and what a sender knows of its own: repeats on one link.

A receiver keeps one `Cursor` for each queue that is sent to it, named by the sender's store id and the queue's lane number,
neither of which is ever used again.  For a queue that only the link consumes it is a position: at or below is a
repeat.  For a shared queue, where requeued positions come back lower, it is the set of positions applied and not
known to be settled by the sender.  Written in the same unit as the messages, it says what is applied exactly.

A cursor also names the *claim* under which the sender gave the position: a random number of one opening of its store.  A
sender keeps the claims of each linked queue with the positions at which they began (`History`); a cursor whose claim and position are not
on it means that the store was replaced by a copy, and a new stream begins.

Definitions: `["cursor", store id, lane]`; histories are in those of linked.py.  Tests: tests/unit/broker/link/test_cursor.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, final

from broker.link.ranges import Ranges
from broker.link.trace import Define

CLAIMS_MAX: Final = 200
"""Openings of a store that a linked queue remembers: links that are away for longer begin a new stream."""
CURSORS_MAX: Final = 10_000
LANE_BITS: Final = 48
"""A position of a shared queue is written as lane index << 48 | position, so that queues with priorities fit, too."""


@final
class Cursor:
    """What was applied of one queue of a sender.

    `position`: everything up to it (-1: nothing); `applied`: for shared queues, single positions.
    """

    __slots__ = ("applied", "claim", "is_shared", "key", "position")

    def __init__(self, key: str, *, is_shared: bool) -> None:
        self.key = key
        self.claim = ""
        self.position = -1
        self.is_shared = is_shared
        self.applied = Ranges()

    def definition(self) -> dict[str, Any]:
        """What the store keeps of it."""
        if self.is_shared:
            return {"claim": self.claim, "applied": self.applied.flat()}
        return {"claim": self.claim, "position": self.position}

    def statement(self) -> list[Any]:
        """What a receiver states when it connects: claim, position, ranges."""
        return [self.claim, self.position, self.applied.flat()]

    def restart(self) -> None:
        """Forget it: the sender begins a new stream."""
        self.claim = ""
        self.position = -1
        self.applied = Ranges()


@final
class CursorTable:
    """All cursors of a broker.  Bounded: the one that was silent longest is forgotten first."""

    __slots__ = ("_cursors",)

    def __init__(self) -> None:
        self._cursors: dict[str, Cursor] = {}

    def restore(self, definitions: Mapping[str, dict[str, Any]]) -> None:
        """Take over what the store holds."""
        for key, made in definitions.items():
            if not key.startswith('["cursor"'):
                continue
            cursor = Cursor(key, is_shared="applied" in made)
            cursor.claim = made["claim"]
            cursor.position = made.get("position", -1)
            cursor.applied = Ranges(made.get("applied", ()))
            self._cursors[key] = cursor

    def cursor(self, store_id: bytes, lane: int, *, is_shared: bool) -> Cursor:
        """The cursor of a sender's queue, made if there is none."""
        key = json.dumps(["cursor", store_id.hex(), lane])
        cursor = self._cursors.get(key)
        if cursor is None or cursor.is_shared != is_shared:
            cursor = self._cursors[key] = Cursor(key, is_shared=is_shared)
        return cursor

    def write(self, cursor: Cursor, define: Define) -> None:
        """Put a cursor into the turn's unit, with the messages that it counts."""
        define(cursor.key, cursor.definition())
        # Last used last.
        self._cursors.pop(cursor.key, None)
        self._cursors[cursor.key] = cursor
        if len(self._cursors) > CURSORS_MAX:
            oldest = next(iter(self._cursors))
            del self._cursors[oldest]
            define(oldest, None)


@final
class History:
    """Under which claims the positions of a linked queue were given: (claim, first position of each lane), oldest first."""

    __slots__ = ("claims",)

    def __init__(self, claims: list[list[Any]] | None = None) -> None:
        self.claims = claims or []

    def begin(self, claim: str, nexts: list[int]) -> None:
        """A new opening of the store begins at these positions.

        One under which no position was given stays, too: older ones may have been sent under it.
        """
        self.claims.append([claim, nexts])
        del self.claims[:-CLAIMS_MAX]

    def has(self, claim: str, positions: Mapping[int, int]) -> bool:
        """Whether a claim and (lane index → position) given under it, or before, are on this history."""
        for index, (known, _) in enumerate(self.claims):
            if known != claim:
                continue
            if index + 1 == len(self.claims):
                return True
            ends = self.claims[index + 1][1]
            return all(
                lane < len(ends) and position < ends[lane] for lane, position in positions.items()
            )
        return False
