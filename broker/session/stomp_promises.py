"""Frames that wait for stable storage, in order.

What joins the queue in a turn waits for that turn's commit; once anything waits, whatever must not overtake it waits too.
Tests: tests/unit/broker/session/test_stomp_promises.py.
"""

from __future__ import annotations

from collections import deque
from typing import final


@final
class Promises:
    """The waiting receipts (and a last ERROR) of one session."""

    __slots__ = ("_fresh", "_waiting", "count")

    def __init__(self) -> None:
        self._fresh: list[bytes] = []
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self.count = 0

    def add(self, frame: bytes) -> None:
        """Keep a frame back until this turn's commit is durable."""
        self._fresh.append(frame)
        self.count += 1

    def end_turn(self, commit: int) -> bool:
        """Everything added since the last turn's end is in this commit; True if anything was."""
        if not self._fresh:
            return False
        self._waiting.append((commit, len(self._fresh), b"".join(self._fresh)))
        self._fresh.clear()
        return True

    def release(self, commit: int, output: list[bytes]) -> None:
        """Append what commits up to this one allow."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= commit:
            _, count, frames = waiting.popleft()
            self.count -= count
            output.append(frames)
