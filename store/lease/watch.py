"""When another's lease may be taken: judged by how long its counter stood still on our own clock.

Pure.  Clocks of two hosts are never compared.  The time that counts is from *after* the first read of a counter to
*before* the last one.  A torn block is no renewal, but who had looked away cannot know how many came before it: it counts
from when it was first seen torn.  Tests: tests/unit/store/test_lease_watch.py, tests/sim/test_lease.py.
"""

from __future__ import annotations

import enum
from typing import final

from store.lease.block import Block, LeaseFile


class Verdict(enum.Enum):
    """Whether the lease may be claimed, and why."""

    FREE = "never owned"
    RELEASED = "released by its owner"
    DEAD = "its owner is proved dead"
    EXPIRED = "not renewed in time"
    HELD = "held"

    @property
    def is_claimable(self) -> bool:
        """Everything but HELD."""
        return self is not Verdict.HELD


@final
class Sight:
    """What one look at the newest lease saw, and when it began and ended on our clock."""

    __slots__ = ("epoch", "file", "is_proved_dead", "returned_at", "started_at", "verdict")

    def __init__(
        self,
        epoch: int,
        file: LeaseFile | None,
        is_proved_dead: bool,
        started_at: float,
        returned_at: float,
        verdict: Verdict | None = None,
    ) -> None:
        # A locker with a clock of its own has judged already.
        self.verdict = verdict
        self.epoch = epoch
        self.file = file
        self.is_proved_dead = is_proved_dead
        self.started_at = started_at
        self.returned_at = returned_at

    @property
    def block(self) -> Block | None:
        """The best that is known of the owner."""
        return self.file.latest if self.file is not None else None


@final
class Watch:
    """Follows the newest lease."""

    __slots__ = (
        "_counter",
        "_drift",
        "_duration_seconds",
        "_epoch",
        "_own_seconds",
        "_since",
        "_torn_since",
    )

    def __init__(self, own_duration_seconds: float, drift: float) -> None:
        self._own_seconds = own_duration_seconds
        self._drift = drift
        self._epoch = -1
        self._counter: tuple[str, int] | None = None
        self._duration_seconds = own_duration_seconds
        self._since = 0.0
        self._torn_since: float | None = None

    @property
    def since(self) -> float:
        """When the counter was first seen at its present value, or torn."""
        return self._since if self._torn_since is None else self._torn_since

    @property
    def patience_seconds(self) -> float:
        """How long a counter must stand still."""
        return self._duration_seconds * (1 + self._drift)

    def judge(self, sight: Sight) -> Verdict:
        """Take in a look and say whether its lease may be claimed."""
        if sight.epoch == 0:
            return Verdict.FREE
        if sight.epoch != self._epoch:
            self._epoch = sight.epoch
            self._counter = None
            self._duration_seconds = self._own_seconds
            self._since = sight.returned_at
            self._torn_since = None
        block = sight.block
        if sight.verdict is not None:
            self._note(sight)
            return sight.verdict
        if block is not None:
            if block.is_released:
                return Verdict.RELEASED
            if sight.is_proved_dead:
                return Verdict.DEAD
            if block.duration_seconds:
                self._duration_seconds = block.duration_seconds
        self._note(sight)
        if sight.started_at - self.since >= self.patience_seconds:
            return Verdict.EXPIRED
        return Verdict.HELD

    def _note(self, sight: Sight) -> None:
        """Note since when the counter has its value, or is torn."""
        renewed = sight.file.renewed if sight.file is not None else None
        if renewed is None:
            if self._torn_since is None:
                self._torn_since = sight.returned_at
        else:
            self._torn_since = None
            if (renewed.claim, renewed.counter) != self._counter:
                self._counter = (renewed.claim, renewed.counter)
                self._since = sight.returned_at
