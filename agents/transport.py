"""An agent's way to and from a STOMP broker, over the stomp.py client.

What it is: one connection for what the agent publishes and one for what it receives, so that a broker which holds
publishers back (RabbitMQ's memory alarm) still takes acknowledgments.  Each connection is a `_Line`: a thread that
tries the addresses in turn, backs off with decorrelated jitter, and brings the subscriptions back.

Invariants:
- A message is confirmed by its own RECEIPT.  One receipt on the last message of a run would do for our broker
  (receipts follow the journal), but says nothing about the messages before it where confirms may overtake each other
  (RabbitMQ), so every SEND asks for one; they are written in one go and counted, never awaited one by one.
- `publish` either returns with all confirmed or raises; what it raises never claims that nothing arrived.
- A settlement belongs to the session its message came in: after a reconnect it is a no-op, as the broker has put
  the message back by then.
- Listeners run in stomp.py's receiver thread; while they block no heart-beat is taken, so
  they may for moments only.  Prefetch is the bound.
- This is the only module of `agents` that imports stomp.

Tests: tests/unit/agents/test_transport.py, tests/interop/test_collector.py.
"""

from __future__ import annotations

import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast, final

import stomp
import stomp.exception

from agents.config import BrokerSettings, split_address
from agents.errors import Refused, Unavailable
from agents.frames import NO_HEADERS, Outgoing, encode_sends, error_text, escaped, jittered

__all__ = ["Incoming", "Outgoing", "Transport", "jittered"]

log = logging.getLogger(__name__)


class _Reasons(logging.Handler):
    """Keeps why a connection could not be made, which stomp.py says in its log only; one text a thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._local = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args:
            self._local.text = f"{record.args[-1]}"

    def take(self) -> str:
        """Return the last reason of this thread and forget it."""
        text: str = getattr(self._local, "text", "")
        self._local.text = ""
        return " ".join(text.split())[:300]


# What stomp.py has to say about a connection, the lines of this module say once, with what happens next.
_reasons = _Reasons()
_stomp_log = logging.getLogger("stomp.py")
_stomp_log.addHandler(_reasons)
_stomp_log.setLevel(logging.WARNING)
_stomp_log.propagate = False

SEND_STALL_SECONDS: Final = 10
"""A socket that takes no byte for so long while we send is given up."""
STEADY_SESSION_SECONDS: Final = 5.0
"""A session that lived so long resets the back-off."""
DISCONNECT_SECONDS: Final = 1.0


@final
class Incoming:
    """A message received; `destination` is the name that was subscribed to, `headers` are the broker's.

    `prepared` is for whoever receives it: what was made of it before its turn came.
    """

    __slots__ = ("_session", "body", "destination", "headers", "prepared")

    def __init__(
        self,
        body: bytes,
        headers: dict[str, str],
        destination: str,
        session: _Session | None = None,
    ) -> None:
        self.body = body
        self.headers = headers
        self.destination = destination
        self.prepared: object = None
        self._session = session

    @property
    def is_current(self) -> bool:
        """Whether it can still be settled; the broker gives a message of a lost connection again."""
        return self._session is None or self._session.is_open

    @property
    def is_redelivered(self) -> bool:
        """Whether the broker says that it delivered the message before."""
        return self.headers.get("redelivered") == "true"


class _Frame(Protocol):
    """What we use of stomp.py's frame."""

    cmd: str
    headers: dict[str, str]
    body: bytes


class _Subscription:
    __slots__ = ("destination", "headers", "on_message", "prefetch")

    def __init__(
        self,
        destination: str,
        prefetch: int,
        on_message: Callable[[Incoming], None],
        headers: dict[str, str],
    ) -> None:
        self.destination = destination
        self.prefetch = prefetch
        self.on_message = on_message
        self.headers = headers


class _Confirmation:
    """The receipts one `publish` waits for."""

    __slots__ = ("done", "failure", "remaining_count")

    def __init__(self, count: int) -> None:
        self.remaining_count = count
        self.failure: Unavailable | Refused | None = None
        self.done = threading.Event()


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
        subscription = _Subscription(destination, prefetch, on_message, dict(headers))
        with self._lock:
            self._refuse_when_stopped()
            if self._receiver is None:
                self._receiver = _Line(self._settings, f"{self._name}-receive")
            line = self._receiver
        line.add_subscription(wire, subscription)

    def acknowledge(self, messages: Sequence[Incoming]) -> None:
        """Settle messages for good; those of an earlier connection are left alone (they come again)."""
        by_session: dict[_Session, list[bytes]] = {}
        for message in messages:
            session = message._session
            if session is not None and session.is_open:
                frame = b"ACK\nid:" + escaped(message.headers["ack"]) + b"\n\n\x00"
                by_session.setdefault(session, []).append(frame)
        for session, frames in by_session.items():
            session.settle(frames)

    def reject(self, message: Incoming, cause: str, requeue: bool) -> None:
        """Give a message back: to its queue, or (not `requeue`) to where the queue dead-letters, with the cause."""
        session = message._session
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
        self.session: _Session | None = None
        self.error_text = ""
        self._settings = settings
        self._addresses = [split_address(address) for address in settings.addresses]
        self._first = 0
        self._subscriptions: dict[str, tuple[str, _Subscription]] = {}
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

    def wait_session(self, timeout_s: float) -> _Session:
        """Return the session, waiting for one; raise Unavailable when none comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_up or self._is_stopping, timeout_s)
            session = self.session
            if session is not None and session.is_open and not self._is_stopping:
                return session
        addresses = ", ".join(self._settings.addresses)
        why = f" ({self.error_text})" if self.error_text else ""
        raise Unavailable(f"no connection to a broker at {addresses}{why}")

    def add_subscription(self, wire_destination: str, subscription: _Subscription) -> None:
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

    def _connect(self) -> _Session | None:
        """Try each address once, the last good one first; return a logged-in session or None."""
        for step in range(len(self._addresses)):
            if self._is_stopping:
                return None
            turn = (self._first + step) % len(self._addresses)
            host, port = self._addresses[turn]
            session = _Session(self._settings, host, port, self.name)
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


@final
class _Session(stomp.ConnectionListener):  # type: ignore[misc]
    """One connection from CONNECT to its end; never reused."""

    def __init__(self, settings: BrokerSettings, host: str, port: int, name: str) -> None:
        self.is_open = False
        self.close_text = "connection closed"
        self._settings = settings
        self._address = (host, port)
        self._name = name
        self._lock = threading.Lock()
        self._next_receipt = 0
        self._confirmations: dict[str, _Confirmation] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._logged_in = threading.Event()
        self._disconnected = threading.Event()
        self._wakeup = threading.Event()
        self._connection = stomp.Connection12(
            [self._address],
            prefer_localhost=False,
            try_loopback_connect=False,
            reconnect_sleep_initial=0.0,
            reconnect_sleep_max=0.0,
            reconnect_attempts_max=1,
            timeout=settings.connect_timeout_seconds,
            heartbeats=(settings.heart_beat_ms, settings.heart_beat_ms),
            heart_beat_receive_scale=2.0,
            vhost=settings.vhost,
            auto_decode=False,
        )
        tls = settings.tls
        if tls is not None:
            self._connection.set_ssl(
                for_hosts=[self._address],
                key_file=tls.key or None,
                cert_file=tls.certificate or None,
                ca_certs=tls.ca or None,
                verify=tls.verify,
            )
        self._connection.set_listener("agent", self)

    def open(self) -> None:
        """Connect and log in; raise Unavailable with the reason."""
        host, port = self._address
        self._check_files()
        login = self._settings.login or None
        _reasons.take()
        try:
            self._connection.connect(login, self._settings.passcode if login else None)
            self._bound_sends()
        except (OSError, stomp.exception.StompException, AttributeError) as error:
            # stomp.py raises AttributeError when the peer closes between connect and the first frame.
            self.close(f"cannot connect: {error or type(error).__name__}")
            reason = str(error) or _reasons.take() or "nobody answers"
            raise Unavailable(f"cannot connect to {host}:{port}: {reason}") from error
        if not self._logged_in.wait(self._settings.connect_timeout_seconds):
            self.close("no CONNECTED in time")
        if not self.is_open:
            raise Unavailable(f"cannot log in at {host}:{port}: {self.close_text}")

    def publish(self, destination: str, messages: Sequence[Outgoing], deadline: float) -> None:
        """Write all messages, each with a receipt, and wait for the receipts until `deadline` (monotonic)."""
        confirmation = _Confirmation(len(messages))
        with self._lock:
            if not self.is_open:
                raise Unavailable(self.close_text)
            first = self._next_receipt
            self._next_receipt += len(messages)
            receipts = [f"p{number}" for number in range(first, self._next_receipt)]
            self._confirmations.update(dict.fromkeys(receipts, confirmation))
        try:
            for chunk in encode_sends(destination, messages, receipts):
                self._write(chunk)
            if not confirmation.done.wait(max(0.0, deadline - time.monotonic())):
                # A late receipt must not be taken for a later message's, and a broker that slow may be half
                # dead: a new connection settles both.
                count = confirmation.remaining_count
                self.close(f"{count} of {len(messages)} messages not confirmed in time")
        finally:
            with self._lock:
                for receipt in receipts:
                    self._confirmations.pop(receipt, None)
        if confirmation.failure is not None:
            raise confirmation.failure
        if confirmation.remaining_count:
            raise Unavailable(self.close_text)

    def subscribe(
        self, identifier: str, wire_destination: str, subscription: _Subscription
    ) -> None:
        """Send the SUBSCRIBE; a broken connection is noticed elsewhere and brings a new session."""
        self._subscriptions[identifier] = subscription
        headers = {"prefetch-count": str(subscription.prefetch), **subscription.headers}
        try:
            self._connection.subscribe(wire_destination, identifier, "client-individual", headers)
        except (OSError, stomp.exception.StompException, AttributeError) as error:
            self.close(f"cannot subscribe to {wire_destination}: {error}")

    def settle(self, frames: list[bytes]) -> None:
        """Write ACK and NACK frames in one go; if the connection breaks the messages come again."""
        try:
            self._write(b"".join(frames))
        except Unavailable as error:
            log.info("%s: settlements lost, their messages will come again: %s", self._name, error)

    def wait_closed(self, stop_asked: Callable[[], bool]) -> None:
        """Wait until the connection is lost or somebody asks to stop."""
        while self.is_open and not stop_asked():
            self._wakeup.wait(1.0)
            self._wakeup.clear()

    def wake(self) -> None:
        """Make `wait_closed` look again."""
        self._wakeup.set()

    def disconnect(self, timeout_s: float) -> None:
        """Say DISCONNECT and wait for its receipt, so that what was sent before has been taken in."""
        try:
            self._write(b"DISCONNECT\nreceipt:bye\n\n\x00")
            self._disconnected.wait(timeout_s)
        except Unavailable:
            pass
        self.close("stopped")

    def close(self, text: str) -> None:
        """Drop the connection and fail what waits for it; safe to call twice and from any thread."""
        with self._lock:
            was_open = self.is_open
            self.is_open = False
            if was_open or not self._logged_in.is_set():
                self.close_text = text
            waiting = set(self._confirmations.values())
            self._confirmations.clear()
        for confirmation in waiting:
            if confirmation.failure is None:
                confirmation.failure = Unavailable(text)
            confirmation.done.set()
        self._logged_in.set()
        self._disconnected.set()
        self._wakeup.set()
        try:
            self._connection.transport.disconnect_socket()
        except (OSError, AttributeError, ValueError, KeyError) as error:
            # Two threads may close at once (heart-beat and receiver); stomp.py then trips over its own socket.
            log.debug("%s: while closing: %s", self._name, error)

    # What stomp.py calls, in its receiver thread (on_heartbeat_timeout: in its heart-beat thread).

    def on_connected(self, frame: _Frame) -> None:
        """Take the login as done."""
        self.is_open = True
        self._logged_in.set()

    def on_message(self, frame: _Frame) -> None:
        """Hand a message to its subscription."""
        headers = frame.headers
        subscription = self._subscriptions.get(headers.get("subscription", ""))
        if subscription is None or not self.is_open:
            return
        try:
            subscription.on_message(Incoming(frame.body, headers, subscription.destination, self))
        except Exception:
            # Left unsettled: the broker gives it again after the connection, which is the safe side.
            log.exception("%s: message %s was not taken", self._name, headers.get("message-id"))

    def on_receipt(self, frame: _Frame) -> None:
        """Count a confirmed message."""
        receipt = frame.headers.get("receipt-id", "")
        if receipt == "bye":
            self._disconnected.set()
            return
        with self._lock:
            confirmation = self._confirmations.pop(receipt, None)
            if confirmation is None:
                return
            confirmation.remaining_count -= 1
            is_last = confirmation.remaining_count == 0
        if is_last:
            confirmation.done.set()

    def on_error(self, frame: _Frame) -> None:
        """Give the broker's text to whom it concerns, then drop the connection (some brokers leave it open)."""
        text = error_text(frame.headers, frame.body)
        with self._lock:
            refused = self._confirmations.get(frame.headers.get("receipt-id", ""))
            if refused is not None:
                refused.failure = Refused(text)
        self.close(text)

    def on_disconnected(self) -> None:
        """Notice the end of the connection."""
        self.close("the broker closed the connection")

    def on_heartbeat_timeout(self) -> None:
        """Notice a silent peer."""
        self.close("no heart-beat from the broker")

    def _write(self, data: bytes) -> None:
        """Write whole frames past stomp.py's per-frame encoder, which is too slow for runs of thousands."""
        transport = self._connection.transport
        try:
            if transport.blocking:
                transport.send(data)
            else:
                transport.send_queue.put(data)
        except (OSError, stomp.exception.StompException, AttributeError) as error:
            self.close(f"connection lost while sending: {error or type(error).__name__}")
            raise Unavailable(self.close_text) from error

    def _check_files(self) -> None:
        """Refuse missing TLS files: stomp.py 9.0 answers them by connecting for ever without a pause."""
        tls = self._settings.tls
        for name in (tls.ca, tls.certificate, tls.key) if tls is not None else ():
            if name and not Path(name).is_file():
                raise Unavailable(f"the TLS file {name} of the broker's settings is missing")

    def _bound_sends(self) -> None:
        """Bound how long a blocking send may make no progress (plain TCP; TLS is written by stomp.py's thread)."""
        plain = cast("socket.socket | None", self._connection.transport.socket)
        if plain is not None and self._settings.tls is None:
            bound = struct.pack("ll", SEND_STALL_SECONDS, 0)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
