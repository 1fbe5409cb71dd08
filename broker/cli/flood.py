"""How many lines of one kind the log takes: who is refused a thousand times a second must not fill the disk with it.

The first lines of each kind in a while are written, the others counted; the next line that is written says how many were left out.
Tests: tests/unit/broker/cli/test_flood.py.
"""

from __future__ import annotations

import logging
from typing import Final, final

from broker.clock import Clock, SystemClock

LINES_MAX: Final = 100
"""Lines of one kind in a window."""
WINDOW_SECONDS: Final = 10.0
KINDS_MAX: Final = 1000
"""Kinds that are told apart; then all begin anew."""


@final
class _Kind:
    __slots__ = ("count", "ends_at", "left_out_count")

    def __init__(self, ends_at: float) -> None:
        self.count = 0
        self.left_out_count = 0
        self.ends_at = ends_at


@final
class LineBudget(logging.Filter):
    """A filter of a handler; a kind is what one place in the code says at one level."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self._clock = clock or SystemClock()
        self._kinds: dict[tuple[str, int, int], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; errors always are."""
        if record.levelno >= logging.ERROR:
            return True
        now = self._clock.now()
        key = (record.pathname, record.lineno, record.levelno)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS_MAX:
                self._kinds.clear()
            kind = self._kinds[key] = _Kind(now + WINDOW_SECONDS)
        elif now >= kind.ends_at:
            kind.count = 0
            kind.ends_at = now + WINDOW_SECONDS
        if kind.count >= LINES_MAX:
            kind.left_out_count += 1
            return False
        kind.count += 1
        if kind.left_out_count:
            record.msg = f"{record.getMessage()} (before it {kind.left_out_count} lines like it were left out)"
            record.args = ()
            kind.left_out_count = 0
        return True
