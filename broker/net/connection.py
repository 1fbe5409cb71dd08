# ruff: noqa: N802 - method names are Twisted's
"""A socket and its session: the only Protocol of the broker.

Bytes go straight to the session; what it says is written at the end of the turn, in one write.  A peer that does not read
stops its deliveries at Twisted's buffer (64 KiB) and what one turn adds; a peer that publishes is not read while the store is
blocked.  Tests: tests/unit/broker/net/test_connection.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.session.auth import LoggedIn
from broker.session.dn import from_attributes

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.net.turn import Turn
    from broker.session.base import Session, Wake

log = logging.getLogger(__name__)

SessionFactory = Callable[[str, bool, "Wake"], "Session"]
"""Makes a session from the peer's address, whether it is a loopback one, and the wake call."""
Sniff = Callable[[bytes, str, "Wake"], "tuple[Session, bytes] | bool | None"]
"""Looks at the first bytes: another session with what it is to take, True for "more bytes first", None for the own one."""
UNSENT_BYTES_MAX = 8 << 20
"""Replies that may wait for a peer that does not read; beyond, it is not read from either."""
WRITE_BYTES = 1 << 20
"""More than this is handed to the socket part by part: joined, that is copied, at once it would be in memory twice."""
LINGER_SECONDS = 5.0
"""How long a closing connection may take to write what it still has to say, and before that, how long its peer may take to
close first where that is the protocol's way."""


@implementer(IPushProducer, IHandshakeListener)
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
        sniff: Sniff | None = None,
    ) -> None:
        self._broker = broker
        self._turn = turn
        self._make_session = make_session
        self._call_later = call_later
        self._listings = listings
        self._sniff = sniff
        self._first = b""
        self._timer: Any = None
        self._timer_at = 0.0
        self._is_closing = False
        self._is_writable = True
        self._unsent_bytes = 0
        self._unwritten: deque[bytes | memoryview] | None = None
        self._holds: set[str] = set()
        self._takes_whole_frames = False
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
        if getattr(transport, "is_foreign", False):
            is_loopback = False
        # What is written to a WebSocket at once is a message of its own.
        self._takes_whole_frames = getattr(transport, "takes_whole_frames", False)
        self.opened_at_ms = self._broker.now_ms
        self.session = self._make_session(self.peer, is_loopback, self._turn.wake)
        self._turn.add(self.session, self)
        for listing in self._listings:
            listing[self] = None
        self._broker.metrics.connections_opened_count += 1
        transport.registerProducer(self, True)
        self._arm()

    def handshakeCompleted(self) -> None:
        """Tell the session who the TLS handshake has verified; before any data."""
        from broker.net.tls import client_subject

        subject = client_subject(self.transport)
        session: object = self.session
        if subject is not None and isinstance(session, LoggedIn):
            session.certificate = from_attributes(subject)

    def dataReceived(self, data: bytes) -> None:
        if self._sniff is not None:
            data = self._look_at_first(data)
            if not data:
                return
        session = self.session
        if session is None or self._is_closing:
            return
        broker = self._broker
        turn = self._turn
        before = broker.metrics.published_count
        turn.begin()
        session.receive_data(data)
        turn.wake(session)
        if not self.is_publisher and broker.metrics.published_count != before:
            self.is_publisher = True
            reason = broker.blocked_reason
            if reason is not None:
                self.set_blocked(reason)
        if session.is_holding:
            self._hold("session")
        self._arm()

    def _look_at_first(self, received: bytes) -> bytes:
        """Find out by the first bytes whether another protocol is spoken here; returns what the session takes."""
        first = self._first + received
        assert self._sniff is not None, "asked once"
        found = self._sniff(first, self.peer, self._turn.wake)
        if found is True:
            self._first = first
            return b""
        self._sniff = None
        self._first = b""
        before: Any = self.session
        if not isinstance(found, tuple) or before is None:
            return first
        after, first = found
        if isinstance(before, LoggedIn) and isinstance(after, LoggedIn):
            after.certificate = before.certificate
        self._turn.remove(before)
        before.connection_lost("it is a link of another broker")
        self.session = after
        self._turn.add(after, self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm()
        self._turn.wake(after)
        return first

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        for listing in self._listings:
            listing.pop(self, None)
        self._unwritten = None
        session = self.session
        if session is not None:
            self.session = None
            self._turn.begin()
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
        if self._unwritten is not None:
            self._write_on(self._unwritten)
            if not self._is_writable:
                return
        self._unsent_bytes = 0
        self._let_go("unsent")
        if self.session is not None:
            self._turn.begin()
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
            output_bytes = sum(map(len, output))
            if not self._is_writable:
                # Deliveries have stopped; what still comes are replies to what the peer sends.
                self._unsent_bytes += output_bytes
                if self._unsent_bytes > UNSENT_BYTES_MAX:
                    self._hold("unsent")
            if self._unwritten is not None:
                self._unwritten += output
            elif self._takes_whole_frames:
                transport.writeSequence(output)
            elif output_bytes > WRITE_BYTES:
                self._unwritten = deque(output)
                self._write_on(self._unwritten)
            else:
                # Not writeSequence: Twisted looks at each piece twice, a tenth of what a small message costs.
                transport.write(b"".join(output))
        if "session" in self._holds and not session.is_holding:
            self._let_go("session")
            # What it waited for, such as a login, may have set other times.
            self._arm()
        if session.is_closing and not self._is_closing:
            self._let_go_of_all()
            self._is_closing = True
            transport.unregisterProducer()
            if self._unwritten is not None:
                transport.write(b"".join(self._unwritten))
                self._unwritten = None
            if session.peer_closes_first:
                # A client may take an end of the stream that comes with close-ok for a failure (lapin 2.5 does).
                self._start_timer(LINGER_SECONDS, self._part)
            else:
                self._part()

    def _write_on(self, unwritten: deque[bytes | memoryview]) -> None:
        """Write of what is left as much as the socket takes now."""
        transport: Any = self.transport
        while unwritten and self._is_writable:
            pieces: list[bytes | memoryview] = []
            room_bytes = WRITE_BYTES
            while unwritten and room_bytes:
                piece = unwritten.popleft()
                if len(piece) > room_bytes:
                    view = memoryview(piece)
                    unwritten.appendleft(view[room_bytes:])
                    piece = view[:room_bytes]
                room_bytes -= len(piece)
                pieces.append(piece)
            transport.write(b"".join(pieces))
        if not unwritten:
            self._unwritten = None

    def _part(self) -> None:
        """End what we say and read on: closing with bytes unread would reset the connection, and what was said last be lost."""
        transport: Any = self.transport
        half_close = getattr(transport, "loseWriteConnection", transport.loseConnection)
        half_close()
        self._start_timer(LINGER_SECONDS, self.abort)

    @property
    def is_closing(self) -> bool:
        """Whether only the socket is still there: the session is over, and nothing is taken from the peer any more."""
        return self._is_closing

    def abort(self) -> None:
        """Drop the connection without waiting for what it would still write."""
        self._timer = None
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    # Reading from the peer

    def _hold(self, reason: str) -> None:
        """Leave what the peer sends in the kernel's buffers, for one more reason."""
        if not self._holds and not self._is_closing:
            transport: Any = self.transport
            transport.pauseProducing()
        self._holds.add(reason)

    def _let_go(self, reason: str) -> None:
        """A reason not to read is gone; without any left, read again."""
        if reason in self._holds:
            self._holds.discard(reason)
            if not self._holds and not self._is_closing:
                transport: Any = self.transport
                transport.resumeProducing()

    def _let_go_of_all(self) -> None:
        for reason in list(self._holds):
            self._let_go(reason)

    def set_blocked(self, reason: str | None) -> None:
        """Publishers must wait, or with None need not any more."""
        session = self.session
        if session is None:
            return
        if not session.set_blocked(reason) and reason is not None and self.is_publisher:
            self._hold("blocked")
        elif reason is None:
            self._let_go("blocked")
            self._turn.wake(session)

    def recheck(self) -> None:
        """Accounts or vhosts changed: the peer may not be here any more."""
        session = self.session
        logged_in: object = session
        if session is not None and isinstance(logged_in, LoggedIn) and not self._is_closing:
            logged_in.recheck()
            self._turn.wake(session)
            self._arm()

    def shutdown(self, text: str) -> None:
        """Tell the peer that the broker stops; one that was to close first is not waited for any longer."""
        session = self.session
        if session is None:
            return
        if self._is_closing:
            if session.peer_closes_first:
                self._part()
            return
        session.shutdown(text)
        self.flush()
        self._arm()

    # Time

    def _start_timer(self, seconds: float, call: Callable[[], None]) -> None:
        """Call after so long, instead of what was to be called."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._call_later(seconds, call)

    def _arm(self) -> None:
        session = self.session
        if session is None or self._is_closing:
            return
        deadline = session.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline + 0.001):
            return
        self._timer_at = deadline
        self._start_timer(max(0.0, deadline - self._broker.clock.now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        session = self.session
        if session is not None:
            self._turn.begin()
            session.tick(self._broker.clock.now())
            self._turn.wake(session)
            self._arm()
