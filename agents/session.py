"""One connection of an agent to a STOMP broker, from CONNECT to its end, over the stomp.py client.

What it is: stomp.py connects, logs in, keeps the heart-beats and reads what is rare; what comes and goes in runs of
thousands (SEND, ACK, MESSAGE, RECEIPT) is written and read by `agents.frames`, as stomp.py takes some 40 µs a frame.

Invariants:
- A message is confirmed by its own RECEIPT.  One receipt on the last message of a run would do for our broker
  (receipts follow the journal), but says nothing about the messages before it where confirms may overtake each other
  (RabbitMQ), so every SEND asks for one; they are written in one go and counted, never awaited one by one.
- Listeners run in stomp.py's receiver thread; while they block no heart-beat is taken, so
  they may for moments only.  Prefetch is the bound.
- This is the only module of `agents` that imports stomp.

Tests: tests/unit/agents/test_transport.py, tests/unit/agents/test_frames.py, tests/interop/test_collector.py.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast, final

import stomp
import stomp.exception

from agents.config import BrokerSettings
from agents.errors import Refused, Unavailable
from agents.frames import Outgoing, RunReader, encode_sends, error_text
from broker.errors import ProtocolViolation

log = logging.getLogger(__name__)

SEND_STALL_SECONDS: Final = 10
"""A socket that takes no byte for so long while we send is given up."""
RECEIVE_BYTES: Final = 256 * 1024


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


@final
class Incoming:
    """A message received; `destination` is the name that was subscribed to, `headers` are the broker's.

    `prepared` is for whoever receives it: what was made of it before its turn came.
    """

    __slots__ = ("body", "destination", "headers", "prepared", "session")

    def __init__(
        self,
        body: bytes,
        headers: dict[str, str],
        destination: str,
        session: Session | None = None,
    ) -> None:
        self.body = body
        self.headers = headers
        self.destination = destination
        self.prepared: object = None
        self.session = session

    @property
    def is_current(self) -> bool:
        """Whether it can still be settled; the broker gives a message of a lost connection again."""
        return self.session is None or self.session.is_open

    @property
    def is_redelivered(self) -> bool:
        """Whether the broker says that it delivered the message before."""
        return self.headers.get("redelivered") == "true"


class _Frame(Protocol):
    """What we use of stomp.py's frame."""

    cmd: str
    headers: dict[str, str]
    body: bytes


class Subscription:
    """What is received from one destination, by whom, and how much of it at a time."""

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


@final
class Session(stomp.ConnectionListener):  # type: ignore[misc]
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
        self._subscriptions: dict[str, Subscription] = {}
        self._logged_in = threading.Event()
        self._disconnected = threading.Event()
        self._wakeup = threading.Event()
        self._reader = RunReader()
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
        self._connection.transport.receive = self._receive

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

    def subscribe(self, identifier: str, wire_destination: str, subscription: Subscription) -> None:
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

    def _receive(self) -> bytes:
        """Read for stomp.py, and take out MESSAGE and RECEIPT frames, which its own reader is too slow for.

        Errors are its own to take: whatever is raised here ends the connection there.
        """
        received: bytes = self._connection.transport.socket.recv(RECEIVE_BYTES)
        if not received:
            # Over TLS stomp.py (9.0) takes the end of the stream for a pause, and asks again for ever.
            self.close("the broker closed the connection")
            return received
        try:
            runs, others = self._reader.feed(received)
        except ProtocolViolation as error:
            self.close(f"the broker sent what is not STOMP: {error}")
            raise
        for is_message, headers, body in runs:
            if is_message:
                self._take_message(headers, body)
            else:
                self._take_receipt(headers.get("receipt-id", ""))
        return others

    def _take_message(self, headers: dict[str, str], body: bytes) -> None:
        """Hand a message to its subscription."""
        subscription = self._subscriptions.get(headers.get("subscription", ""))
        if subscription is None or not self.is_open:
            return
        try:
            subscription.on_message(Incoming(body, headers, subscription.destination, self))
        except Exception:
            # Left unsettled: the broker gives it again after the connection, which is the safe side.
            log.exception("%s: message %s was not taken", self._name, headers.get("message-id"))

    def _take_receipt(self, receipt: str) -> None:
        """Count a confirmed message."""
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
