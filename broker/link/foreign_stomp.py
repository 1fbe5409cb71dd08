"""A link to a STOMP broker that is not one of ours (ActiveMQ, Artemis), as its client of STOMP 1.2.

Each batch that is sent is a transaction whose COMMIT asks for a receipt: it is there wholly or not at all.  What is
received is acknowledged cumulatively.  A far queue NAME is /queue/NAME, a far exchange NAME is /topic/NAME, subscribed
durably; routing keys are not known there.  At least once (see foreign.py).
Tests: tests/interop/test_foreign_links.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import ProtocolViolation
from broker.link.foreign import PREFETCH, ROUTE_HEADER, Arrivals, ForeignSession
from broker.wire.properties import STOMP
from broker.wire.stomp import FrameLimits, FrameParser, encode_frame
from broker.wire.stomp_headers import V12, escape, join_block, split_block
from broker.wire.stomp_properties import HOP_HEADERS

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.link.demand import Entries
    from broker.link.outflow import Outflow

BODY_BYTES_MAX: Final = 512 << 20
FAR_HEADERS: Final = frozenset({b"expires", b"destination-type", b"breadcrumbId"})
"""Headers that ActiveMQ and Artemis add for one hop."""


@final
class StompLink(ForeignSession):
    """The client of one far broker."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parser = FrameParser(FrameLimits(body_bytes=BODY_BYTES_MAX, headers=1000))
        self._transaction = 0
        self._sent: deque[tuple[int, int, list[Delivery]]] = deque()
        settings = self.settings
        beat_ms = int(settings.heartbeat_seconds * 1000)
        pairs = [
            (b"accept-version", b"1.2"),
            (b"host", settings.streams[0].far_vhost.encode()),
            (b"heart-beat", b"%d,%d" % (beat_ms, beat_ms)),
        ]
        if any(one.kind == "exchange" and not one.is_push for one in settings.streams):
            pairs.append((b"client-id", f"gridmsg-{self.name}-{self.table.id.hex()[:8]}".encode()))
        if settings.user:
            pairs.append((b"login", settings.user.encode()))
            pairs.append((b"passcode", settings.password.encode()))
        self.write(encode_frame(b"CONNECT", pairs))
        self._asked_at = self.clock.now()
        self._is_artemis = False
        # Up is who is subscribed: what is sent there from then on comes here.
        self._subscribing: set[bytes] = set()

    # Frames in

    def _receive(self, received: bytes) -> None:
        for command, block, body, _ in self._parser.feed(received):
            if command == b"MESSAGE":
                self._message(block, body)
            elif command == b"RECEIPT":
                self._receipt(dict(split_block(block, V12)))
            elif command == b"CONNECTED":
                self._connected(dict(split_block(block, V12)))
            elif command == b"ERROR":
                said = dict(split_block(block, V12)).get(b"message", b"") or body[:200]
                text = said.decode("utf-8", "replace")
                self.fail(f"the far side says: {' '.join(text.split())}")
            else:
                raise ProtocolViolation(f"{command!r} from the far side")
        if self._parser.violation is not None:
            raise self._parser.violation

    def _connected(self, said: dict[bytes, bytes]) -> None:
        if said.get(b"version") != b"1.2":
            raise ProtocolViolation("the far side does not speak STOMP 1.2")
        self.peer_name = said.get(b"server", b"a STOMP broker").decode("utf-8", "replace")[:100]
        self._is_artemis = self.peer_name.startswith("ActiveMQ-Artemis")
        sends_ms = int(said.get(b"heart-beat", b"0,0").split(b",")[0])
        wants_ms = int(said.get(b"heart-beat", b"0,0").split(b",")[1])
        ours = self.settings.heartbeat_seconds
        # One rhythm for both directions; 0: the far side beats not at all.
        self.heartbeat_seconds = max(ours, sends_ms / 1000) if sends_ms and wants_ms else 0.0
        self.round_trip_ms = (self.clock.now() - self._asked_at) * 1000
        self._open_flows()
        for number, arrivals in self.inflows.items():
            receipt = b"s%d" % number
            self._subscribing.add(receipt)
            pairs = [*self._subscription(number, arrivals), (b"receipt", receipt)]
            self.write(encode_frame(b"SUBSCRIBE", pairs))
        if not self._subscribing:
            self._come_up()

    def _subscription(self, number: int, arrivals: Arrivals) -> list[tuple[bytes, bytes]]:
        stream = arrivals.stream
        prefetch = b"%d" % PREFETCH
        pairs = [
            (b"id", b"%d" % number),
            (b"destination", _place(stream.kind, stream.source)),
            (b"ack", b"client"),
            (b"prefetch-count", prefetch),
            (b"activemq.prefetchSize", prefetch),
            (b"consumer-window-size", b"%d" % (8 << 20)),
        ]
        if self._is_artemis:
            pairs.append((b"subscription-type", _ROUTING[stream.kind]))
        if stream.kind == "exchange":
            name = f"{self.name}-{stream.source}".encode()
            pairs += [
                (b"activemq.subscriptionName", name),
                (b"durable-subscription-name", name),
                (b"durable", b"true"),
                (b"auto-delete", b"false"),
            ]
        return pairs

    def _message(self, block: bytes, body: bytes) -> None:
        pairs = split_block(block, V12)
        said = dict(pairs)
        number = int(said.get(b"subscription", b"-1"))
        arrivals = self.inflows.get(number)
        if arrivals is None:
            return
        kept = [one for one in pairs if one[0] not in HOP_HEADERS and one[0] not in FAR_HEADERS]
        tag = said.get(b"ack") or said[b"message-id"]
        is_again = said.get(b"redelivered") == b"true"
        arrivals.take("", STOMP, join_block(kept), body, tag, is_again=is_again)

    def _receipt(self, said: dict[bytes, bytes]) -> None:
        receipt = said[b"receipt-id"]
        if receipt in self._subscribing:
            self._subscribing.remove(receipt)
            if not self._subscribing:
                self._come_up()
            return
        sent = self._sent
        transaction = int(receipt)
        if not sent or sent[0][0] != transaction:
            raise ProtocolViolation("a receipt out of turn")
        _, number, taken = sent.popleft()
        outflow = self.outflows.get(number)
        if outflow is not None:
            outflow.settle(taken)

    # Frames out

    def _batch(self, number: int, outflow: Outflow, taken: list[Delivery]) -> list[bytes]:
        stream = self.settings.streams[number]
        is_exchange = stream.kind == "exchange"
        self._transaction += 1
        name = b"%d" % self._transaction
        place = escape(_place(stream.kind, stream.target), V12)
        head = b"SEND\ndestination:%b\ntransaction:%b\n" % (place, name)
        if self._is_artemis:
            head += b"destination-type:%b\n" % _ROUTING[stream.kind]
        pieces = [b"BEGIN\ntransaction:%b\n\n\0" % name]
        for one in taken:
            message = one.message
            block = message.header_as(STOMP)
            if b"persistent:" not in block:
                block = (b"persistent:true\n" if message.is_persistent else b"") + block
            if is_exchange:
                route = self.route_text(one).encode()
                pairs = [pair for pair in split_block(block, V12) if pair[0] != _ROUTE]
                block = join_block([*pairs, (_ROUTE, route)])
            body = message.body
            pieces.append(b"%b%bcontent-length:%d\n\n%b\0" % (head, block, len(body), body))
        pieces.append(b"COMMIT\ntransaction:%b\nreceipt:%b\n\n\0" % (name, name))
        self._sent.append((self._transaction, number, taken))
        return pieces

    def _unconfirmed(self, number: int) -> list[Delivery]:
        found = [one for _, of, taken in self._sent if of == number for one in taken]
        self._sent = deque(one for one in self._sent if one[1] != number)
        return found

    def _acknowledge(self, number: int, tag: Any) -> None:
        self.write(encode_frame(b"ACK", [(b"id", tag)]))

    def _beat(self) -> bytes:
        return b"\n"

    def _tell_demand(self, number: int, arrivals: Arrivals, wanted: Entries) -> None:
        """A topic there has no bindings: all of it comes."""


_ROUTE: Final = ROUTE_HEADER.encode()
_ROUTING: Final = {"queue": b"ANYCAST", "exchange": b"MULTICAST"}
"""Artemis takes what is sent to a name that it does not know for a topic's, and drops it while nobody subscribes."""


def _place(kind: str, name: str) -> bytes:
    if name.startswith("/"):
        return name.encode()
    return f"/{'queue' if kind == 'queue' else 'topic'}/{name}".encode()
