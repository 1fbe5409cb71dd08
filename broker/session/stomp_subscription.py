"""A STOMP subscription: what it was delivered and has not acknowledged, and how its MESSAGE frames are written.

Message ids are `<session>-<subscription>-<number>`: unique, free of colons, and parsed with one split; the same
bytes are the `ack` header.  Tests: tests/unit/broker/session/test_stomp.py, tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import Final, Literal, final

from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.subscription import Subscription
from broker.core.vhost import Vhost
from broker.session.stomp_destinations import write_name
from broker.session.stomp_send import ORIGINAL_DESTINATION
from broker.wire.properties import STOMP
from broker.wire.stomp import encode_frame
from broker.wire.stomp_headers import V12, convert_block, escape, unescape

AckMode = Literal["auto", "client", "client-individual"]

_FIRST: Final = b"\nredelivered:false\n"
_ORIGINAL: Final = b"\n" + ORIGINAL_DESTINATION + b":"
_AGAIN: Final = b"\nredelivered:true\n"


@final
class StompSubscription:
    """One SUBSCRIBE of a session.

    A composite destination has one core subscription a queue, of which it holds all; none: it has ended.
    `unsettled` maps message numbers to deliveries, rising; no number below `first` is in it.
    """

    __slots__ = (
        "_ack",
        "_destination",
        "_head",
        "_id_prefix",
        "_keeps_destination",
        "_number",
        "_subscription_line",
        "_version",
        "_vhost",
        "ack_mode",
        "destination",
        "durable_queues",
        "first",
        "id",
        "key",
        "prefix",
        "queue_names",
        "subscriptions",
        "unsettled",
    )

    def __init__(
        self,
        vhost: Vhost,
        id: str | None,
        key: str,
        prefix: bytes,
        ack_mode: AckMode,
        version: int,
        *,
        keeps_destination: bool = False,
    ) -> None:
        self.id = id
        self.key = key
        self.prefix = prefix
        self.ack_mode: AckMode = ack_mode
        self.destination = ""
        self.queue_names: list[str] = []
        self.durable_queues: list[str] = []
        self.subscriptions: list[Subscription] = []
        self._keeps_destination = keeps_destination
        self.unsettled: dict[int, Delivery] = {}
        self.first = 1
        self._vhost = vhost
        self._version = version
        self._number = 0
        self._destination: Destination | None = None
        self._head = b""
        self._id_prefix = prefix + b"-"
        self._subscription_line = (
            b"" if id is None else b"subscription:%b\n" % escape(id.encode(), version)
        )
        has_ack = version == V12 and ack_mode != "auto"
        self._ack = b"\nack:" + self._id_prefix if has_ack else b""

    def encode(self, run: list[Delivery], output: list[bytes]) -> None:
        """Append a MESSAGE frame for each delivery, and keep what must be acknowledged."""
        if not self._keeps_destination:
            self._encode(run, output)
            return
        for delivery in run:
            self._write_original(delivery)
            self._encode([delivery], output)

    def _encode(self, run: list[Delivery], output: list[bytes]) -> None:
        number = self._number
        version = self._version
        ack = self._ack
        unsettled = self.unsettled if self.ack_mode != "auto" else None
        destination = self._destination
        head = self._head
        for delivery in run:
            number += 1
            message = delivery.message
            if message.destination is not destination:
                destination = message.destination
                head = self._write_head(destination)
            header = message.header if message.format == STOMP else message.header_as(STOMP)
            if version != V12 and b"\\" in header:
                header = convert_block(header, version)
            body = message.body
            mark = _AGAIN if delivery.count else _FIRST
            if ack:
                mark = b"%b%d%b" % (ack, number, mark)
            if body:
                output.append(
                    b"%b%d%b%bcontent-length:%d\n\n%b\0"
                    % (head, number, mark, header, len(body), body)
                )
            else:
                output.append(b"%b%d%b%b\n\0" % (head, number, mark, header))
            if unsettled is not None:
                unsettled[number] = delivery
        self._number = number

    def _write_head(self, destination: Destination) -> bytes:
        name = destination.stomp_name or write_name(destination, self._vhost)
        return self._set_head(destination, name)

    def _write_original(self, delivery: Delivery) -> None:
        """Take the destination that the sender wrote, where the message has it."""
        message = delivery.message
        _, mark, rest = (b"\n" + message.header_as(STOMP)).partition(_ORIGINAL)
        if mark:
            self._set_head(message.destination, rest.partition(b"\n")[0])
        else:
            self._write_head(message.destination)

    def _set_head(self, destination: Destination, name: bytes) -> bytes:
        if self._version != V12 and b"\\" in name:
            name = escape(unescape(name, V12), self._version)
        self._destination = destination
        self._head = b"MESSAGE\n%bdestination:%b\nmessage-id:%b" % (
            self._subscription_line,
            name,
            self._id_prefix,
        )
        return self._head

    def end_marker(self) -> bytes:
        """ActiveMQ's MESSAGE that tells a browser that it has seen all."""
        pairs = [
            (b"message-id", b"0"),
            (b"destination", self.destination.encode("utf-8", "replace")),
            (b"browser", b"end"),
        ]
        if self.id is not None:
            pairs.insert(0, (b"subscription", self.id.encode()))
        return encode_frame(b"MESSAGE", pairs, version=self._version)

    def was_sent(self, number: int) -> bool:
        """Whether a message of this number was ever delivered."""
        return 0 < number <= self._number

    def take(self, number: int) -> list[Delivery]:
        """Remove what an ACK or NACK of this number means; empty if it is not there (any more)."""
        unsettled = self.unsettled
        if number not in unsettled:
            return []
        if self.ack_mode == "client-individual":
            return [unsettled.pop(number)]
        taken: list[Delivery] = []
        for one in range(self.first, number + 1):
            delivery = unsettled.pop(one, None)
            if delivery is not None:
                taken.append(delivery)
        self.first = number + 1
        return taken

    def numbers(self, number: int) -> list[int]:
        """What `take` of this number would remove."""
        if number not in self.unsettled or self.ack_mode == "client-individual":
            return [number] if number in self.unsettled else []
        return [one for one in range(self.first, number + 1) if one in self.unsettled]

    def put_back(self, numbers: list[int], deliveries: list[Delivery]) -> None:
        """Undo `take`: its transaction was aborted."""
        self.unsettled.update(zip(numbers, deliveries, strict=True))
        self.first = min([self.first, *numbers])
