"""A consumer of an AMQP channel: how its deliveries become bytes.

The hot half of sending: a delivery like the last one (destination, properties, size) costs a tag and a join.
Tests: tests/unit/broker/session/test_amqp_channel.py.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from broker.wire.amqp.frames import (
    CONTENT_OVERHEAD_BYTES,
    END,
    FRAME_OVERHEAD_BYTES,
    content_frames,
    content_pieces,
)
from broker.wire.amqp.values import encode_short_string
from broker.wire.properties import AMQP

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.destination import Destination
    from broker.core.message import Message

LARGE_BYTES: Final = 1 << 20
"""Bodies from this size on go out frame by frame, without being joined."""
_TAG: Final = Struct(">Q").pack
_FRAME: Final = Struct(">BHI").pack
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_CONTENT_START: Final = b"\x00\x3c\x00\x00"


@final
class Consumer:
    """What a channel keeps of a subscription: its tag, and the bytes of its last delivery to be used again.

    `unfit` collects deliveries, with their tags, whose properties are larger than a frame of this peer.
    A delivery is `front`, the delivery tag, `middle` (redelivered, names, content header up to the size), the size, `tail`
    (properties, start of the body frame), the size again, the body.
    """

    __slots__ = (
        "_frame_bytes_max",
        "_number",
        "destination",
        "format",
        "front",
        "header",
        "middle",
        "rest",
        "size_bytes",
        "tag",
        "tail",
        "unfit",
    )

    def __init__(self, tag: str, number: int, frame_bytes_max: int) -> None:
        self._number = number
        self._frame_bytes_max = frame_bytes_max
        self.tag = encode_short_string(tag)
        self.destination: Destination | None = None
        self.format = AMQP
        self.header = b""
        self.size_bytes = 0
        self.front = b""
        self.middle = b""
        self.tail = b""
        self.rest = b""
        self.unfit: list[tuple[int, Delivery]] = []

    def encode(self, run: list[Delivery], tag: int, out: list[bytes]) -> None:
        """Append the frames of a run of deliveries, whose first has the delivery tag `tag` + 1."""
        parts: list[bytes] = []
        for delivery in run:
            tag += 1
            message = delivery.message
            body = message.body
            if (
                message.destination is not self.destination
                or message.header != self.header
                or message.format != self.format
                or delivery.count
            ) and not self._prepare(message, delivery.count > 0):
                self.unfit.append((tag, delivery))
                continue
            if len(body) != self.size_bytes and not self._prepare_size(len(body)):
                if len(body) < LARGE_BYTES:
                    parts.append(self._in_frames(delivery, tag))
                    continue
                out.append(b"".join(parts))
                parts.clear()
                out += self._in_pieces(delivery, tag)
                continue
            parts += (self.front, _TAG(tag), self.rest, body, END)
        out.append(b"".join(parts))

    def _prepare(self, message: Message, is_redelivered: bool) -> bool:
        """Make the parts of a delivery that depend on destination and properties; False if they fit no frame."""
        header = message.header_as(AMQP)
        if len(header) > self._frame_bytes_max - CONTENT_OVERHEAD_BYTES:
            self.destination = None
            return False
        destination = message.destination
        names = destination.amqp_names
        if not names:
            names = encode_short_string(destination.exchange) + encode_short_string(
                destination.routing_key
            )
            destination.amqp_names = names
        number = self._number.to_bytes(2, "big")
        size_bytes = 4 + len(self.tag) + 9 + len(names)
        self.front = _FRAME(1, self._number, size_bytes) + _DELIVER + self.tag
        self.middle = b"".join(
            (
                b"\x01" if is_redelivered else b"\x00",
                names,
                b"\xce\x02",
                number,
                (len(header) + 12).to_bytes(4, "big"),
                _CONTENT_START,
            )
        )
        self.tail = header + b"\xce\x03" + number
        self.header = message.header
        self.format = message.format
        # A redelivery is not used again: the next first delivery must say so.
        self.destination = None if is_redelivered else destination
        self.size_bytes = -1
        return True

    def _prepare_size(self, size_bytes: int) -> bool:
        """Make the part of a delivery that depends on the size; False if it isn't one body frame."""
        self.size_bytes = -1
        if not 0 < size_bytes <= self._frame_bytes_max - FRAME_OVERHEAD_BYTES:
            return False
        self.size_bytes = size_bytes
        self.rest = b"".join(
            (self.middle, _TAG(size_bytes), self.tail, size_bytes.to_bytes(4, "big"))
        )
        return True

    def _in_frames(self, delivery: Delivery, tag: int) -> bytes:
        """A delivery whose body is empty or takes several frames."""
        message = delivery.message
        return content_frames(
            self._number,
            self._method(delivery, tag),
            message.header_as(AMQP),
            message.body,
            self._frame_bytes_max,
        )

    def _in_pieces(self, delivery: Delivery, tag: int) -> list[bytes]:
        """A delivery whose body is too large to be copied."""
        message = delivery.message
        return content_pieces(
            self._number,
            self._method(delivery, tag),
            message.header_as(AMQP),
            message.body,
            self._frame_bytes_max,
        )

    def _method(self, delivery: Delivery, tag: int) -> bytes:
        return b"".join(
            (
                _DELIVER,
                self.tag,
                _TAG(tag),
                b"\x01" if delivery.count else b"\x00",
                delivery.message.destination.amqp_names,
            )
        )
