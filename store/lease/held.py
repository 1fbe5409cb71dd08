"""A lease in our hands: the two fences of the guard, and its renewal.

Lookup fence: no later epoch exists.  Clock fence: now is before the start of the last good renewal + duration - margin, on a
clock that goes on while the machine sleeps.  A renewal starts only while that holds, and is good only if it also
returned while it held.  Once lost, a lease stays lost.  Threads: `check`, `is_valid` and `beat` may be called from any and wait for
nobody; `renew` and `release` exclude each other.  Design: docs/failover.md.  Tests: tests/unit/store/test_lease_held.py,
tests/sim/test_lease.py.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final, Protocol, final

from store.errors import Fenced
from store.lease.block import Block

RELEASE_WAIT_SECONDS: Final = 2.0
OPENING_BEAT: Final = "opening"
WRITER_BEAT: Final = "writer"
REACTOR_BEAT: Final = "reactor"


class Ledger(Protocol):
    """Where an ownership is written down."""

    def write(self, block: Block) -> None:
        """Write and sync.  Raises OSError, Fenced when the place is not ours any more."""
        ...

    def is_superseded(self) -> bool:
        """Whether a later epoch exists.  Raises OSError."""
        ...


@final
class Lease:
    """Our right to write, under one epoch.  Without duration it does not run out and is not renewed."""

    __slots__ = (
        "_clock",
        "_gate",
        "_is_released",
        "_ledger",
        "_margin_seconds",
        "beats",
        "block",
        "expected",
        "is_urgent",
        "lost_reason",
        "renewed_at",
        "slowest_seconds",
        "valid_until",
    )

    def __init__(
        self,
        ledger: Ledger,
        block: Block,
        clock: Callable[[], float],
        margin_seconds: float,
        started_at: float,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._margin_seconds = margin_seconds
        self._gate = threading.Lock()
        self._is_released = False
        self.block = block
        self.renewed_at = started_at
        self.valid_until = self._end(started_at)
        self.slowest_seconds = 0.0
        self.lost_reason = ""
        self.is_urgent = False
        # Signs of life of those who must move for the lease to be renewed, and whose are waited for.
        self.beats: dict[str, int] = {}
        self.expected: tuple[str, ...] = ()

    @property
    def epoch(self) -> int:
        """The number that fences former owners."""
        return self.block.epoch

    def _end(self, started_at: float) -> float:
        duration = self.block.duration_seconds
        return started_at + duration - self._margin_seconds if duration else math.inf

    def write_to(self, make: Callable[[Ledger], Ledger]) -> None:
        """Write renewals to what `make` makes of the ledger so far; before the first one."""
        self._ledger = make(self._ledger)

    def check(self) -> None:
        """Pass both fences, or raise Fenced; OSError when the lookup gets no answer."""
        if self._ledger.is_superseded():
            self.lose(f"the store was taken over: an epoch after {self.epoch} exists")
        # The clock last: the lookup may have taken long.
        if not self.is_valid():
            raise Fenced(self.lost_reason)

    def is_valid(self) -> bool:
        """Pass the clock fence alone; no file is looked at."""
        if self.lost_reason:
            return False
        if self._clock() < self.valid_until:
            return True
        self.lose(
            f"the lease of epoch {self.epoch} ran out: no renewal returned in time "
            f"({self.block.duration_seconds:g} s, less {self._margin_seconds:g} s margin)"
        )
        return False

    def lose(self, reason: str) -> None:
        """Close the guard for good; the first reason stays."""
        if not self.lost_reason:
            self.lost_reason = reason

    def beat(self, name: str) -> None:
        """A sign of life of one of those who must move."""
        self.beats[name] = self.beats.get(name, 0) + 1

    def expect(self, *names: str) -> None:
        """Renew from now on only while these move."""
        self.expected = names

    def renew(self) -> bool:
        """Write the next counter; False when the lease is lost or released.  Raises OSError: the renewal was not good."""
        with self._gate:
            if self._is_released or not self.is_valid():
                return False
            started_at = self._clock()
            self.block.counter += 1
            self.is_urgent = False
            try:
                self._ledger.write(self.block)
                if self._ledger.is_superseded():
                    self.lose(f"the store was taken over: an epoch after {self.epoch} exists")
            except Fenced as error:
                self.lose(str(error))
            if not self.is_valid():
                return False
            # Still before the old end: only now does the new one count.
            self.slowest_seconds = max(self.slowest_seconds, self._clock() - started_at)
            self.renewed_at = started_at
            self.valid_until = self._end(started_at)
            return True

    def mark_opened(self, batch: int) -> None:
        """The opening batch is durable; the next renewal, asked for at once, says so."""
        self.block.durable_batch = batch
        self.block.is_opened = True
        self.is_urgent = True

    def note_durable(self, batch: int) -> None:
        """The next renewal names this batch as durable."""
        self.block.durable_batch = batch

    def release(self) -> None:
        """Say that nobody owns the store any more; nothing is promised afterwards.  Raises OSError."""
        if not self._gate.acquire(timeout=RELEASE_WAIT_SECONDS):
            self.lose("the lease was given up while a renewal hung")
            return
        try:
            if self._is_released:
                return
            self._is_released = True
            self.lose(f"the lease of epoch {self.epoch} was released")
            self.block.counter += 1
            self.block.is_released = True
            self._ledger.write(self.block)
        finally:
            self._gate.release()
