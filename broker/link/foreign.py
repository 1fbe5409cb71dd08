"""A link to a broker that is not one of ours: what AMQP and STOMP have in common there.

At least once: what was sent and not confirmed is sent again after a cut, what was applied here and not yet acknowledged there comes
again (marked redelivered, and counted).  Upstream is acknowledged only what is on stable storage here.  Messages of
exchange streams carry the brokers they went through as a header, so that what comes back is known and nothing circles.
Tests: tests/interop/test_foreign_links.py.
"""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from broker.core.message import Message
from broker.errors import BrokerError, PreconditionFailed
from broker.link.demand import Entries, wanted_by
from broker.link.end import SILENCE_FACTOR, LinkEnd
from broker.link.outflow import Outflow
from broker.link.streams import buffer_name, declare_exchange
from broker.link.tally import Tally
from broker.link.trace import ID_BYTES, NO_ORIGIN, route_of
from broker.link.turns import OUTPUT_BYTES, Turns
from broker.wire import stomp
from broker.wire.amqp import values
from broker.wire.properties import AMQP

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.core.delivery import Delivery
    from broker.core.destination import Destination
    from broker.link.ports import Wake
    from broker.link.settings import LinkSettings, Stream
    from broker.link.table import LinkTable

log = logging.getLogger(__name__)

ROUTE_HEADER: Final = "x-gridmsg-route"
LOGIN_SECONDS: Final = 15.0
BATCH_COUNT: Final = 200
BATCH_BYTES: Final = 128 << 10
PREFETCH: Final = 10_000
"""Unacknowledged messages that a far side may have sent here: 1,000 costs half the rate at 250 ms (wan-measured.md)."""
_ROUTE_MARK: Final = ROUTE_HEADER.encode()


def foreign_id(name: str) -> bytes:
    """What stands for a far broker that has no store id of ours: the link's name."""
    return hashlib.sha256(b"gridmsg far side: " + name.encode()).digest()[:ID_BYTES]


class Arrivals(Tally):
    """The receiving end of a stream from such a broker: what is applied is acknowledged once it is durable here."""

    def __init__(self, session: ForeignSession, number: int, stream: Stream) -> None:
        self._session = session
        super().__init__(number, stream)
        self.told: Entries = {}
        self._destinations: dict[str, Destination] = {}
        self._last: Any = None
        self._promises: deque[tuple[int, Any]] = deque()
        self._seen_version = (-1, -1)

    def take(
        self, key: str, format: int, header: bytes, body: bytes, tag: object, *, is_again: bool
    ) -> None:
        """Apply one message; `tag` names it in the acknowledgement.  Raises BrokerError."""
        session = self._session
        self._last = tag
        if is_again:
            self.unknown_count += 1
        trace = NO_ORIGIN
        if self.stream.kind == "exchange":
            if _ROUTE_MARK in header:
                passed = _route_in(format, header)
                if session.table.id in passed:
                    self.circled_count += 1
                    return
                trace = NO_ORIGIN + b"".join(one for one in passed if one != session.peer_id)
        else:
            key = ""
        vhost = session.broker.vhost(self.stream.vhost)
        destination = self._destinations.get(key)
        if destination is None:
            if len(self._destinations) > 10_000:
                self._destinations.clear()
            if self.stream.kind == "exchange":
                destination = vhost.destination(self.stream.target, key)
            else:
                vhost.queue(self.stream.target)
                destination = vhost.destination("", self.stream.target)
            self._destinations[key] = destination
        is_persistent, priority, expires_at = _read(format, header, session.broker.now_ms)
        message = Message(
            destination,
            format,
            header,
            body,
            is_persistent,
            priority,
            session.broker.now_ms,
            expires_at,
        )
        message.trace = trace + session.peer_id
        taken = vhost.publish(message)
        self.applied_count += 1
        self.applied_bytes += len(body)
        if taken == 0 and self.stream.kind == "exchange":
            self.unroutable_count += 1
        elif taken <= 0:
            self.refused_count += 1
            text = f"refused where link {session.name} brought it: {self.name}"
            vhost.keep_letter(message, "refused", text)

    def end_turn(self, commit: int) -> None:
        """What was applied may be acknowledged once this commit is durable."""
        if self._last is not None:
            self._promises.append((commit, self._last))
            self._last = None

    def on_durable(self, commit: int) -> Any:
        """The last message that may be acknowledged now, with all before it; None: none."""
        found = None
        while self._promises and self._promises[0][0] <= commit:
            found = self._promises.popleft()[1]
        return found

    def wanted(self) -> Entries | None:
        """What is wanted here of the far exchange, if that has changed."""
        session = self._session
        vhost = session.broker.vhosts.get(self.stream.vhost)
        if vhost is None or self.stream.target not in vhost.exchanges:
            return None
        version = (vhost.version, session.table.demand_version)
        if version == self._seen_version:
            return None
        self._seen_version = version
        return wanted_by(
            session.table.local_entries(vhost, self.stream.target),
            session.table.told_of(vhost.name, self.stream.target),
            session.table.id,
            session.peer_id,
            session.settings.hops_max,
        )


class ForeignSession(LinkEnd[Arrivals]):
    """One connection to such a broker, as its client."""

    nonsense = "bytes that make no sense"

    def __init__(
        self,
        table: LinkTable,
        clock: Clock,
        wake: Wake,
        settings: LinkSettings,
        on_ended: Callable[[str], None] | None = None,
        peer: str = "",
    ) -> None:
        super().__init__(table, clock, wake, settings.name, settings.window_bytes, peer, on_ended)
        self.settings = settings
        self.key = settings.name
        self.is_dialer = True
        self.is_in_clear = settings.tls is None
        self.peer_id = foreign_id(settings.name)
        self.token = b""
        self.strands: list[object] = []
        self.compression = "none"
        self._out: list[bytes] = []
        self._turns = Turns()
        self._said_at = self._began_at
        self.heartbeat_seconds = settings.heartbeat_seconds

    # What a protocol adds

    @abstractmethod
    def _receive(self, received: bytes) -> None:
        """Take bytes; raises BrokerError, ValueError."""

    @abstractmethod
    def _batch(self, number: int, outflow: Outflow, taken: list[Delivery]) -> list[bytes]:
        """Give the bytes that publish these, and note what confirms them."""

    @abstractmethod
    def _acknowledge(self, number: int, tag: Any) -> None:
        """Acknowledge everything of a stream up to a message."""

    @abstractmethod
    def _beat(self) -> bytes:
        """A heart-beat."""

    @abstractmethod
    def _unconfirmed(self, number: int) -> list[Delivery]:
        """What was published of a stream and not confirmed."""

    @abstractmethod
    def _tell_demand(self, number: int, arrivals: Arrivals, wanted: Entries) -> None:
        """Bind at the far side what is wanted here."""

    # Streams

    def _open_flows(self) -> None:
        """Declare what is near, and note the streams; messages flow once `_come_up` was called."""
        for number, stream in enumerate(self.settings.streams):
            try:
                if stream.is_push:
                    self.outflows[number] = self._sender(number, stream)
                else:
                    self._declare_near(stream, stream.target)
                    self.inflows[number] = Arrivals(self, number, stream)
            except BrokerError as error:
                self.stream_ended(number, f"{stream.name}: {error.text}")

    def _declare_near(self, stream: Stream, name: str) -> None:
        vhost = self.broker.vhost(stream.vhost)
        if stream.kind == "exchange":
            declare_exchange(vhost, name, {})
        elif name not in vhost.queues:
            vhost.declare_queue(name, durable=True)

    def _sender(self, number: int, stream: Stream) -> Outflow:
        vhost = self.broker.vhost(stream.vhost)
        self._declare_near(stream, stream.source)
        if stream.kind == "queue":
            linked = self.table.link_queue(vhost, stream.source, self.key, is_shared=True)
            linked.set_peer(self.peer_id, self.settings.hops_max, self.settings.protocol)
            return Outflow(self, number, linked, stream.name, is_exact=False)
        kind = vhost.exchanges[stream.source].kind
        if kind not in ("topic", "fanout", "headers"):
            # What is wanted there cannot be asked for.
            raise PreconditionFailed(
                f"exchange '{stream.source}' is of kind {kind}: only of topic, fanout and headers exchanges can "
                "everything be sent to a broker that is not gridmsg"
            )
        name = buffer_name(self.table.id, self.name, stream.source)
        if name not in vhost.queues:
            size_bytes = self.settings.buffer_bytes
            arguments: dict[str, Any] = {}
            if size_bytes > 0:
                arguments = {"x-max-length-bytes": size_bytes, "x-overflow": "reject-publish"}
            vhost.declare_queue(name, durable=True, arguments=arguments)
        linked = self.table.link_queue(
            vhost, name, self.key, is_shared=False, exchange=stream.source
        )
        linked.set_peer(self.peer_id, self.settings.hops_max, self.settings.protocol)
        vhost.bind_queue(name, stream.source, "#" if kind == "topic" else "")
        self.table.demand_version += 1
        return Outflow(self, number, linked, stream.name, is_exact=False)

    def _come_up(self) -> None:
        self.is_up = True
        self.up_at_ms = self.broker.now_ms
        self.table.enter(self)
        for outflow in self.outflows.values():
            outflow.begin_plain()
        log.info("link %s: up with %s (%s)", self.name, self.peer_name, self.peer)
        self.wake_up()

    def route_text(self, delivery: Delivery) -> str:
        """The route header of a message that leaves by an exchange stream."""
        trace = delivery.message.trace
        passed = dict.fromkeys(route_of(trace))
        passed[self.table.id] = None
        return ",".join(one.hex() for one in passed)

    def forget_stream(self, number: int) -> None:
        """A stream is given up for good here; what was declared at the far side stays there."""
        self.inflows.pop(number, None)
        outflow = self.outflows.pop(number, None)
        if outflow is not None:
            outflow.end(self._unconfirmed(number))

    # The session's side (session.base)

    def receive_data(self, received: bytes) -> None:
        """Take bytes from the far side."""
        self._heard_at = self.clock.now()
        self.received_bytes += len(received)
        if self.is_closing:
            return
        self.attempt(self._receive, received)

    def send(self, kind: int, value: object) -> None:
        """There are no frames of ours on such a link."""
        raise AssertionError(f"a frame of kind {kind} is not for this far side")

    def write(self, *pieces: bytes) -> None:
        """Have bytes written before all batches that wait."""
        self._out += pieces
        self.wake_up()

    def output(self) -> list[bytes]:
        """Replies, then batches while the socket takes them."""
        made, self._out = self._out, []
        if self._is_writable and self.is_up and not self.is_closing and not self.far_reason:
            flows = list(self.outflows.items())

            def take(flow: tuple[int, Outflow]) -> int | None:
                number, outflow = flow
                taken = [] if outflow.is_sounding else outflow.take(BATCH_COUNT, BATCH_BYTES)
                if not taken:
                    return None
                pieces = self._batch(number, outflow, taken)
                made.extend(pieces)
                return sum([len(one) for one in pieces])

            self._turns.serve(flows, OUTPUT_BYTES, take)
            if self._is_writable and any(one.has_ready and not one.is_sounding for _, one in flows):
                self.wake_up()
        if made:
            self._said_at = self.clock.now()
            self.sent_bytes += sum([len(one) for one in made])
        return made

    def end_turn(self, commit: int) -> bool:
        """Everything done in this turn is in commit number `commit`: either side of a link waits for it."""
        for outflow in self.outflows.values():
            outflow.end_turn(commit)
        for arrivals in self.inflows.values():
            arrivals.end_turn(commit)
        return True

    def on_durable(self, commit: int) -> None:
        """All commits up to this number are on stable storage and passed the guard."""
        for outflow in self.outflows.values():
            outflow.on_durable(commit)
        for number, arrivals in self.inflows.items():
            tag = arrivals.on_durable(commit)
            if tag is not None and not self.is_closing:
                self._acknowledge(number, tag)

    def set_writable(self, is_writable: bool) -> None:
        """False while the socket's buffer is full."""
        self._is_writable = is_writable
        if is_writable:
            self.wake_up()

    @property
    def is_holding(self) -> bool:
        """There is nothing to wait for."""
        return False

    def set_blocked(self, reason: str | None) -> bool:
        """Publishers must wait: the far side is not read from."""
        return False

    def set_far_reason(self, reason: str) -> None:
        """The far side says that publishers must wait, or need not any more: then batches are made again."""
        super().set_far_reason(reason)
        self.wake_up()

    def look(self) -> None:
        """Follow what is wanted here."""
        if not self.is_up or self.is_closing:
            return
        for number, arrivals in self.inflows.items():
            if arrivals.stream.kind == "exchange":
                wanted = arrivals.wanted()
                if wanted is not None:
                    self._tell_demand(number, arrivals, wanted)

    def tick(self, now: float) -> None:
        """Send a heart-beat, or give up on a silent peer or a late login."""
        if self.is_closing:
            return
        if not self.is_up:
            if now >= self._began_at + LOGIN_SECONDS:
                self.fail("the login took too long")
        elif (
            self.heartbeat_seconds
            and now >= self._heard_at + self.heartbeat_seconds * SILENCE_FACTOR
        ):
            self.fail(f"nothing was heard for {self.heartbeat_seconds * SILENCE_FACTOR:g} s")
        elif self.heartbeat_seconds and now >= self._said_at + self.heartbeat_seconds * 0.9:
            self.write(self._beat())
            self._said_at = now

    def next_deadline(self) -> float | None:
        """When `tick` is due."""
        if self.is_closing:
            return None
        if not self.is_up:
            return self._began_at + LOGIN_SECONDS
        if not self.heartbeat_seconds:
            return None
        return self._said_at + self.heartbeat_seconds * 0.9

    # Ending

    def _end_flows(self) -> None:
        outflows, self.outflows = self.outflows, {}
        self.inflows = {}
        for number, outflow in outflows.items():
            outflow.end(self._unconfirmed(number))

    def shutdown(self, text: str) -> None:
        """The broker stops."""
        self.is_closing = True

    def recheck(self) -> None:
        """Accounts changed: those of this broker do not matter to it."""
        return


def _route_in(format: int, header: bytes) -> list[bytes]:
    """The brokers that the route header of a message names."""
    decode = values.decode_properties if format == AMQP else stomp.decode_properties
    try:
        text = (decode(header).headers or {}).get(ROUTE_HEADER, "")
        found = [bytes.fromhex(one) for one in str(text).split(",") if one]
    except (BrokerError, ValueError):
        return []
    return [one for one in found if len(one) == ID_BYTES][:64]


def _read(format: int, header: bytes, now_ms: int) -> tuple[bool, int, int]:
    """Whether a message is persistent, its priority, and when it expires."""
    if format == AMQP and header in (b"\x10\x00\x02", b"\x90\x00\x02"):
        return True, 0, 0
    decode = values.decode_properties if format == AMQP else stomp.decode_properties
    properties = decode(header)
    expiration = properties.expiration or ""
    expires_at = now_ms + int(expiration) if expiration.isdecimal() else 0
    is_persistent = properties.delivery_mode == 2 or (
        properties.delivery_mode is None and format != AMQP
    )
    return is_persistent, min(properties.priority or 0, 255), expires_at
