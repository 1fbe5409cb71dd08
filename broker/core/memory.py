"""The memory budget of a whole broker: windows of queues shrink with need, then publishers wait.

Each queue keeps the head of its backlog in memory, up to its window.  Ten thousand windows may be more than the machine has:
over a part of the budget all windows are halved, again and again, and what lies in the store anyway is let go; under another part
they grow back.  Queues that nobody consumes from have windows of their own, and a smaller part.  What cannot be let go
(transient messages, and what consumers hold) raises the alarm at the budget, and publishers wait until consumers have brought it
down.  `look` is called ten times a second and visits at most ROUND_MIN queues, or a tenth of those that hold anything; the windows of
queues without consumers shrink before a round is done, if they must.
Tests: tests/unit/broker/core/test_memory.py.
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
IDLE_BYTES_MIN: Final = 256
SHRINK_SHARE: Final = 0.6
GROW_SHARE: Final = 0.3
IDLE_SHRINK_SHARE: Final = 0.04
IDLE_GROW_SHARE: Final = 0.01
CALM_SHARE: Final = 0.8
"""Parts of the budget: above the first windows shrink, below the second they grow; the same for queues without consumers, by what
these hold; and below the last an alarm ends."""
ROUND_MIN: Final = 1000
_SAMPLE: Final = 16


@final
class Use:
    """What a round found so far: all queues of a kind together, and the largest."""

    __slots__ = ("bytes", "largest_bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self.largest_bytes = 0


@final
class Window:
    """How much a queue may keep in memory: `bytes` of bodies, `count` messages."""

    __slots__ = ("_bytes_full", "_bytes_min", "_count_full", "bytes", "count")

    def __init__(self, size_bytes: int, count: int, bytes_min: int) -> None:
        self._bytes_full = self.bytes = size_bytes
        self._count_full = self.count = count
        self._bytes_min = bytes_min

    @property
    def is_full(self) -> bool:
        """Whether it is as large as it may be."""
        return self.bytes >= self._bytes_full

    def fit(self, use: Use, shrink_bytes: float, grow_bytes: float) -> bool:
        """Halve or double by what the queues with this window use; True when it was halved."""
        if use.bytes > shrink_bytes and self.bytes > self._bytes_min:
            # Down to where it tells at once, if no queue uses nearly so much.
            self._set(max(self._bytes_min, min(self.bytes, use.largest_bytes) // 2))
            return True
        if use.bytes < grow_bytes and not self.is_full:
            self._set(min(self._bytes_full, self.bytes * 2))
        return False

    def _set(self, size_bytes: int) -> None:
        self.bytes = size_bytes
        self.count = self._count_full
        if size_bytes < self._bytes_full:
            least = max(1, 2 * self._bytes_min // 1024)
            self.count = max(least, min(self._count_full, size_bytes // MESSAGE_BYTES))


@final
class MemoryBudget:
    """What messages take in memory, all queues together.

    Queues are visited in rounds: `used_bytes` is what the last whole round found, or this one if that is more already.
    """

    __slots__ = (
        "_consumed",
        "_idle",
        "_is_early",
        "_round",
        "_round_at",
        "idle",
        "is_alarmed",
        "limit_bytes",
        "resident",
        "used_bytes",
        "window",
    )

    def __init__(self, limit_bytes: int, window_bytes: int, window_count: int) -> None:
        self.limit_bytes = limit_bytes
        self.window = Window(window_bytes, window_count, WINDOW_BYTES_MIN)
        self.idle = Window(window_bytes, window_count, min(IDLE_BYTES_MIN, window_bytes))
        # Queues that may hold something; they enter themselves.
        self.resident: dict[Queue, None] = {}
        self.used_bytes = 0
        self.is_alarmed = False
        self._round: list[Queue] = []
        self._round_at = 0
        self._consumed = Use()
        self._idle = Use()
        # This round has halved the windows of queues without consumers before its end.
        self._is_early = False

    def window_of(self, queue: Queue) -> Window:
        """What the queue may keep in memory now."""
        return self.window if queue.subscriptions else self.idle

    def look(self) -> bool:
        """Add up, set the windows; True when the alarm changed."""
        if self._visit():
            limit, everything = self.limit_bytes, Use()
            everything.bytes = self.used_bytes
            everything.largest_bytes = max(self._consumed.largest_bytes, self._idle.largest_bytes)
            is_halved = self.idle.fit(
                self._idle, IDLE_SHRINK_SHARE * limit, IDLE_GROW_SHARE * limit
            )
            if is_halved:
                # What that frees is seen in the next round.
                everything.bytes = self._consumed.bytes
            if self.window.fit(everything, SHRINK_SHARE * limit, GROW_SHARE * limit):
                is_halved = True
            if is_halved and len(self._round) <= ROUND_MIN:
                # Let go at once what is beyond the new windows.
                self._visit()
            self._is_early = False
        elif not self._is_early and self._idle.bytes > IDLE_SHRINK_SHARE * self.limit_bytes:
            # A round of ten thousand queues takes a second: too long for a flood to all of them.
            self._is_early = True
            self.idle.fit(self._idle, IDLE_SHRINK_SHARE * self.limit_bytes, 0)
        share = CALM_SHARE if self.is_alarmed else 1.0
        is_alarmed = self.used_bytes > share * self.limit_bytes
        is_changed = is_alarmed != self.is_alarmed
        self.is_alarmed = is_alarmed
        return is_changed

    def _visit(self) -> bool:
        """Look at the next queues of the round, or begin one; True when it is done."""
        if self._round_at >= len(self._round):
            self._round = list(self.resident)
            self._round_at = 0
            self._consumed, self._idle = Use(), Use()
        found = self._round
        start = self._round_at
        self._round_at = end = start + max(ROUND_MIN, -(-len(found) // 10))
        for queue in found if end - start >= len(found) else found[start:end]:
            window = self.window_of(queue)
            # It may have been away when the windows changed, or have got its first consumer.
            queue.window_bytes = window.bytes
            queue.window_count = window.count
            size_bytes = 0
            for lane in queue.lanes:
                if not window.is_full and (
                    lane.bytes > window.bytes or len(lane.ready) > window.count
                ):
                    _let_go(queue, lane)
                size_bytes += lane.bytes + MESSAGE_BYTES * len(lane.ready)
                if lane.unsettled:
                    size_bytes += _held_bytes(lane)
            if not size_bytes or queue.is_deleted:
                self.resident.pop(queue, None)
                continue
            use = self._idle if window is self.idle else self._consumed
            use.bytes += size_bytes
            if size_bytes > use.largest_bytes:
                use.largest_bytes = size_bytes
        used_bytes = self._consumed.bytes + self._idle.bytes
        is_done = end >= len(found)
        if is_done or used_bytes > self.used_bytes:
            self.used_bytes = used_bytes
        return is_done


def _held_bytes(lane: Lane) -> int:
    # Estimated: adding them up one by one would cost a pass over all that consumers hold.
    some = [len(d.message.body) for d in islice(lane.unsettled.values(), _SAMPLE)]
    return len(lane.unsettled) * (sum(some) // len(some) + MESSAGE_BYTES)


def _let_go(queue: Queue, lane: Lane) -> None:
    """Leave what is beyond the window to the store, from the tail on, as far as it is there and was never handed out."""
    if queue.choice is not None:
        return
    ready = lane.ready
    while len(ready) > 1 and (lane.bytes > queue.window_bytes or len(ready) > queue.window_count):
        last = ready[-1]
        if not last.is_stored or last.count:
            break
        ready.pop()
        size_bytes = len(last.message.body)
        lane.bytes -= size_bytes
        lane.paged_from = last.position
        lane.paged_count += 1
        lane.paged_bytes += size_bytes
