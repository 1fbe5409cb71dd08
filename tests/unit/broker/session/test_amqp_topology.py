"""Declarations: what reaches the core, and replies that do not wait."""

from __future__ import annotations

from decimal import Decimal

import msgpack

from broker.wire.amqp.values import Long, LongString, Timestamp
from tests.support.amqp import House, Peer


def test_arguments_of_every_type_can_be_stored() -> None:
    """A type that the store cannot write would take the broker down with it."""
    house = House()
    peer = Peer(house).login().channel()
    arguments = {
        "a": Decimal("2.5"),
        "b": [Decimal(1), {"c": Decimal("-0.1")}],
        "d": Timestamp(2**64 - 1),
        "e": Long(-(2**63)),
        "f": LongString(b"\xff"),
        "g": None,
        "h": b"x",
        "i": 1.5,
    }
    peer.declare("q", durable=True, arguments=arguments)
    peer.send(1, "exchange.declare", 0, "x", "headers", False, True, False, False, False, arguments)
    peer.send(1, "exchange.declare", 0, "y", "fanout", False, True, False, False, False, arguments)
    peer.send(1, "queue.bind", 0, "q", "x", "", False, arguments)
    peer.send(1, "exchange.bind", 0, "y", "x", "", False, arguments)
    assert [row[1] for row in peer.got()] == [
        "queue.declare-ok",
        "exchange.declare-ok",
        "exchange.declare-ok",
        "queue.bind-ok",
        "exchange.bind-ok",
    ]
    changes = [change for unit in house.store.units for change in unit.changes]
    assert len(changes) == 5
    for change in changes:
        msgpack.packb(change)
    assert house.vhost.queues["q"].arguments["b"] == [1.0, {"c": -0.1}]
    # The same again is the same.
    peer.declare("q", durable=True, arguments=arguments)
    assert peer.got() == [(1, "queue.declare-ok", "q", 0, 0)]
    peer.send(1, "queue.unbind", 0, "q", "x", "", arguments)
    assert not [
        one for one in house.vhost.exchanges["x"].bindings.values() if one.target.name == "q"
    ]


def test_nowait_is_not_answered() -> None:
    peer = Peer(House()).login().channel()
    peer.send(1, "queue.declare", 0, "q", False, True, False, False, True, {})
    peer.send(1, "queue.bind", 0, "q", "amq.direct", "k", True, {})
    peer.send(1, "queue.purge", 0, "q", True)
    peer.consume("q", "t", nowait=True)
    peer.send(1, "basic.cancel", "t", True)
    peer.send(1, "queue.delete", 0, "q", False, False, True)
    assert peer.got() == []


def test_an_empty_key_with_an_empty_name_is_the_last_queue() -> None:
    house = House()
    peer = Peer(house).login().channel()
    peer.declare("q")
    peer.send(1, "queue.bind", 0, "", "amq.direct", "", False, {})
    peer.publish("q", b"a", exchange="amq.direct")
    assert house.vhost.queues["q"].depth == 1
