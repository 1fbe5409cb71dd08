"""AMQP peers in memory: a broker with turns, and connections that speak in method names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.core.broker import Broker
from broker.net.turn import Turn
from broker.session.amqp_connection import AmqpConnection, AmqpLimits
from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.session.auth import Accounts
from broker.wire.amqp import methods, values
from broker.wire.amqp.frames import content_frames, method_frame
from broker.wire.properties import Properties
from tests.support.fake_store import FakeStore

CAPABILITIES = {
    "authentication_failure_close": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
}
LOGIN = b"\0guest\0guest"
Got = tuple[Any, ...]


class ToldClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int((self.seconds - 1000.0) * 1000)


class House:
    """A broker, its store and its turns."""

    def __init__(self, *, is_slow: bool = False, accounts: Accounts | None = None) -> None:
        self.clock = ToldClock()
        self.store = FakeStore(is_slow=is_slow)
        names = iter(range(1_000_000))
        self.broker = Broker(self.store, self.clock, lambda: f"n{next(names)}")
        self.vhost = self.broker.vhosts["/"]
        self.accounts = accounts or Accounts.guest_only()
        self._soon: list[Callable[[], None]] = []
        self.turn = Turn(self.broker, self.store, self._soon.append)
        self.store.on_durable = self.turn.on_durable

    def run(self) -> None:
        """End turns until nothing is left to do."""
        for _ in range(1000):
            if not self._soon:
                return
            calls = list(self._soon)
            self._soon.clear()
            for call in calls:
                call()
        raise AssertionError("turns without end")


class Peer:
    """One AMQP connection to a house; what the broker wrote is in `raw`, and comes out of `got` by name."""

    def __init__(
        self,
        house: House,
        limits: AmqpLimits | None = None,
        *,
        is_loopback: bool = True,
    ) -> None:
        self.house = house
        self.session = AmqpConnection(
            house.broker,
            house.accounts,
            limits or AmqpLimits(),
            house.turn.wake,
            "127.0.0.1:1",
            is_loopback,
            house.clock.now(),
        )
        self.raw = b""
        self._read_bytes = 0
        house.turn.add(self.session, self)

    def flush(self) -> None:
        output = self.session.output()
        assert all(type(piece) is bytes for piece in output), "Twisted takes nothing else"
        self.raw += b"".join(output)

    @property
    def is_closing(self) -> bool:
        return self.session.is_closing

    # Out

    def feed(self, data: bytes) -> None:
        """Send bytes and end the turn."""
        self.session.receive_data(data)
        self.house.turn.wake(self.session)
        self.house.run()

    def send(self, channel: int, name: str, *fields: Any) -> None:
        self.feed(method_frame(channel, methods.encode(name, *fields)))

    def login(self, capabilities: dict[str, bool] | None = None) -> Peer:
        self.feed(PROTOCOL_HEADER)
        properties = {"capabilities": CAPABILITIES if capabilities is None else capabilities}
        self.send(0, "connection.start-ok", properties, "PLAIN", LOGIN, "en_US")
        self.send(0, "connection.tune-ok", 2047, 131072, 60)
        self.send(0, "connection.open", "/", "", False)
        names = [got[1] for got in self.got()]
        assert names == ["connection.start", "connection.tune", "connection.open-ok"], names
        return self

    def channel(self, number: int = 1) -> Peer:
        self.send(number, "channel.open", "")
        assert self.got() == [(number, "channel.open-ok", b"")]
        return self

    def declare(self, queue: str, *, channel: int = 1, **options: Any) -> None:
        arguments = options.pop("arguments", {})
        flags = [options.pop(name, False) for name in ("durable", "exclusive", "auto_delete")]
        assert not options
        self.send(channel, "queue.declare", 0, queue, False, *flags, False, arguments)

    def publish(
        self,
        key: str,
        body: bytes,
        *,
        exchange: str = "",
        channel: int = 1,
        mandatory: bool = False,
        **properties: Any,
    ) -> None:
        self.feed(published(key, body, exchange, channel, mandatory, **properties))

    def consume(
        self, queue: str, tag: str = "c", *, channel: int = 1, no_ack: bool = False, **options: Any
    ) -> None:
        self.send(
            channel,
            "basic.consume",
            0,
            queue,
            tag,
            False,
            no_ack,
            options.get("exclusive", False),
            options.get("nowait", False),
            options.get("arguments", {}),
        )

    # In

    def got(self) -> list[Got]:
        """What came since the last call: (channel, method, fields …), with (…, properties, body) for content."""
        found, used = read_frames(self.raw[self._read_bytes :])
        self._read_bytes += used
        return found

    def bodies(self) -> list[bytes]:
        return [got[-1] for got in self.got() if got[1] == "basic.deliver"]


def published(
    key: str,
    body: bytes,
    exchange: str = "",
    channel: int = 1,
    mandatory: bool = False,
    frame_bytes_max: int = 131072,
    **properties: Any,
) -> bytes:
    """The bytes of a publish."""
    method = methods.encode("basic.publish", 0, exchange, key, mandatory, False)
    header = values.encode_properties(Properties(**properties))
    return content_frames(channel, method, header, body, frame_bytes_max)


def read_frames(raw: bytes) -> tuple[list[Got], int]:
    """Decode what the broker wrote; an independent reading, frame by frame."""
    at = 0
    found: list[Got] = []
    content: dict[int, tuple[Got, int, list[bytes]]] = {}
    while at < len(raw):
        if raw[at : at + 4] == b"AMQP":
            found.append((0, "protocol header", raw[at : at + 8]))
            at += 8
            continue
        kind, channel = raw[at], int.from_bytes(raw[at + 1 : at + 3], "big")
        stop = at + 7 + int.from_bytes(raw[at + 3 : at + 7], "big")
        assert raw[stop : stop + 1] == b"\xce", f"frame at {at} does not end"
        payload = raw[at + 7 : stop]
        at = stop + 1
        if kind == 8:
            found.append((channel, "heartbeat"))
        elif kind == 1:
            assert channel not in content, "a method inside a content"
            method = methods.find_method(payload)
            got = (channel, method.name, *method.decode(payload))
            if method.name in ("basic.deliver", "basic.return", "basic.get-ok"):
                content[channel] = (got, -1, [])
            else:
                found.append(got)
        elif kind == 2:
            got, _, parts = content[channel]
            assert payload[:4] == b"\x00\x3c\x00\x00"
            size = int.from_bytes(payload[4:12], "big")
            content[channel] = ((*got, values.decode_properties(payload[12:])), size, parts)
        else:
            assert kind == 3
            content[channel][2].append(payload)
        if channel in content:
            got, size, parts = content[channel]
            if size == sum(map(len, parts)):
                del content[channel]
                found.append((*got, b"".join(parts)))
    assert not content, "a content without its end"
    return found, at
