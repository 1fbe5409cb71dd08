"""When to send a heart-beat, and when a silent peer counts as dead.

Pure: told of traffic and time, it answers with deadlines.  Knows neither protocol: AMQP passes half the
negotiated interval to send and twice of it to wait, STOMP its two negotiated directions.
Tests: tests/unit/broker/session/test_heartbeat.py.
"""

from __future__ import annotations

from typing import final


@final
class Heartbeat:
    """The two clocks of one connection.

    `send_seconds`: a heart-beat is due after so long without output; `silence_seconds`: the peer is dead after so long
    without input; 0 turns that direction off.  Times are Clock.now seconds.
    """

    __slots__ = ("_heard_at", "_sent_at", "send_seconds", "silence_seconds")

    def __init__(self, send_seconds: float, silence_seconds: float, now: float) -> None:
        self.send_seconds = send_seconds
        self.silence_seconds = silence_seconds
        self._heard_at = now
        self._sent_at = now

    def heard(self, now: float) -> None:
        """Bytes came from the peer; any count."""
        self._heard_at = now

    def sent(self, now: float) -> None:
        """Bytes went to the peer; any count."""
        self._sent_at = now

    def is_due(self, now: float) -> bool:
        """Whether a heart-beat must be sent now."""
        return self.send_seconds > 0 and now >= self._sent_at + self.send_seconds

    def is_dead(self, now: float) -> bool:
        """Whether the peer has been silent for too long."""
        return self.silence_seconds > 0 and now >= self._heard_at + self.silence_seconds

    def next_deadline(self) -> float | None:
        """The earliest time at which `is_due` or `is_dead` can become true; None if both are off."""
        deadline: float | None = None
        if self.send_seconds > 0:
            deadline = self._sent_at + self.send_seconds
        if self.silence_seconds > 0:
            dead_at = self._heard_at + self.silence_seconds
            if deadline is None or dead_at < deadline:
                deadline = dead_at
        return deadline
