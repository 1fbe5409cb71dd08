"""One AMQP connection of the lab's load: login, the setting up, then messages out or in.  No socket, no clock.

Cheap on purpose: publishes are one template with numbers written into copies of it, deliveries that are alike are read as
an array.  A body is a mark, the producer's number, the sequence, a time in ns, and filling that is compared too.
Tests: tests/unit/bench/lab/test_client.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, final

from broker.wire.amqp import methods
from broker.wire.amqp.frames import BODY, END, HEARTBEAT, METHOD, content_frames, method_frame
from broker.wire.amqp.values import encode_properties
from broker.wire.properties import Properties

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
MARK: Final = b"GLAB"
HEAD: Final = Struct(">4sIQQ")
FRAME_BYTES_MAX: Final = 131_072
_FRAME: Final = Struct(">BHI")
_NUMBERS: Final = Struct(">QQ")
_DELIVER: Final = methods.METHODS["basic.deliver"].code
_ACK: Final = methods.METHODS["basic.ack"].code
_NACK: Final = methods.METHODS["basic.nack"].code
_CLOSES: Final = ("connection.close", "channel.close")

Step = tuple[str, tuple[Any, ...]]
Arrival = tuple[int, int, int]
"""Producer, first sequence, the sequence after the last."""


class Refused(Exception):
    """The broker closed the connection or said what nobody asked; the text is its."""


def filling(size_bytes: int) -> bytes:
    """What follows the head of a body of this size: always the same, and not compressible by itself."""
    return random.Random("lab").randbytes(size_bytes - HEAD.size)


@final
class Template:
    """A publish of one channel, of which batches are made."""

    __slots__ = ("_at", "_raw")

    def __init__(self, exchange: str, key: str, producer: int, body_bytes: int) -> None:
        body = HEAD.pack(MARK, producer, 0, 0) + filling(body_bytes)
        method = methods.encode("basic.publish", 0, exchange, key, False, False)
        header = encode_properties(Properties(delivery_mode=2))
        self._raw = content_frames(1, method, header, body, FRAME_BYTES_MAX)
        self._at = self._raw.index(body[: HEAD.size]) + HEAD.size - _NUMBERS.size

    @property
    def size_bytes(self) -> int:
        """Of one publish on the wire."""
        return len(self._raw)

    def batch(self, first: int, times_ns: list[int]) -> bytes:
        """The bytes of as many publishes as there are times."""
        out = bytearray(self._raw * len(times_ns))
        step = len(self._raw)
        at = self._at
        pack_into = _NUMBERS.pack_into
        for time_ns in times_ns:
            pack_into(out, at, first, time_ns)
            first += 1
            at += step
        return bytes(out)


@final
class _Alike:
    """Deliveries of one size, read as an array: what is the same in all, and where the numbers are."""

    __slots__ = ("body_head", "prefix", "row", "size_bytes")

    def __init__(self, method: bytes, header_bytes: int, body_bytes: int) -> None:
        tag_bytes = 1 + method[4]
        fixed_bytes = 7 + 4 + tag_bytes
        rest_bytes = len(method) - 4 - tag_bytes - 8 - 1 + 1 + 7 + header_bytes + 1
        self.prefix = _FRAME.pack(METHOD, 1, len(method)) + method[: 4 + tag_bytes]
        self.body_head = _FRAME.pack(BODY, 1, body_bytes) + MARK
        self.row = Struct(
            f">{fixed_bytes}sQB{rest_bytes}x11sIQQ{body_bytes - HEAD.size}sc",
        )
        self.size_bytes = self.row.size


@final
class Arrivals:
    """What one reading brought: runs of messages, when they were sent, and the last delivery tag (0: none)."""

    __slots__ = ("corrupt_count", "last_tag", "runs", "times")

    def __init__(self) -> None:
        self.runs: list[Arrival] = []
        self.times: list[tuple[int, int]] = []
        self.last_tag = 0
        self.corrupt_count = 0

    def add(self, producer: int, first: int, stop: int, time_ns: int) -> None:
        """Add a run of one time."""
        runs = self.runs
        if runs and runs[-1][0] == producer and runs[-1][2] == first:
            runs[-1] = (producer, runs[-1][1], stop)
        else:
            runs.append((producer, first, stop))
        self.times.append((time_ns, stop - first))


@final
class Client:
    """Protocol state of one connection with one channel.

    `steps` are carried out one after the other once it is logged in, each waiting for its answer; then `is_ready`.  Answers
    of the broker to publishes go to `on_promise(tag, is_multiple, is_taken)`.
    """

    __slots__ = (
        "_alike",
        "_body",
        "_body_left",
        "_filling",
        "_header_bytes",
        "_login",
        "_method",
        "_on_promise",
        "_rest",
        "_steps",
        "is_ready",
        "output",
    )

    def __init__(
        self,
        login: tuple[str, str],
        steps: list[Step],
        body_bytes: int,
        on_promise: Callable[[int, bool, bool], None],
    ) -> None:
        self._login = login
        self._steps = steps[::-1]
        self._filling = filling(body_bytes)
        self._on_promise = on_promise
        self._alike: _Alike | None = None
        self._rest = b""
        self._method = b""
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_left = 0
        self.is_ready = False
        self.output: list[bytes] = [PROTOCOL_HEADER]

    def feed(self, piece: bytes) -> Arrivals:
        """Take bytes; return the messages in them.  Raises Refused."""
        arrivals = Arrivals()
        raw = self._rest + piece if self._rest else piece
        at = 0
        end = len(raw)
        while True:
            alike = self._alike
            if alike is not None and raw.startswith(alike.prefix, at) and not self._method:
                count = (end - at) // alike.size_bytes
                used = self._read_alike(alike, raw, at, count, arrivals) if count else 0
                if used:
                    at += used
                    continue
            if end - at < 7:
                break
            kind, _channel, size_bytes = _FRAME.unpack_from(raw, at)
            stop = at + 7 + size_bytes
            if stop >= end:
                break
            self._frame(kind, raw[at + 7 : stop], arrivals)
            at = stop + 1
        self._rest = raw[at:]
        return arrivals

    def _read_alike(
        self, alike: _Alike, raw: bytes, at: int, count: int, arrivals: Arrivals
    ) -> int:
        """Read deliveries as long as they are alike; return the bytes used."""
        prefix = alike.prefix
        body_head = alike.body_head
        wanted = self._filling
        done = 0
        producer = first = stop = sent_ns = -1
        last_tag = 0
        rows = alike.row.iter_unpack(memoryview(raw)[at : at + count * alike.size_bytes])
        for begin, tag, _again, head, number, sequence, time_ns, filler, end in rows:
            if begin != prefix or head != body_head or end != END:
                break
            done += 1
            last_tag = tag
            if sequence == stop and time_ns == sent_ns and number == producer and filler == wanted:
                stop += 1
                continue
            if first >= 0:
                arrivals.add(producer, first, stop, sent_ns)
            if filler != wanted:
                arrivals.corrupt_count += 1
                first = stop = -1
                continue
            producer, first, stop, sent_ns = number, sequence, sequence + 1, time_ns
        if first >= 0:
            arrivals.add(producer, first, stop, sent_ns)
        if last_tag:
            arrivals.last_tag = last_tag
        return done * alike.size_bytes

    def _frame(self, kind: int, payload: bytes, arrivals: Arrivals) -> None:
        if kind == METHOD:
            code = payload[:4]
            if code == _ACK:
                self._on_promise(int.from_bytes(payload[4:12], "big"), bool(payload[12] & 1), True)
            elif code == _NACK:
                self._on_promise(int.from_bytes(payload[4:12], "big"), bool(payload[12] & 1), False)
            elif code == _DELIVER:
                self._method = payload
            else:
                self._answer(payload)
        elif kind == HEARTBEAT:
            self.output.append(b"\x08\x00\x00\x00\x00\x00\x00\xce")
        elif self._body_left == 0 and not self._body:
            self._header_bytes = len(payload)
            self._body_left = int.from_bytes(payload[4:12], "big")
            if not self._body_left:
                arrivals.corrupt_count += 1
                self._end_delivery(arrivals, b"")
        else:
            self._body.append(payload)
            self._body_left -= len(payload)
            if self._body_left <= 0:
                is_single = len(self._body) == 1
                self._end_delivery(arrivals, b"".join(self._body))
                if is_single and len(payload) > HEAD.size:
                    self._alike = _Alike(self._last_method, self._header_bytes, len(payload))

    @property
    def _last_method(self) -> bytes:
        method, self._method = self._method, b""
        return method

    def _end_delivery(self, arrivals: Arrivals, body: bytes) -> None:
        at = 5 + self._method[4]
        arrivals.last_tag = int.from_bytes(self._method[at : at + 8], "big")
        self._body.clear()
        self._body_left = 0
        if len(body) >= HEAD.size:
            mark, producer, sequence, time_ns = HEAD.unpack_from(body)
            if mark == MARK and body[HEAD.size :] == self._filling:
                arrivals.add(producer, sequence, sequence + 1, time_ns)
            else:
                arrivals.corrupt_count += 1

    def _answer(self, payload: bytes) -> None:
        method = methods.find_method(payload)
        if method.name == "connection.start":
            response = "\0".join(("", *self._login)).encode()
            capabilities = {"consumer_cancel_notify": True, "connection.blocked": True}
            properties = {"product": "gridmsg lab", "capabilities": capabilities}
            self._send(0, "connection.start-ok", properties, "PLAIN", response, "en_US")
        elif method.name == "connection.tune":
            self._send(0, "connection.tune-ok", 1, FRAME_BYTES_MAX, 0)
            self._send(0, "connection.open", "/", "", False)
        elif method.name == "connection.open-ok":
            self._send(1, "channel.open", "")
        elif method.name in _CLOSES:
            code, text = method.decode(payload)[:2]
            raise Refused(f"{method.name} {code}: {text}")
        elif method.name == "basic.cancel":
            raise Refused("the queue was deleted")
        elif not self.is_ready:
            self._step()

    def _step(self) -> None:
        if self._steps:
            name, fields = self._steps.pop()
            self._send(1, name, *fields)
        else:
            self.is_ready = True

    def _send(self, channel: int, name: str, *fields: Any) -> None:
        self.output.append(method_frame(channel, methods.encode(name, *fields)))

    def acknowledge(self, tag: int) -> None:
        """Acknowledge all deliveries up to a tag."""
        self.output.append(
            b"\x01\x00\x01\x00\x00\x00\x0d" + _ACK + tag.to_bytes(8, "big") + b"\x01\xce"
        )
