"""A message of one protocol read by the other, by the table of docs/compatibility.md: both sessions on one broker."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from broker.session.stomp import StompSession
from broker.session.stomp_connect import StompLimits
from broker.wire.amqp.values import Long, Timestamp
from tests.support.amqp import House, Peer


class StompPeer:
    """A STOMP connection to the house of the AMQP tests."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.raw = b""
        self.session = StompSession(
            house.broker,
            house.accounts,
            StompLimits(),
            house.turn.wake,
            "127.0.0.1:2",
            True,
            house.clock.now(),
        )
        house.turn.add(self.session, self)
        assert self.say(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0").startswith(b"CONNECTED")

    def flush(self) -> None:
        self.raw += b"".join(self.session.output())

    def say(self, data: bytes) -> bytes:
        self.session.receive_data(data)
        self.house.turn.wake(self.session)
        self.house.run()
        said, self.raw = self.raw, b""
        return said

    def message(self, queue: str = "q") -> tuple[dict[str, str], bytes]:
        """The next message of a queue."""
        raw = self.say(b"SUBSCRIBE\nid:1\ndestination:/amq/queue/%b\n\n\0" % queue.encode())
        assert raw.startswith(b"MESSAGE\n"), raw
        head, _, rest = raw.partition(b"\n\n")
        pairs = [line.split(b":", 1) for line in head.split(b"\n")[1:]]
        headers = {key.decode(): value.decode() for key, value in reversed(pairs)}
        return headers, rest[: int(headers["content-length"])]


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def amqp(house: House) -> Peer:
    peer = Peer(house).login().channel()
    peer.declare("q")
    peer.got()
    return peer


@pytest.fixture
def stomp(house: House) -> StompPeer:
    return StompPeer(house)


PROPERTIES: list[tuple[str, Any, str, str]] = [
    ("content_type", "application/json", "content-type", "application/json"),
    ("content_encoding", "gzip", "content-encoding", "gzip"),
    ("delivery_mode", 2, "persistent", "true"),
    ("priority", 7, "priority", "7"),
    ("correlation_id", "c:1", "correlation-id", r"c\c1"),
    ("reply_to", "answers", "reply-to", "answers"),
    ("expiration", "60000", "expiration", "60000"),
    ("message_id", "m1", "amqp-message-id", "m1"),
    ("timestamp", 1_700_000_000, "timestamp", "1700000000"),
    ("type", "t", "type", "t"),
    ("user_id", "guest", "user-id", "guest"),
    ("app_id", "a", "app-id", "a"),
    ("cluster_id", "cl", "cluster-id", "cl"),
]
"""AMQP property, its value, STOMP header, its text on the wire."""


@pytest.mark.parametrize(("name", "value", "header", "text"), PROPERTIES)
def test_a_property_becomes_a_header(
    amqp: Peer, stomp: StompPeer, name: str, value: Any, header: str, text: str
) -> None:
    amqp.publish("q", b"x", **{name: value})
    headers, body = stomp.message()
    assert (headers[header], body) == (text, b"x")


@pytest.mark.parametrize(("name", "value", "header", "text"), PROPERTIES)
def test_a_header_becomes_a_property(
    amqp: Peer, stomp: StompPeer, name: str, value: Any, header: str, text: str
) -> None:
    assert stomp.say(f"SEND\ndestination:/amq/queue/q\n{header}:{text}\n\nx\0".encode()) == b""
    amqp.send(1, "basic.get", 0, "q", True)
    (row,) = amqp.got()
    assert getattr(row[-2], name) == value
    assert row[-2].headers in (None, {})


HEADERS: list[tuple[Any, str]] = [
    ("text: with\nlines", r"text\c with\nlines"),
    ("Grüße", "Grüße"),
    (True, "true"),
    (False, "false"),
    (5, "5"),
    (-(2**40), "-1099511627776"),
    (Long(3), "3"),
    (2.5, "2.5"),
    (Timestamp(1_700_000_000), "1700000000"),
    (Decimal("2.50"), "2.50"),
    (None, ""),
    ("", ""),
    (b"\x00\xff", "AP8="),
]


@pytest.mark.parametrize(("value", "text"), HEADERS)
def test_a_field_value_becomes_text(amqp: Peer, stomp: StompPeer, value: Any, text: str) -> None:
    amqp.publish("q", b"x", headers={"h": value})
    assert stomp.message()[0]["h"] == text


@pytest.mark.parametrize("value", [{"a": 1, "b": [True, None]}, ["x", 2]])
def test_tables_and_arrays_become_json(amqp: Peer, stomp: StompPeer, value: Any) -> None:
    amqp.publish("q", b"x", headers={"h": value})
    text = stomp.message()[0]["h"].replace(r"\c", ":").replace(r"\\", "\\")
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a", "a"),
        (r"a\cb\\c\nd\re", "a:b\\c\nd\re"),
        ("", ""),
        (" blanks ", " blanks "),
        ("Grüße", "Grüße"),
    ],
)
def test_a_header_becomes_a_long_string(
    amqp: Peer, stomp: StompPeer, text: str, plain: str
) -> None:
    assert stomp.say(f"SEND\ndestination:/amq/queue/q\nh:{text}\n\n\0".encode()) == b""
    amqp.send(1, "basic.get", 0, "q", True)
    assert amqp.got()[0][-2].headers == {"h": plain}


BODIES = [b"", b"\0", b"a\0b\0\0", bytes(range(256)) * 600]


@pytest.mark.parametrize("body", BODIES)
def test_bodies_are_bytes_both_ways(amqp: Peer, stomp: StompPeer, body: bytes) -> None:
    amqp.declare("r")
    head = b"SEND\ndestination:/amq/queue/r\ncontent-length:%d\n\n" % len(body)
    assert stomp.say(head + body + b"\0") == b""
    amqp.got()
    amqp.send(1, "basic.get", 0, "r", True)
    assert amqp.got()[0][-1] == body
    if body:
        amqp.publish("q", body)
        assert stomp.message()[1] == body


def test_a_message_there_and_back_is_the_same(house: House, amqp: Peer, stomp: StompPeer) -> None:
    """AMQP to STOMP to AMQP by a STOMP client that sends on what it got: text stays, types become text."""
    sent = {name: value for name, value, _, _ in PROPERTIES}
    amqp.publish("q", b"x", headers={"h": "v:1"}, **sent)
    headers, body = stomp.message()
    kept = {
        key: value
        for key, value in headers.items()
        if key not in ("message-id", "subscription", "destination", "redelivered")
    }
    amqp.declare("r")
    lines = "".join(f"{key}:{value}\n" for key, value in kept.items()).encode()
    assert stomp.say(b"SEND\ndestination:/amq/queue/r\n" + lines + b"\n" + body + b"\0") == b""
    amqp.got()
    amqp.send(1, "basic.get", 0, "r", True)
    (row,) = amqp.got()
    assert {name: getattr(row[-2], name) for name in sent} == sent
    assert row[-2].headers == {"h": "v:1"}


def test_expiry_priority_and_dead_letters_work_across(
    house: House, amqp: Peer, stomp: StompPeer
) -> None:
    amqp.declare("d")
    amqp.declare(
        "p",
        arguments={
            "x-max-priority": 5,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "d",
        },
    )
    for priority in (1, 5, 3):
        stomp.say(b"SEND\ndestination:/amq/queue/p\npriority:%d\n\n%d\0" % (priority, priority))
    stomp.say(b"SEND\ndestination:/amq/queue/p\npriority:4\nexpiration:10\n\ndead\0")
    house.clock.seconds += 1
    house.broker.tick()
    house.turn.schedule()
    house.run()
    amqp.got()
    bodies = []
    for _ in range(3):
        amqp.send(1, "basic.get", 0, "p", True)
        bodies.append(amqp.got()[0][-1])
    assert bodies == [b"5", b"3", b"1"]
    amqp.send(1, "basic.get", 0, "d", True)
    (letter,) = amqp.got()
    assert letter[-1] == b"dead"
    (row,) = letter[-2].headers["x-death"]
    assert (row["reason"], row["queue"], row["original-expiration"]) == ("expired", "p", "10")
    assert letter[-2].expiration is None
