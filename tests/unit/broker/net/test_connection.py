"""A connection over a transport in memory: who closes first, how long a closing one stays, large output in pieces."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from broker.net.connection import LINGER_SECONDS, WRITE_BYTES, Connection
from broker.session.amqp_connection import AmqpConnection
from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.session.amqp_limits import AmqpLimits
from broker.session.stomp import StompSession
from broker.session.stomp_connect import StompLimits
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from tests.support.amqp import LOGIN, House, read_frames

CLOSE_OK = method_frame(0, methods.encode("connection.close-ok"))


class Transport(StringTransport):
    """Notes how it was closed."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 5000))
        self.ends: list[str] = []
        self.is_full = False

    def write(self, data: bytes) -> None:
        """Be full with every write, as a socket with a slow peer is."""
        assert type(data) is bytes, "Twisted takes nothing else"
        super().write(data)
        if self.producer is not None:
            self.is_full = True
            self.producer.pauseProducing()

    def drain(self) -> bytes:
        """Hand over what was written, and ask for more."""
        value: bytes = self.value()
        self.clear()
        self.is_full = False
        if self.producer is not None:
            self.producer.resumeProducing()
        return value

    def loseWriteConnection(self) -> None:  # noqa: N802 - Twisted's name
        self.ends.append("half-closed")

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        self.ends.append("aborted")


class Dialed:
    """One connection to a house; `say` is one turn."""

    def __init__(self, protocol: str) -> None:
        self.house = House()
        self.clock = Clock()
        self.listing: dict[Any, None] = {}
        self.connection = Connection(
            self.house.broker,
            self.house.turn,
            self._stomp if protocol == "stomp" else self._amqp,
            self.clock.callLater,
            (self.listing,),
        )
        self.transport = Transport()
        self.connection.makeConnection(self.transport)

    def _amqp(self, peer: str, is_loopback: bool, wake: Any) -> Any:
        house = self.house
        return AmqpConnection(
            house.broker, house.accounts, AmqpLimits(), wake, peer, is_loopback, house.clock.now()
        )

    def _stomp(self, peer: str, is_loopback: bool, wake: Any) -> Any:
        house = self.house
        return StompSession(
            house.broker, house.accounts, StompLimits(), wake, peer, is_loopback, house.clock.now()
        )

    def say(self, data: bytes) -> bytes:
        self.connection.dataReceived(data)
        return self.heard()

    def heard(self) -> bytes:
        self.house.run()
        value: bytes = self.transport.value()
        self.transport.clear()
        return value

    def call(self, name: str, *fields: Any) -> list[str]:
        """Say a method on channel 0; returns the names of what came back."""
        return [
            got[1]
            for got in read_frames(self.say(method_frame(0, methods.encode(name, *fields))))[0]
        ]


@pytest.fixture
def amqp() -> Dialed:
    dialed = Dialed("amqp")
    dialed.say(PROTOCOL_HEADER)
    dialed.call("connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    dialed.call("connection.tune-ok", 2047, 131072, 60)
    assert dialed.call("connection.open", "/", "", False) == ["connection.open-ok"]
    return dialed


def test_after_close_ok_the_client_closes(amqp: Dialed) -> None:
    assert amqp.call("connection.close", 200, "bye", 0, 0) == ["connection.close-ok"]
    assert amqp.connection.is_closing and amqp.transport.ends == []
    assert amqp.say(b"whatever comes is passed over") == b""
    amqp.connection.connectionLost()
    assert not amqp.listing and amqp.clock.getDelayedCalls() == []


def test_a_client_that_does_not_close_is_not_kept(amqp: Dialed) -> None:
    amqp.call("connection.close", 200, "bye", 0, 0)
    amqp.clock.advance(LINGER_SECONDS - 0.1)
    assert amqp.transport.ends == []
    amqp.clock.advance(0.2)
    assert amqp.transport.ends == ["half-closed"]
    amqp.clock.advance(LINGER_SECONDS)
    assert amqp.transport.ends == ["half-closed", "aborted"]


def test_the_answer_to_our_close_closes(amqp: Dialed) -> None:
    assert amqp.call("connection.open", "/", "", False) == ["connection.close"]
    assert not amqp.connection.is_closing
    amqp.say(CLOSE_OK)
    assert amqp.connection.is_closing and amqp.transport.ends == ["half-closed"]


def test_a_stop_waits_for_the_answer_of_a_peer(amqp: Dialed) -> None:
    amqp.connection.shutdown("stop")
    assert read_frames(amqp.heard())[0][0][1:4] == (
        "connection.close",
        320,
        "CONNECTION_FORCED - stop",
    )
    assert not amqp.connection.is_closing
    amqp.connection.shutdown("stop")
    assert amqp.heard() == b""
    amqp.say(CLOSE_OK)
    assert amqp.transport.ends == ["half-closed"]


def test_a_stop_does_not_wait_for_a_client_to_close(amqp: Dialed) -> None:
    amqp.call("connection.close", 200, "bye", 0, 0)
    amqp.connection.shutdown("stop")
    assert amqp.transport.ends == ["half-closed"]
    assert amqp.heard() == b""


def test_a_stop_does_not_wait_for_a_stranger() -> None:
    stranger = Dialed("amqp")
    stranger.connection.shutdown("stop")
    assert stranger.transport.ends == ["half-closed"] and stranger.heard() == b""


def test_stomp_is_closed_by_the_broker() -> None:
    peer = Dialed("stomp")
    assert peer.say(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").startswith(b"CONNECTED")
    assert peer.say(b"DISCONNECT\nreceipt:1\n\n\0").startswith(b"RECEIPT")
    assert peer.connection.is_closing and peer.transport.ends == ["half-closed"]
    peer.clock.advance(LINGER_SECONDS)
    assert peer.transport.ends == ["half-closed", "aborted"]


SEND = b"SEND\ndestination:/queue/q\ncontent-length:%d\n\n%b\0"
BODY = bytes(range(256)) * (5 * WRITE_BYTES // 512)


def large_delivery() -> Dialed:
    """A STOMP peer that was just sent two and a half times what is written at once."""
    peer = Dialed("stomp")
    peer.say(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0")
    peer.transport.drain()
    peer.connection.dataReceived(SEND % (len(BODY), BODY))
    peer.connection.dataReceived(b"SUBSCRIBE\ndestination:/queue/q\nid:1\n\n\0")
    peer.house.run()
    return peer


def test_large_output_is_written_in_pieces_as_the_socket_takes_them() -> None:
    peer = large_delivery()
    pieces = []
    while piece := peer.transport.drain():
        pieces.append(piece)
    assert [len(piece) for piece in pieces[:2]] == [WRITE_BYTES, WRITE_BYTES]
    got = b"".join(pieces)
    assert got.startswith(b"MESSAGE\n") and got.split(b"\n\n", 1)[1].startswith(BODY + b"\0")


def test_what_is_said_meanwhile_comes_behind_it() -> None:
    peer = large_delivery()
    first = peer.transport.drain()
    peer.connection.dataReceived(b"UNSUBSCRIBE\nid:1\nreceipt:r\n\n\0")
    peer.house.run()
    rest = b""
    while piece := peer.transport.drain():
        rest += piece
    assert (first + rest).index(b"RECEIPT") > (first + rest).index(BODY)


def test_a_closing_connection_writes_all_that_is_left() -> None:
    peer = large_delivery()
    got = peer.transport.drain()
    peer.connection.dataReceived(b"DISCONNECT\nreceipt:r\n\n\0")
    peer.house.run()
    assert peer.transport.ends == ["half-closed"]
    got += peer.transport.value()
    assert got.index(b"RECEIPT") > got.index(BODY)


def test_a_lost_connection_writes_nothing_more() -> None:
    peer = large_delivery()
    peer.transport.drain()
    peer.transport.clear()
    peer.connection.connectionLost()
    peer.connection.resumeProducing()
    assert peer.transport.value() == b""


@pytest.mark.parametrize(("waits_s", "is_there"), [(0.9, True), (1.1, False)])
def test_time_to_live_counts_from_when_a_message_comes(waits_s: float, is_there: bool) -> None:
    """After a quiet minute not from the last turn before it, and to its end however quiet it was since."""
    dialed = Dialed("stomp")
    dialed.say(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")
    dialed.transport.drain()
    dialed.heard()
    dialed.house.clock.seconds += 60
    dialed.say(b"SEND\ndestination:/queue/q\nexpiration:1000\n\nbody\0")
    dialed.house.clock.seconds += waits_s
    heard = dialed.say(b"SUBSCRIBE\nid:0\ndestination:/queue/q\n\n\0")
    assert (b"\n\nbody\0" in heard) is is_there
