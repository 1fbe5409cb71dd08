"""Time as an argument: the clock port and the real clock.  Fakes: tests/support/."""

from __future__ import annotations

import time
from typing import Protocol, final


class Clock(Protocol):
    """Where the broker's time comes from."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...


@final
class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
