"""How long a channel's deliveries may stay unacknowledged (RabbitMQ's consumer timeout).

Costs nothing a delivery: now and then the highest delivery tag is noted with the time, and a tag at or below an old note is overdue.
Tests: tests/unit/broker/session/test_amqp_patience.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, final

from broker.errors import PreconditionFailed

CHECK_SECONDS_MAX: Final = 60.0
"""How often to look, at least; short timeouts are looked at four times in their span."""


def check_seconds(timeout_seconds: float) -> float:
    """How often to look for a timeout of that length."""
    return min(CHECK_SECONDS_MAX, timeout_seconds / 4)


def overdue(number: int, timeout_seconds: float) -> PreconditionFailed:
    """What a channel hears whose patience is over, in RabbitMQ's words."""
    return PreconditionFailed(
        f"delivery acknowledgement on channel {number} timed out. Timeout value used: "
        f"{round(timeout_seconds * 1000)} ms. This timeout value can be configured, see "
        "consumers doc guide to learn more"
    )


@final
class Patience:
    """The notes of one channel, oldest first."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque()

    def is_over(
        self, unsettled: Iterable[int], last_tag: int, now: float, timeout_seconds: float
    ) -> bool:
        """Whether a delivery waits for longer than the timeout; call it every `check_seconds`."""
        oldest = min(unsettled, default=0)
        notes = self._notes
        if not oldest:
            notes.clear()
            return False
        while notes and notes[0][1] < oldest:
            notes.popleft()
        if notes and now - notes[0][0] >= timeout_seconds:
            return True
        if not notes or notes[-1][1] < last_tag:
            notes.append((now, last_tag))
        return False
