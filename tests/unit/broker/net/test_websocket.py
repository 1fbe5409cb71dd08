"""WebSocket connections over a transport in memory, with wsproto's client side as the peer."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from broker.net.listener import ConnectionFactory
from broker.net.turn import Turn
from broker.net.websocket import WebSocketFactory, WebSocketLimits
from broker.session.auth import Accounts
from broker.session.stomp import StompSession
from broker.session.stomp_connect import StompLimits
from tests.support.core import Core

wsproto = pytest.importorskip("wsproto")
from wsproto import ConnectionType, WSConnection  # noqa: E402
from wsproto.events import (  # noqa: E402
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

CONNECT = "CONNECT\naccept-version:1.2\nhost:/\n\n\0"


class Transport(StringTransport):
    aborted = False

    def abortConnection(self):
        self.aborted = True
        self.loseConnection()


class House:
    """A listener and one peer; `say` is one turn."""

    def __init__(self, **limits) -> None:
        self.core = Core()
        self.clock = Clock()
        self.turns: list = []
        turn = Turn(self.core.broker, self.core.store, self.turns.append)
        accounts = Accounts.guest_only()

        def make(peer, is_loopback, wake):
            return StompSession(
                self.core.broker, accounts, StompLimits(), wake, peer, is_loopback, 1000.0
            )

        self.listing: dict = {}
        inner = ConnectionFactory(
            self.core.broker, turn, make, self.clock.callLater, self.listing, "websocket", 10
        )
        made = {"message_bytes_max": 1 << 20, "handshake_seconds": 10.0} | limits
        self.factory = WebSocketFactory(inner, WebSocketLimits(**made), self.clock.callLater)
        self.dial()

    def dial(self) -> None:
        self.socket = self.factory.buildProtocol(None)
        if self.socket is None:
            return
        self.transport = Transport(peerAddress=IPv4Address("TCP", "127.0.0.1", 5000))
        self.socket.makeConnection(self.transport)
        self.wire = WSConnection(ConnectionType.CLIENT)

    def send(self, *events) -> list:
        return self.raw(b"".join(self.wire.send(event) for event in events))

    def raw(self, data: bytes) -> list:
        self.socket.dataReceived(data)
        while self.turns:
            turns, self.turns[:] = list(self.turns), []
            for end in turns:
                end()
            for posted in list(self.core._pending):
                self.core._pending.remove(posted)
                posted()
        said = self.transport.value()
        self.transport.clear()
        if said:
            self.wire.receive_data(said)
        return list(self.wire.events())

    def open(self, **request) -> AcceptConnection:
        made = {"host": "h", "target": "/ws", "subprotocols": ["v10.stomp", "v12.stomp"]} | request
        (answer,) = self.send(Request(**made))
        return answer

    def login(self) -> None:
        self.open()
        (connected,) = self.send(TextMessage(data=CONNECT))
        assert connected.data.startswith("CONNECTED\nversion:1.2\n")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["v10.stomp", "v12.stomp"], "v12.stomp"),
        (["v11.stomp", "x"], "v11.stomp"),
        (["v10.stomp"], "v10.stomp"),
        ([], None),
    ],
)
def test_the_handshake_agrees_on_the_newest_subprotocol(offered, chosen):
    assert House().open(subprotocols=offered).subprotocol == chosen


def test_text_and_binary_whole_and_in_pieces():
    house = House()
    house.login()
    frame = "SEND\ndestination:/queue/a\nreceipt:1\n\nü\0"
    (receipt,) = house.send(TextMessage(data=frame))
    assert isinstance(receipt, TextMessage) and receipt.data == "RECEIPT\nreceipt-id:1\n\n\0"
    raw = frame.encode()
    pieces = [
        BytesMessage(data=raw[:5], message_finished=False),
        BytesMessage(data=raw[5:-3], message_finished=False),
        BytesMessage(data=raw[-3:]),
    ]
    (receipt,) = house.send(*pieces)
    assert receipt.data == "RECEIPT\nreceipt-id:1\n\n\0"
    whole = b"".join(house.wire.send(one) for one in pieces)
    answers = [answer for byte in whole for answer in house.raw(bytes([byte]))]
    assert [one.data for one in answers] == ["RECEIPT\nreceipt-id:1\n\n\0"]


def test_a_message_may_end_inside_a_frame():
    house = House()
    house.login()
    assert house.send(TextMessage(data="SEND\ndestination:/queue/a\nrec")) == []
    (receipt,) = house.send(TextMessage(data="eipt:1\n\nx\0\n"))
    assert receipt.data == "RECEIPT\nreceipt-id:1\n\n\0"


def test_what_is_not_text_goes_out_as_binary():
    house = House()
    house.login()
    house.send(TextMessage(data="SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0"))
    (message,) = house.send(BytesMessage(data=b"SEND\ndestination:/queue/a\n\n\xff\0"))
    assert isinstance(message, BytesMessage) and bytes(message.data).endswith(b"\n\n\xff\0")


def test_much_output_is_several_messages_of_whole_frames():
    house = House()
    house.login()
    house.send(TextMessage(data="SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0"))
    frame = "SEND\ndestination:/queue/a\n\n" + "x" * 30_000 + "\0"
    messages = house.send(*[BytesMessage(data=frame.encode())] * 5)
    assert len(messages) == 2
    assert all(one.data.startswith("MESSAGE\n") and one.data.endswith("x\0") for one in messages)


def test_ping_is_answered():
    house = House()
    house.login()
    (pong,) = house.send(Ping(payload=b"here"))
    assert isinstance(pong, Pong) and bytes(pong.payload) == b"here"


def test_pings_of_a_peer_that_does_not_read_are_not_kept():
    house = House()
    house.login()
    house.transport.producer.pauseProducing()
    assert house.send(Ping(payload=b"here")) == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [("DISCONNECT\nreceipt:1\n\n\0", 1000), ("NONSENSE\n\n\0", 1002)],
)
def test_the_close_code_says_why(frame, code):
    house = House()
    house.login()
    message, close = house.send(TextMessage(data=frame))
    assert isinstance(message, TextMessage) and close.code == code
    assert not house.transport.disconnecting
    house.send(close.response())
    assert house.transport.disconnecting


def test_stopping_is_going_away():
    house = House()
    house.login()
    (connection,) = house.listing
    connection.shutdown("broker forced connection closure")
    _, close = house.raw(b"")
    assert close.code == 1001


def test_the_peer_closes():
    house = House()
    house.login()
    (close,) = house.send(CloseConnection(code=1000))
    assert close.code == 1000 and house.transport.disconnecting
    house.socket.connectionLost()
    assert not house.listing and not house.factory._open


def test_a_lost_connection_gives_back_what_it_held():
    house = House()
    house.login()
    subscribe = "SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client\n\n\0"
    (_,) = house.send(TextMessage(data=subscribe + "SEND\ndestination:/queue/a\n\nx\0"))
    house.socket.connectionLost()
    assert house.core.vhost.queues["a"].depth == 1


def test_a_message_beyond_the_bound():
    house = House(message_bytes_max=100)
    house.login()
    (close,) = house.send(
        BytesMessage(data=b"\n" * 60, message_finished=False), BytesMessage(data=b"\n" * 41)
    )
    assert close.code == 1009 and house.transport.disconnecting


def test_broken_frames():
    house = House()
    house.login()
    (close,) = house.raw(b"\xff\xff\xff\xff")
    assert close.code == 1002 and house.transport.disconnecting


def test_text_that_is_not_utf_8():
    house = House()
    house.login()
    (close,) = house.raw(b"\x81\x81\0\0\0\0\xff")
    assert close.code == 1007 and house.transport.disconnecting


@pytest.mark.parametrize(("target", "status"), [("/", 404), ("/other", 404)])
def test_other_paths(target, status):
    answer, *_ = House().send(Request(host="h", target=target))
    assert isinstance(answer, RejectConnection) and answer.status_code == status


def test_pages_of_other_origins():
    house = House(origins=("https://good",))
    answer, *_ = house.send(
        Request(host="h", target="/ws", extra_headers=[(b"Origin", b"https://bad")])
    )
    assert answer.status_code == 403 and house.transport.disconnecting
    house.dial()
    assert isinstance(house.open(extra_headers=[(b"Origin", b"https://good")]), AcceptConnection)
    house.dial()
    assert isinstance(house.open(), AcceptConnection), "no browser"


@pytest.mark.parametrize(
    ("headers", "is_guest"),
    [
        ([], True),
        ([(b"Origin", b"http://localhost:3000")], True),
        ([(b"Origin", b"https://evil.example")], False),
        ([(b"Origin", b"null")], False),
        ([(b"X-Forwarded-For", b"192.0.2.7")], False),
    ],
    ids=["no browser", "our own page", "a page of elsewhere", "a file", "a proxy"],
)
def test_guest_is_no_page_of_elsewhere_and_comes_through_no_proxy(headers, is_guest):
    """A page of anywhere may connect to a WebSocket of the machine that its browser runs on."""
    house = House()
    house.open(extra_headers=headers)
    said, *_ = house.send(TextMessage(data=CONNECT))
    assert said.data.startswith("CONNECTED\n" if is_guest else "ERROR\n")
    assert is_guest or "non-loopback access denied" in said.data


def test_a_page_that_is_named_in_origins_may_be_guest():
    house = House(origins=("https://good",))
    house.open(extra_headers=[(b"Origin", b"https://good")])
    (said,) = house.send(TextMessage(data=CONNECT))
    assert said.data.startswith("CONNECTED\n")


@pytest.mark.parametrize(
    "request_bytes", [b"GET /ws HTTP/1.1\r\nHost: h\r\n\r\n", b"nonsense\r\n\r\n", b"x" * 70_000]
)
def test_what_is_no_handshake_is_answered_with_http(request_bytes):
    house = House()
    house.socket.dataReceived(request_bytes)
    assert house.transport.disconnecting
    assert house.transport.value()[:10] in (b"HTTP/1.1 4", b"")
    assert not house.listing


def test_the_handshake_must_come_in_time():
    house = House()
    house.clock.advance(9.9)
    assert not house.transport.aborted
    house.clock.advance(0.2)
    assert house.transport.aborted


def test_no_more_connections_than_allowed():
    house = House(connections_max=1)
    house.dial()
    assert house.socket is None
