"""A link to an AMQP 0-9-1 broker that is not one of ours (RabbitMQ, LavinMQ), as its client.

Channel 1 publishes with confirms, channel 2 consumes; other channels are opened for a moment, to ask for queues that may
not be there.  Both directions on one connection.  At least once (see foreign.py).
Tests: tests/interop/test_foreign_links.py.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import ProtocolViolation
from broker.link.demand import difference
from broker.link.foreign import PREFETCH, ROUTE_HEADER, Arrivals, ForeignSession
from broker.link.streams import buffer_name
from broker.wire.amqp import methods, values
from broker.wire.amqp.frames import (
    BODY,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    content_frames,
    method_frame,
)
from broker.wire.properties import AMQP

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.link.demand import Entries
    from broker.link.outflow import Outflow

_FRAME: Final = Struct(">BHI")
_SIZE: Final = Struct(">Q")
FRAME_BYTES_MAX: Final = 131_072
BODY_BYTES_MAX: Final = 512 << 20
PUBLISHING: Final = 1
CONSUMING: Final = 2
ASKING: Final = 3
SYSTEM: Final = "amq."
NO_TABLE: Final[dict[str, Any]] = {}

Reply = tuple[str, list[Any]]
Script = Generator[tuple[int, str, tuple[Any, ...]], Reply, None]


@final
class AmqpLink(ForeignSession):
    """The client of one far broker."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held = b""
        self._frame_bytes = FRAME_BYTES_MAX
        self._script: Script | None = None
        self._asked = (0, "")
        # Of the delivery whose content is coming: fields of basic.deliver, header, parts, bytes missing.
        self._deliver: list[Any] | None = None
        self._header: bytes | None = None
        self._parts: list[bytes] = []
        self._missing_bytes = 0
        self._tag = 0
        self._sent: dict[int, tuple[int, Delivery]] = {}
        self._first_unconfirmed = 1
        self._methods: dict[tuple[str, str], bytes] = {}
        self.write(b"AMQP\0\0\x09\x01")

    # Bytes in

    def _receive(self, received: bytes) -> None:
        held = self._held + received
        if held.startswith(b"AMQP"):
            raise ProtocolViolation("the far side does not speak AMQP 0-9-1")
        at, end = 0, len(held)
        while end - at >= 8:
            kind, channel, size_bytes = _FRAME.unpack_from(held, at)
            if size_bytes > self._frame_bytes + 8:
                raise ProtocolViolation(f"a frame of {size_bytes} bytes from the far side")
            stop = at + 7 + size_bytes
            if stop >= end:
                break
            payload = held[at + 7 : stop]
            if held[stop] != 0xCE:
                raise ProtocolViolation("a frame of the far side without its end")
            at = stop + 1
            if kind == METHOD:
                self._method(channel, payload)
            elif kind == HEADER and self._deliver is not None:
                self._header = payload[12:]
                self._missing_bytes = _SIZE.unpack_from(payload, 4)[0]
                if self._missing_bytes > BODY_BYTES_MAX:
                    raise ProtocolViolation("a message larger than can be taken")
                self._take_if_whole()
            elif kind == BODY and self._header is not None:
                self._parts.append(payload)
                self._missing_bytes -= size_bytes
                self._take_if_whole()
            elif kind != HEARTBEAT:
                raise ProtocolViolation(f"a frame of type {kind} out of turn")
        self._held = held[at:]

    def _take_if_whole(self) -> None:
        if self._missing_bytes > 0 or self._deliver is None or self._header is None:
            return
        tag, delivery_tag, is_again, _, key = self._deliver
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        header = self._header
        self._deliver, self._header, self._parts = None, None, []
        arrivals = self.inflows.get(int(tag))
        if arrivals is not None:
            arrivals.take(key, AMQP, header, body, delivery_tag, is_again=bool(is_again))

    def _method(self, channel: int, payload: bytes) -> None:
        method = methods.find_method(payload)
        fields = method.decode(payload)
        name = method.name
        if name == "basic.deliver":
            self._deliver = fields
        elif name in ("basic.ack", "basic.nack"):
            self._confirmed(fields[0], bool(fields[1]), is_taken=name == "basic.ack")
        elif name == "connection.blocked":
            self.set_far_reason(fields[0] or "blocked")
        elif name == "connection.unblocked":
            self.set_far_reason("")
        elif name == "connection.close":
            self.write(method_frame(0, methods.encode("connection.close-ok")))
            self.fail(f"the far side closed: {fields[0]} {fields[1]}")
        elif name == "basic.cancel":
            self.stream_ended(int(fields[0]), f"the far side ended {fields[0]}: its queue is gone")
        elif name == "connection.start":
            self._begin(fields)
        elif name == "channel.close":
            self.write(method_frame(channel, methods.encode("channel.close-ok")))
            if self._script is None or self._asked[0] != channel:
                self.fail(f"the far side closed a channel: {fields[0]} {fields[1]}")
            else:
                self._go_on((name, fields))
        elif self._script is not None:
            self._go_on((name, fields))
        elif not name.endswith("-ok"):
            raise ProtocolViolation(f"{name} out of turn")

    # The greeting, as a script: each step is a method, answered by the next reply

    def _begin(self, fields: list[Any]) -> None:
        properties = fields[2]
        product, version = properties.get("product", "?"), properties.get("version", "?")
        self.peer_name = f"{product} {version}"[:100]
        self._script = self._greet()
        channel, name, values_ = next(self._script)
        self._say(channel, name, values_)

    def _say(self, channel: int, name: str, fields: tuple[Any, ...]) -> None:
        self._asked = (channel, name)
        self.write(method_frame(channel, methods.encode(name, *fields)))

    def _go_on(self, reply: Reply) -> None:
        assert self._script is not None, "there is a script while there are steps"
        try:
            step = self._script.send(reply)
        except StopIteration:
            self._script = None
            if not self.is_closing:
                self._come_up()
                self.look()
            return
        self._say(*step)

    def _greet(self) -> Script:
        settings = self.settings
        properties = {
            "product": "gridmsg",
            "connection_name": f"link {settings.name} of {self.table.name}",
            "capabilities": {
                "publisher_confirms": True,
                "basic.nack": True,
                "consumer_cancel_notify": True,
                "connection.blocked": True,
            },
        }
        response = f"\0{settings.user}\0{settings.password}".encode()
        mechanism = "PLAIN" if settings.user else "EXTERNAL"
        started_at = self.clock.now()
        _, fields = yield (
            0,
            "connection.start-ok",
            (properties, mechanism, response if settings.user else b"", "en_US"),
        )
        channels, frame_bytes, heartbeat = fields
        self._frame_bytes = min(frame_bytes or FRAME_BYTES_MAX, FRAME_BYTES_MAX)
        wanted = max(1, round(settings.heartbeat_seconds))
        heartbeat = min(heartbeat, wanted) if heartbeat else wanted
        self.heartbeat_seconds = heartbeat / 2
        self.round_trip_ms = (self.clock.now() - started_at) * 1000
        tune = methods.encode("connection.tune-ok", channels, self._frame_bytes, heartbeat)
        self.write(method_frame(0, tune))
        vhost = settings.streams[0].far_vhost
        yield 0, "connection.open", (vhost, "", False)
        for channel in (PUBLISHING, CONSUMING):
            yield channel, "channel.open", ("",)
        yield PUBLISHING, "confirm.select", (False,)
        yield CONSUMING, "basic.qos", (0, PREFETCH, False)
        self._open_flows()
        for number in list(self.outflows):
            yield from self._declare_far(number, settings.streams[number].target)
        for number in list(self.inflows):
            yield from self._consume(number)

    def _declare_far(self, number: int, name: str) -> Script:
        """Make sure that a far exchange or queue is there; how it is declared there is its own affair."""
        stream = self.settings.streams[number]
        if name.startswith(SYSTEM) or (not name and stream.kind == "exchange"):
            return
        yield ASKING, "channel.open", ("",)
        if stream.kind == "queue":
            asked: tuple[str, tuple[Any, ...]] = (
                "queue.declare",
                (0, name, True, True, False, False, False, NO_TABLE),
            )
        else:
            asked = (
                "exchange.declare",
                (0, name, "topic", True, True, False, False, False, NO_TABLE),
            )
        reply, fields = yield (ASKING, *asked)
        if reply == "channel.close":
            if fields[0] != 404:
                self.stream_ended(number, f"{stream.name}: {fields[0]} {fields[1]}")
                return
            yield ASKING, "channel.open", ("",)
            kind = "topic"
            near = self.broker.vhost(stream.vhost).exchanges.get(
                stream.source if stream.is_push else stream.target
            )
            if near is not None:
                kind = near.kind
            again = (
                (0, name, False, True, False, False, False, NO_TABLE)
                if stream.kind == "queue"
                else (0, name, kind, False, True, False, False, False, NO_TABLE)
            )
            reply, fields = yield (ASKING, asked[0], again)
            if reply == "channel.close":
                self.stream_ended(number, f"{stream.name}: {fields[0]} {fields[1]}")
                return
        yield ASKING, "channel.close", (200, "", 0, 0)

    def _consume(self, number: int) -> Script:
        stream = self.settings.streams[number]
        yield from self._declare_far(number, stream.source)
        if self.inflows[number].refusal:
            return
        queue = stream.source
        if stream.kind == "exchange":
            queue = buffer_name(self.table.id, self.name, stream.source)
            arguments: dict[str, Any] = {}
            if self.settings.buffer_bytes:
                arguments = {
                    "x-max-length-bytes": self.settings.buffer_bytes,
                    "x-overflow": "reject-publish",
                }
            yield (
                CONSUMING,
                "queue.declare",
                (0, queue, False, True, False, False, False, arguments),
            )
        yield (
            CONSUMING,
            "basic.consume",
            (0, queue, str(number), False, False, False, False, NO_TABLE),
        )

    # Demand

    def _tell_demand(self, number: int, arrivals: Arrivals, wanted: Entries) -> None:
        stream = arrivals.stream
        queue = buffer_name(self.table.id, self.name, stream.source)
        added, removed = difference(arrivals.told, wanted)
        for key, _, arguments, _ in added:
            fields = (0, queue, stream.source, key, True, arguments)
            self.write(method_frame(CONSUMING, methods.encode("queue.bind", *fields)))
        for key, text in removed:
            gone = arrivals.told[key, text]
            payload = methods.encode("queue.unbind", 0, queue, stream.source, key, gone.arguments)
            self.write(method_frame(CONSUMING, payload))
        arrivals.told = wanted

    # Messages out

    def _batch(self, number: int, outflow: Outflow, taken: list[Delivery]) -> list[bytes]:
        stream = self.settings.streams[number]
        is_exchange = stream.kind == "exchange"
        pieces: list[bytes] = []
        sent = self._sent
        for one in taken:
            message = one.message
            key = message.routing_key if is_exchange else stream.target
            exchange = stream.target if is_exchange else ""
            method = self._methods.get((exchange, key))
            if method is None:
                if len(self._methods) > 1000:
                    self._methods.clear()
                method = methods.encode("basic.publish", 0, exchange, key, False, False)
                self._methods[exchange, key] = method
            header = message.header_as(AMQP)
            if is_exchange:
                header = self._with_route(one, header)
            pieces.append(
                content_frames(PUBLISHING, method, header, message.body, self._frame_bytes)
            )
            self._tag += 1
            sent[self._tag] = (number, one)
        return pieces

    def _with_route(self, delivery: Delivery, header: bytes) -> bytes:
        properties = values.decode_properties(header)
        properties.headers = {
            **(properties.headers or {}),
            ROUTE_HEADER: self.route_text(delivery),
        }
        return values.encode_properties(properties)

    def _confirmed(self, tag: int, is_multiple: bool, *, is_taken: bool) -> None:
        if not is_taken:
            # Its queue is full: what it refused goes back, and is tried again with the next connection.
            self.fail("the far side refused messages (a full queue?); they are tried again")
            return
        done: dict[int, list[Delivery]] = {}
        for one in range(self._first_unconfirmed, tag + 1) if is_multiple else (tag,):
            found = self._sent.pop(one, None)
            if found is not None:
                done.setdefault(found[0], []).append(found[1])
        if is_multiple:
            self._first_unconfirmed = tag + 1
        for number, deliveries in done.items():
            outflow = self.outflows.get(number)
            if outflow is not None:
                outflow.settle(deliveries)

    def _unconfirmed(self, number: int) -> list[Delivery]:
        mine = [tag for tag, (of, _) in self._sent.items() if of == number]
        return [self._sent.pop(tag)[1] for tag in mine]

    def _acknowledge(self, number: int, tag: Any) -> None:
        # Cumulative over all streams of the channel: what came before it was applied before it, so it is durable, too.
        self.write(method_frame(CONSUMING, methods.encode("basic.ack", tag, True)))

    def _beat(self) -> bytes:
        return HEARTBEAT_FRAME
