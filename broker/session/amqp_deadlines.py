"""The times that one AMQP connection keeps: until the login, until the answer to its close, between looks, heart-beats.

Pure: told of the time, it answers with deadlines; what is then done is the connection's.
Tests: tests/unit/broker/session/test_amqp_deadlines.py.
"""

from __future__ import annotations

from typing import final

from broker.session.amqp_patience import check_seconds
from broker.session.heartbeat import Heartbeat


@final
class Deadlines:
    """The deadlines of one connection; times are Clock.now seconds, None is no deadline.

    `login_by`: the handshake must be over; `close_at`: the peer must have answered our close; `check_at`: the next look
    for deliveries that stay unacknowledged.
    """

    __slots__ = ("check_at", "close_at", "heartbeat", "login_by")

    def __init__(self, now: float, login_seconds: float) -> None:
        self.login_by: float | None = now + login_seconds
        self.close_at: float | None = None
        self.check_at: float | None = None
        self.heartbeat = Heartbeat(0.0, 0.0, now)

    def set_heartbeat(self, interval_seconds: float, now: float) -> None:
        """Take the negotiated interval, 0 for none: half of it to send, twice of it to wait (as RabbitMQ)."""
        self.heartbeat = Heartbeat(interval_seconds / 2, interval_seconds * 2, now)

    def enter(self, now: float, acknowledgement_seconds: float) -> None:
        """The handshake is over; 0 for deliveries that may stay unacknowledged for ever."""
        self.login_by = None
        if acknowledgement_seconds > 0:
            self.look_again(now, acknowledgement_seconds)

    def look_again(self, now: float, acknowledgement_seconds: float) -> None:
        """Set the next look for deliveries that stay unacknowledged."""
        self.check_at = now + check_seconds(acknowledgement_seconds)

    def await_end(self, now: float, seconds: float) -> None:
        """The end was announced: nothing else counts any more, the peer's heart-beats neither."""
        self.login_by = None
        self.close_at = now + seconds
        self.heartbeat = Heartbeat(0.0, 0.0, now)

    def end(self) -> None:
        """Keep no time any more, but for the heart-beat, which nobody asks for then."""
        self.login_by = self.close_at = self.check_at = None

    def is_end_due(self, now: float) -> bool:
        """Whether the peer had its time to answer our close."""
        return self.close_at is not None and now >= self.close_at

    def is_login_late(self, now: float) -> bool:
        """Whether the handshake took too long."""
        return self.login_by is not None and now >= self.login_by

    def is_look_due(self, now: float) -> bool:
        """Whether to look for deliveries that stay unacknowledged."""
        return self.check_at is not None and now >= self.check_at

    def next(self, *, has_channels: bool) -> float | None:
        """The earliest of them; without channels there are no deliveries to look for."""
        deadlines = (
            self.close_at,
            self.login_by,
            self.check_at if has_channels else None,
            self.heartbeat.next_deadline(),
        )
        return min((at for at in deadlines if at is not None), default=None)
