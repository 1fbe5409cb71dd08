# ruff: noqa: N802 - method names are Twisted's
"""A socket and its session: the only Protocol of the broker.

Bytes go straight to the session; what it says is written at the end of the turn, in one write.  A peer that does not read
stops its deliveries at Twisted's buffer (64 KiB) and what one turn adds; a peer that publishes is not read while the store is
blocked.  Tests: tests/unit/broker/net/test_connection.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.net.turn import Turn
    from broker.session.base import Session, Wake

log = logging.getLogger(__name__)

SessionFactory = Callable[[str, bool, "Wake"], "Session"]
"""Makes a session from the peer's address, whether it is a loopback one, and the wake call."""
UNSENT_BYTES_MAX = 8 << 20
"""Replies that may wait for a peer that does not read; beyond, it is not read from either."""
LINGER_SECONDS = 5.0
"""How long a closing connection may take to write what it still has to say."""


@implementer(IPushProducer)
@final
class Connection(Protocol):
    """One accepted connection."""

    def __init__(
        self,
        broker: Broker,
        turn: Turn,
        make_session: SessionFactory,
        call_later: Callable[..., Any],
        listings: tuple[dict[Connection, None], ...],
    ) -> None:
        self._broker = broker
        self._turn = turn
        self._make_session = make_session
        self._call_later = call_later
        self._listings = listings
        self._timer: Any = None
        self._timer_at = 0.0
        self._is_closing = False
        self._is_writable = True
        self._unsent_bytes = 0
        self._is_deaf = False
        self.is_publisher = False
        self.peer = ""
        self.session: Session | None = None
        self.opened_at_ms = 0

    # Twisted's side

    def connectionMade(self) -> None:
        transport: Any = self.transport
        address = transport.getPeer()
        host = getattr(address, "host", "") or ""
        port = getattr(address, "port", 0)
        self.peer = f"{host}:{port}" if host else "unix socket"
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        is_loopback = not host or host == "::1" or host.startswith("127.")
        self.opened_at_ms = self._broker.now_ms
        self.session = self._make_session(self.peer, is_loopback, self._turn.wake)
        self._turn.add(self.session, self)
        for listing in self._listings:
            listing[self] = None
        self._broker.metrics.connections_opened_count += 1
        transport.registerProducer(self, True)
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        if session is None or self._is_closing:
            return
        broker = self._broker
        before = broker.metrics.published_count
        session.receive_data(data)
        self._turn.wake(session)
        if not self.is_publisher and broker.metrics.published_count != before:
            self.is_publisher = True
        if broker.store.is_blocked and self.is_publisher:
            self.pause_reading()
        self._arm()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for listing in self._listings:
            listing.pop(self, None)
        session = self.session
        if session is not None:
            self.session = None
            session.connection_lost(reason.getErrorMessage() if reason is not None else "closed")
            self._turn.remove(session)

    # The socket's buffer (IPushProducer)

    def pauseProducing(self) -> None:
        """The socket's buffer is full: deliver nothing more."""
        self._is_writable = False
        if self.session is not None:
            self.session.set_writable(False)

    def resumeProducing(self) -> None:
        """The socket's buffer is empty again."""
        self._is_writable = True
        self._unsent_bytes = 0
        if self._is_deaf:
            self._is_deaf = False
            self.resume_reading()
        if self.session is not None:
            self.session.set_writable(True)
            self._turn.schedule()

    def stopProducing(self) -> None:
        """The transport is going away."""

    # The turn's side

    def flush(self) -> None:
        """Write the session's output, and close the socket when the session is done."""
        session = self.session
        if session is None:
            return
        transport: Any = self.transport
        output = session.output()
        if output:
            transport.writeSequence(output)
            if not self._is_writable:
                # Deliveries have stopped; what still comes are replies to what the peer sends.
                self._unsent_bytes += sum(len(piece) for piece in output)
                if self._unsent_bytes > UNSENT_BYTES_MAX and not self._is_deaf:
                    self._is_deaf = True
                    self.pause_reading()
        if session.is_closing and not self._is_closing:
            self._is_closing = True
            transport.unregisterProducer()
            transport.loseConnection()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._call_later(LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Drop the connection without waiting for what it would still write."""
        self._timer = None
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def pause_reading(self) -> None:
        """Leave what the peer sends in the kernel's buffers."""
        transport: Any = self.transport
        transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        transport: Any = self.transport
        if not self._is_closing and not self._is_deaf:
            transport.resumeProducing()

    def shutdown(self, text: str) -> None:
        """Tell the peer that the broker stops."""
        session = self.session
        if session is not None:
            session.shutdown(text)
            self.flush()

    # Time

    def _arm(self) -> None:
        session = self.session
        if session is None or self._is_closing:
            return
        deadline = session.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline + 0.001):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._call_later(max(0.0, deadline - self._broker.clock.now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        session = self.session
        if session is not None:
            session.tick(self._broker.clock.now())
            self._turn.wake(session)
            self._arm()
