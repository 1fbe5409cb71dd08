"""An agent's way to and from a STOMP broker.

What it is: one connection for what the agent publishes and one for what it receives, so that a broker which holds
publishers back (RabbitMQ's memory alarm) still takes acknowledgments.  Each connection is a `_Line`: a thread that
tries the addresses in turn, backs off with decorrelated jitter, and brings the subscriptions back in a new `Session`.

Invariants:
- `publish` either returns with all confirmed or raises; what it raises never claims that nothing arrived.
- A settlement belongs to the session its message came in: after a reconnect it is a no-op, as the broker has put
  the message back by then.

Tests: tests/unit/agents/test_transport.py, tests/interop/test_collector.py.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from agents.config import BrokerSettings, split_address
from agents.errors import Unavailable
from agents.frames import NO_HEADERS, Outgoing, escaped, jittered
from agents.session import Incoming, Session, Subscription

__all__ = ["Incoming", "Outgoing", "Transport", "jittered"]

log = logging.getLogger(__name__)

STEADY_SESSION_SECONDS: Final = 5.0
"""A session that lived so long resets the back-off."""
DISCONNECT_SECONDS: Final = 1.0


class Transport:
    """One agent's connections to a STOMP broker, tried again and again until `stop`.

    Thread-safe.  Names are our bare ones (`/gracc.site.raw`); the settings say how they go on the wire.
    """

    def __init__(self, settings: BrokerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._publisher: _Line | None = None
        self._receiver: _Line | None = None
        self._is_stopped = False

    @property
    def last_error_text(self) -> str:
        """What went wrong last on a connection, for people; empty while all is well."""
        lines = (self._publisher, self._receiver)
        return next((line.error_text for line in lines if line and line.error_text), "")

    def start(self) -> None:
        """Allow connections; each is opened when it is first needed."""
        self._is_stopped = False

    def open_publisher(self) -> None:
        """Open the publishing connection now, so that `is_connected` can come true before the first `publish`."""
        self._publisher_line()

    def stop(self) -> None:
        """Close the connections after what was already sent; settles nothing, so the rest is redelivered."""
        with self._lock:
            self._is_stopped = True
            lines = [line for line in (self._publisher, self._receiver) if line is not None]
            self._publisher = self._receiver = None
        for line in lines:
            line.ask_to_stop()
        for line in lines:
            line.join(DISCONNECT_SECONDS + 0.5)

    def is_connected(self) -> bool:
        """Whether every connection opened so far is logged in (False when there is none)."""
        lines = [line for line in (self._publisher, self._receiver) if line is not None]
        return bool(lines) and all(line.is_up for line in lines)

    def publish(self, destination: str, messages: Sequence[Outgoing], timeout_s: float) -> None:
        """Send messages and return when each is confirmed, waiting for a connection first if need be.

        Raises Unavailable (some may have arrived: sending again may duplicate) or Refused (the broker's text).
        """
        if not messages:
            return
        deadline = time.monotonic() + timeout_s
        session = self._publisher_line().wait_session(timeout_s)
        session.publish(self._settings.wire_destination(destination), messages, deadline)

    def subscribe(
        self,
        destination: str,
        prefetch: int,
        on_message: Callable[[Incoming], None],
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """Receive from a destination, now and after every reconnect, at most `prefetch` unsettled messages.

        `on_message` runs in the receiver thread and must not block; each message is settled on its own.
        """
        wire = self._settings.wire_destination(destination)
        subscription = Subscription(destination, prefetch, on_message, dict(headers))
        with self._lock:
            self._refuse_when_stopped()
            if self._receiver is None:
                self._receiver = _Line(self._settings, f"{self._name}-receive")
            line = self._receiver
        line.add_subscription(wire, subscription)

    def acknowledge(self, messages: Sequence[Incoming]) -> None:
        """Settle messages for good; those of an earlier connection are left alone (they come again)."""
        by_session: dict[Session, list[bytes]] = {}
        for message in messages:
            session = message.session
            if session is not None and session.is_open:
                frame = b"ACK\nid:" + escaped(message.headers["ack"]) + b"\n\n\x00"
                by_session.setdefault(session, []).append(frame)
        for session, frames in by_session.items():
            session.settle(frames)

    def reject(self, message: Incoming, cause: str, requeue: bool) -> None:
        """Give a message back: to its queue, or (not `requeue`) to where the queue dead-letters, with the cause."""
        session = message.session
        if session is None or not session.is_open:
            return
        lines = (
            b"NACK\nid:" + escaped(message.headers["ack"]),
            b"\nrequeue:" + (b"true" if requeue else b"false"),
            b"\ncause:" + escaped(cause),
            b"\n\n\x00",
        )
        session.settle([b"".join(lines)])

    def _publisher_line(self) -> _Line:
        with self._lock:
            self._refuse_when_stopped()
            if self._publisher is None:
                self._publisher = _Line(self._settings, f"{self._name}-publish")
            return self._publisher

    def _refuse_when_stopped(self) -> None:
        if self._is_stopped:
            raise Unavailable(f"{self._name}: the connection to the broker was stopped")


@final
class _Line(threading.Thread):
    """Keeps one connection up; owns the subscriptions that belong to it."""

    def __init__(self, settings: BrokerSettings, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.session: Session | None = None
        self.error_text = ""
        self._settings = settings
        self._addresses = [split_address(address) for address in settings.addresses]
        self._first = 0
        self._subscriptions: dict[str, tuple[str, Subscription]] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self.start()

    def run(self) -> None:
        pause_seconds = self._settings.reconnect_min_seconds
        while not self._stop_asked():
            session = self._connect()
            if session is None:
                pause_seconds = jittered(
                    pause_seconds,
                    self._settings.reconnect_min_seconds,
                    self._settings.reconnect_max_seconds,
                )
                self._wait_to_stop(pause_seconds)
                continue
            started = time.monotonic()
            session.wait_closed(self._stop_asked)
            if self._stop_asked():
                session.disconnect(DISCONNECT_SECONDS)
            with self._changed:
                self.session = None
            self.error_text = session.close_text
            if self._stop_asked():
                return
            log.warning("%s: lost the broker: %s", self.name, session.close_text)
            if time.monotonic() - started > STEADY_SESSION_SECONDS:
                pause_seconds = self._settings.reconnect_min_seconds
                self._wait_to_stop(random.uniform(0.05, pause_seconds))  # noqa: S311
            else:
                pause_seconds = jittered(
                    pause_seconds,
                    self._settings.reconnect_min_seconds,
                    self._settings.reconnect_max_seconds,
                )
                self._wait_to_stop(pause_seconds)

    @property
    def is_up(self) -> bool:
        """Whether there is a session that can be used; one that has just closed still stands in `session`."""
        session = self.session
        return session is not None and session.is_open

    def wait_session(self, timeout_s: float) -> Session:
        """Return the session, waiting for one; raise Unavailable when none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_up or self._is_stopping, timeout_s)
            session = self.session
            if session is not None and session.is_open and not self._is_stopping:
                return session
        addresses = ", ".join(self._settings.addresses)
        why = f" ({self.error_text})" if self.error_text else ""
        raise Unavailable(f"no connection to a broker at {addresses}{why}")

    def add_subscription(self, wire_destination: str, subscription: Subscription) -> None:
        """Subscribe now if there is a session, and in each one to come."""
        with self._changed:
            identifier = f"s{len(self._subscriptions) + 1}"
            self._subscriptions[identifier] = (wire_destination, subscription)
            session = self.session
            if session is not None:
                session.subscribe(identifier, wire_destination, subscription)

    def ask_to_stop(self) -> None:
        """Make the thread disconnect and end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        session = self.session
        if session is not None:
            session.wake()

    def _stop_asked(self) -> bool:
        return self._is_stopping

    def _wait_to_stop(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(self._stop_asked, seconds)

    def _connect(self) -> Session | None:
        """Try each address once, the last good one first; return a logged-in session or None."""
        for step in range(len(self._addresses)):
            if self._is_stopping:
                return None
            turn = (self._first + step) % len(self._addresses)
            host, port = self._addresses[turn]
            session = Session(self._settings, host, port, self.name)
            try:
                session.open()
            except Unavailable as error:
                if error.text != self.error_text:
                    log.warning("%s: %s", self.name, error.text)
                self.error_text = error.text
                continue
            self._first = turn
            with self._changed:
                # Subscribed before the session is shown, under the lock that `add_subscription` takes: each
                # subscription is made exactly once per session.
                for identifier, (wire, subscription) in self._subscriptions.items():
                    session.subscribe(identifier, wire, subscription)
                self.session = session
                self.error_text = ""
                self._changed.notify_all()
            log.info("%s: connected to %s:%d", self.name, host, port)
            return session
        return None
