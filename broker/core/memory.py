"""The memory budget of a whole broker: windows of queues shrink with need, then publishers wait.

Each queue keeps the head of its backlog in memory, up to its window.  Ten thousand windows may be more than the machine has:
over a part of the budget all windows are halved, again and again, and what lies in the store anyway is let go; under another part
they grow back.  What cannot be let go (transient messages, and what consumers hold) raises the alarm at the budget, and
publishers wait until consumers have brought it down.  `look` is called ten times a second and costs a little for each queue
that holds anything.  Tests: tests/unit/broker/core/test_memory.py.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from broker.core.lane import Lane
    from broker.core.queue import Queue

MESSAGE_BYTES: Final = 700
"""What a message in memory costs besides its body."""
WINDOW_BYTES_MIN: Final = 4096
SHRINK_SHARE: Final = 0.6
GROW_SHARE: Final = 0.3
CALM_SHARE: Final = 0.8
"""Parts of the budget: above the first windows shrink, below the second they grow, and below the third an alarm ends."""
_SAMPLE: Final = 16


@final
class MemoryBudget:
    """What messages take in memory, all queues together."""

    __slots__ = (
        "_count_full",
        "_window_full_bytes",
        "is_alarmed",
        "limit_bytes",
        "resident",
        "used_bytes",
        "window_bytes",
        "window_count",
    )

    def __init__(self, limit_bytes: int, window_bytes: int, window_count: int) -> None:
        self.limit_bytes = limit_bytes
        self._window_full_bytes = window_bytes
        self._count_full = window_count
        self.window_bytes = window_bytes
        self.window_count = window_count
        # Queues that may hold something; they enter themselves.
        self.resident: dict[Queue, None] = {}
        self.used_bytes = 0
        self.is_alarmed = False

    def look(self) -> bool:
        """Add up, set the windows; True when the alarm changed."""
        self._count()
        if self.used_bytes > SHRINK_SHARE * self.limit_bytes:
            self._set_windows(max(WINDOW_BYTES_MIN, self.window_bytes // 2))
            for queue in list(self.resident):
                _let_go(queue)
            self._count()
        elif (
            self.window_bytes < self._window_full_bytes
            and self.used_bytes < GROW_SHARE * self.limit_bytes
        ):
            self._set_windows(min(self._window_full_bytes, self.window_bytes * 2))
        share = CALM_SHARE if self.is_alarmed else 1.0
        is_alarmed = self.used_bytes > share * self.limit_bytes
        is_changed = is_alarmed != self.is_alarmed
        self.is_alarmed = is_alarmed
        return is_changed

    def _count(self) -> None:
        total = 0
        for queue in list(self.resident):
            used = sum(_lane_bytes(lane) for lane in queue.lanes)
            if used and not queue.is_deleted:
                total += used
                # It may have been away when the windows changed.
                queue.window_bytes = self.window_bytes
                queue.window_count = self.window_count
            else:
                del self.resident[queue]
        self.used_bytes = total

    def _set_windows(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        self.window_count = self._count_full
        if window_bytes < self._window_full_bytes:
            self.window_count = max(8, min(self._count_full, window_bytes // MESSAGE_BYTES))
        for queue in self.resident:
            queue.window_bytes = self.window_bytes
            queue.window_count = self.window_count


def _lane_bytes(lane: Lane) -> int:
    used = lane.bytes + MESSAGE_BYTES * len(lane.ready)
    held = len(lane.unsettled)
    if held:
        # Estimated: adding them up one by one would cost a pass over all that consumers hold.
        some = [len(d.message.body) for d in islice(lane.unsettled.values(), _SAMPLE)]
        used += held * (sum(some) // len(some) + MESSAGE_BYTES)
    return used


def _let_go(queue: Queue) -> None:
    """Leave what is beyond the window to the store, from the tail on, as far as it is there and was never handed out."""
    if queue.choice is not None:
        return
    for lane in queue.lanes:
        ready = lane.ready
        while len(ready) > 1 and (
            lane.bytes > queue.window_bytes or len(ready) > queue.window_count
        ):
            last = ready[-1]
            if not last.is_stored or last.count:
                break
            ready.pop()
            size_bytes = len(last.message.body)
            lane.bytes -= size_bytes
            lane.paged_from = last.position
            lane.paged_count += 1
            lane.paged_bytes += size_bytes
