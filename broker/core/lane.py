"""A lane: one sequence of positions of a queue, its head in memory, the rest in the store only.

A queue has one, or one a priority.  What does not fit the queue's window is only counted here (`broker/core/backlog.py`
reads it back).  Invariants: `ready` is in position order, and lies before `paged_from` while anything is paged.
Tests: tests/unit/broker/core/test_lane.py, tests/property/test_queue_model.py.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from broker.core.delivery import Delivery

LOAD_FIRST: Final = 16
"""Messages that the first read of a backlog asks for."""
_FEW: Final = 8
"""Fewer messages than this are put back one by one."""


@final
class Lane:
    """One sequence of positions of a queue.

    `ready` holds deliveries in memory in position order; `paged_count` more lie in the store from `paged_from` on, with
    `paged_bytes` of bodies (at most: after a restart the store's overhead counts, until `is_exact`).
    `unsettled` maps positions to what is in a consumer's hands.  `held` maps positions to delivery counts: these wait in the
    store for their time (`Delays.requeue`), after a restart even beyond `paged_from`: then it `has_gaps`.  Positions below
    `redelivered_before` may have been handed out before a restart.
    """

    __slots__ = (
        "bytes",
        "has_gaps",
        "held",
        "horizon",
        "is_exact",
        "load_count",
        "next",
        "number",
        "paged_bytes",
        "paged_count",
        "paged_from",
        "ready",
        "redelivered_before",
        "unsettled",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.next = 0
        self.horizon = 0
        self.redelivered_before = 0
        self.ready: deque[Delivery] = deque()
        self.unsettled: dict[int, Delivery] = {}
        self.held: dict[int, int] = {}
        self.has_gaps = False
        self.bytes = 0
        self.paged_count = 0
        self.paged_bytes = 0
        self.is_exact = True
        self.load_count = LOAD_FIRST
        self.paged_from = 0

    def insert(self, returned: list[Delivery]) -> None:
        """Put messages that were handed out (in position order) back to their places in memory."""
        self.bytes += sum(len(delivery.message.body) for delivery in returned)
        ready = self.ready
        if not ready or returned[-1].position < ready[0].position:
            ready.extendleft(reversed(returned))
        elif len(returned) < _FEW:
            for delivery in returned:
                insort(ready, delivery, key=position_of)
        else:
            self.ready = deque(sorted([*returned, *ready], key=position_of))

    def clear(self) -> None:
        """Forget all that nobody holds."""
        self.ready.clear()
        self.bytes = 0
        self.paged_count = self.paged_bytes = 0


def position_of(delivery: Delivery) -> int:
    """Give the key by which a lane is sorted."""
    return delivery.position
