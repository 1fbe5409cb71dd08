"""When to dial again: decorrelated jitter, begun anew after a stable minute.

Pure.  Tests: tests/unit/broker/link/test_backoff.py.
"""

from __future__ import annotations

import random
from typing import Final, final

STABLE_SECONDS: Final = 60.0


@final
class Backoff:
    """Waits between attempts: each a random time between the least and three times the last, up to the most."""

    __slots__ = ("_random", "_wait_seconds", "seconds", "seconds_max")

    def __init__(self, seconds: float, seconds_max: float, source: random.Random) -> None:
        self.seconds = seconds
        self.seconds_max = seconds_max
        self._random = source
        self._wait_seconds = seconds

    def next_wait(self) -> float:
        """How long to wait before the next attempt."""
        most = max(self.seconds, self._wait_seconds * 3)
        self._wait_seconds = min(self.seconds_max, self._random.uniform(self.seconds, most))
        return self._wait_seconds

    def lasted(self, up_seconds: float) -> None:
        """A connection was up for so long before it ended."""
        if up_seconds >= STABLE_SECONDS:
            self._wait_seconds = self.seconds
