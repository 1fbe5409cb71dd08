"""What a channel does: deliveries, settling, prefetch, confirms, transactions, rights."""

from __future__ import annotations

import pytest

from broker.session.amqp_connection import AmqpLimits
from broker.session.auth import Accounts
from tests.support.amqp import House, Peer, published


def opened(*, is_slow: bool = False, limits: AmqpLimits | None = None) -> tuple[House, Peer]:
    house = House(is_slow=is_slow)
    peer = Peer(house, limits).login().channel()
    return house, peer


def with_queue(**options: object) -> tuple[House, Peer]:
    house, peer = opened()
    peer.declare("q", **options)
    peer.got()
    return house, peer


def tags(peer: Peer) -> list[int]:
    return [got[3] for got in peer.got() if got[1] == "basic.deliver"]


# Deliveries


def test_deliveries_carry_all_that_was_published() -> None:
    """Same and differing sizes, keys, properties; none, one and several body frames."""
    house, peer = with_queue()
    peer.send(1, "queue.bind", 0, "q", "amq.topic", "#", False, {})
    peer.consume("q", no_ack=True)
    peer.got()
    sent = [
        ("q", "", b"one", {}),
        ("q", "", b"two", {}),
        ("q", "", b"three", {}),
        ("k", "amq.topic", b"four", {"message_id": "4"}),
        ("k", "amq.topic", b"", {"message_id": "4"}),
        ("k", "amq.topic", b"x" * 300_000, {"headers": {"a": [1, None]}}),
        ("q", "", b"seven", {}),
    ]
    for key, exchange, body, properties in sent:
        peer.publish(key, body, exchange=exchange, **properties)  # type: ignore[arg-type]
    got = peer.got()
    assert [(row[6], row[5], row[8]) for row in got] == [(k, e, b) for k, e, b, _ in sent]
    assert [row[3] for row in got] == list(range(1, 8))
    assert [row[7].message_id for row in got] == [None, None, None, "4", "4", None, None]
    assert got[5][7].headers == {"a": [1, None]}


def test_redelivered_is_said_once_per_redelivery_only() -> None:
    house, peer = with_queue()
    peer.consume("q")
    peer.feed(b"".join(published("q", b"%d" % n) for n in range(3)))
    peer.got()
    peer.send(1, "basic.nack", 2, True, True)
    peer.publish("q", b"3")
    again = [(row[8], row[4]) for row in peer.got()]
    assert again == [(b"0", True), (b"1", True), (b"3", False)]


def test_frames_stay_within_the_negotiated_size() -> None:
    house, _ = with_queue()
    small = Peer(house)
    small.feed(b"AMQP\x00\x00\x09\x01")
    small.send(0, "connection.start-ok", {}, "PLAIN", b"\0guest\0guest", "en_US")
    small.send(0, "connection.tune-ok", 10, 4096, 0)
    small.send(0, "connection.open", "/", "", False)
    small.send(1, "channel.open", "")
    small.consume("q", no_ack=True)
    small.got()
    start = len(small.raw)
    for size in (4088, 4089, 10_000):
        small.feed(published("q", b"x" * size, frame_bytes_max=4096))
    assert [len(body) for body in small.bodies()] == [4088, 4089, 10_000]
    at = start
    while at < len(small.raw):
        size = int.from_bytes(small.raw[at + 3 : at + 7], "big") + 8
        assert size <= 4096
        at += size


def test_a_slow_reader_gets_nothing_until_it_reads() -> None:
    house, peer = with_queue()
    peer.consume("q", no_ack=True)
    peer.session.set_writable(False)
    peer.publish("q", b"a")
    assert peer.bodies() == []
    peer.session.set_writable(True)
    house.turn.schedule()
    house.run()
    assert peer.bodies() == [b"a"]


def test_a_cancelled_consumer_keeps_what_it_holds() -> None:
    house, peer = with_queue()
    peer.consume("q")
    peer.publish("q", b"a")
    peer.send(1, "basic.cancel", "c", False)
    peer.publish("q", b"b")
    assert tags(peer) == [1]
    peer.send(1, "basic.ack", 1, False)
    assert house.vhost.queues["q"].unsettled_count == 0
    assert house.vhost.queues["q"].depth == 1


def test_deleting_a_queue_is_told_only_to_those_who_asked() -> None:
    house, deleter = with_queue()
    told, plain = Peer(house).login().channel(), Peer(house).login({}).channel()
    told.consume("q", "t")
    plain.consume("q", "p")
    told.got(), plain.got()
    deleter.send(1, "queue.delete", 0, "q", False, False, False)
    assert told.got() == [(1, "basic.cancel", "t", True)]
    assert plain.got() == []


# Settling and prefetch


def test_prefetch_of_a_consumer() -> None:
    house, peer = with_queue()
    peer.send(1, "basic.qos", 0, 2, False)
    peer.consume("q")
    for n in range(5):
        peer.publish("q", b"%d" % n)
    assert tags(peer) == [1, 2]
    peer.send(1, "basic.ack", 2, True)
    assert tags(peer) == [3, 4]
    peer.send(1, "basic.ack", 4, False)
    assert tags(peer) == [5]


def test_prefetch_of_a_channel_counts_what_is_held_already() -> None:
    house, peer = with_queue()
    peer.consume("q", "one")
    peer.consume("q", "two")
    for n in range(3):
        peer.publish("q", b"%d" % n)
    assert len(tags(peer)) == 3
    peer.send(1, "basic.qos", 0, 4, True)
    for n in range(3):
        peer.publish("q", b"%d" % n)
    assert tags(peer) == [4]
    peer.send(1, "basic.ack", 2, True)
    assert tags(peer) == [5, 6]
    peer.send(1, "basic.qos", 0, 0, True)
    for n in range(9):
        peer.publish("q", b"%d" % n)
    assert len(tags(peer)) == 9


def test_acknowledgements_of_one_read_are_settled_together() -> None:
    house, peer = with_queue(durable=True)
    peer.consume("q")
    for n in range(4):
        peer.publish("q", b"%d" % n, delivery_mode=2)
    house.store.units.clear()
    from broker.wire.amqp.frames import method_frame
    from broker.wire.amqp.methods import encode

    acks = [method_frame(1, encode("basic.ack", tag, False)) for tag in (3, 1)]
    peer.feed(b"".join([*acks, method_frame(1, encode("basic.ack", 4, True))]))
    [unit] = house.store.units
    assert [position for _, position, _ in unit.acknowledged] == [2, 0, 1, 3]


def test_multiple_after_many_single_acknowledgements() -> None:
    """Both ways to find what a tag covers: tags in a row, and the few left of many."""
    house, peer = with_queue()
    peer.consume("q")
    peer.feed(b"".join(published("q", b"%d" % n) for n in range(60)))
    for tag in [*range(2, 40, 2), *range(41, 59)]:
        peer.send(1, "basic.ack", tag, False)
    peer.send(1, "basic.ack", 5, True)
    assert sorted(peer.session.channels[1].unsettled.deliveries) == [*range(7, 40, 2), 40, 59, 60]
    peer.send(1, "basic.ack", 59, True)
    assert sorted(peer.session.channels[1].unsettled.deliveries) == [60]
    peer.publish("q", b"next")
    peer.send(1, "basic.ack", 0, True)
    assert house.vhost.queues["q"].unsettled_count == 0
    assert [row for row in peer.got() if row[1] == "channel.close"] == []


def test_rejected_messages_go_to_the_dead_letter_exchange() -> None:
    house, peer = with_queue(arguments={"x-dead-letter-exchange": "amq.fanout"})
    peer.declare("dead")
    peer.send(1, "queue.bind", 0, "dead", "amq.fanout", "", False, {})
    peer.publish("q", b"a")
    peer.send(1, "basic.get", 0, "q", False)
    peer.send(1, "basic.reject", 1, False)
    peer.got()
    peer.send(1, "basic.get", 0, "dead", True)
    [row] = peer.got()
    assert row[-1] == b"a"
    assert row[-2].headers["x-death"][0]["reason"] == "rejected"


def test_closing_a_channel_returns_what_it_holds() -> None:
    house, peer = with_queue()
    peer.consume("q")
    peer.publish("q", b"a")
    peer.got()
    peer.send(1, "channel.close", 200, "", 0, 0)
    assert peer.got() == [(1, "channel.close-ok")]
    peer.channel().send(1, "basic.get", 0, "q", True)
    assert peer.got()[0][:4] == (1, "basic.get-ok", 1, True)


def test_losing_the_connection_returns_messages_and_drops_exclusive_queues() -> None:
    house, peer = with_queue()
    peer.declare("mine", exclusive=True)
    peer.consume("q")
    peer.publish("q", b"a")
    other = Peer(house).login().channel()
    other.send(1, "queue.declare", 0, "mine", True, False, False, False, False, {})
    assert other.got()[0][2] == 405
    peer.session.connection_lost("gone")
    house.run()
    assert set(house.vhost.queues) == {"q"}
    assert house.vhost.queues["q"].depth == 1


# Confirms


def test_confirms_wait_for_the_disk_and_come_as_one() -> None:
    house, peer = opened(is_slow=True)
    house.vhost.declare_queue("q", durable=True)
    house.turn.schedule()
    house.run()
    house.store.sync()
    peer.send(1, "confirm.select", False)
    peer.got()
    peer.feed(b"".join(published("q", b"x", delivery_mode=2) for _ in range(3)))
    peer.publish("q", b"y", delivery_mode=2)
    assert peer.got() == []
    house.store.sync()
    house.run()
    assert peer.got() == [(1, "basic.ack", 4, True)]


def test_a_commit_confirms_only_what_it_holds() -> None:
    house, peer = opened(is_slow=True)
    house.vhost.declare_queue("q", durable=True)
    house.turn.schedule()
    house.run()
    house.store.sync()
    peer.send(1, "confirm.select", True)
    peer.publish("q", b"x", delivery_mode=2)
    first = house.store.committed
    peer.publish("q", b"y", delivery_mode=2)
    house.store.durable = first
    house.store.on_durable(first)
    assert peer.got() == [(1, "basic.ack", 1, False)]
    house.store.sync()
    assert peer.got() == [(1, "basic.ack", 2, False)]


def test_a_full_queue_refuses_with_a_nack() -> None:
    house, peer = with_queue(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    peer.send(1, "confirm.select", True)
    peer.feed(b"".join(published("q", b"%d" % n) for n in range(3)))
    rows = peer.got()
    assert (1, "basic.ack", 1, False) in rows
    nacks = [row for row in rows if row[1] == "basic.nack"]
    assert nacks == [(1, "basic.nack", 2, False, False), (1, "basic.nack", 3, False, False)]


def test_returns_come_before_their_confirm() -> None:
    house, peer = with_queue()
    peer.send(1, "confirm.select", True)
    peer.feed(published("q", b"a") + published("none", b"b", mandatory=True) + published("q", b"c"))
    assert [row[1] for row in peer.got()] == ["basic.return", "basic.ack"]


# Durable replies


def test_a_durable_declaration_holds_what_comes_after_it() -> None:
    house, peer = opened(is_slow=True)
    peer.declare("q", durable=True)
    peer.send(1, "queue.declare", 0, "q", True, False, False, False, False, {})
    peer.publish("q", b"a")
    assert peer.got() == []
    assert house.vhost.queues["q"].depth == 0
    house.store.sync()
    house.run()
    assert [row[1] for row in peer.got()] == ["queue.declare-ok", "queue.declare-ok"]
    assert house.vhost.queues["q"].depth == 1


def test_what_is_held_is_bounded() -> None:
    house, peer = opened(is_slow=True, limits=AmqpLimits(held_bytes_max=1000))
    peer.declare("q", durable=True)
    peer.feed(b"\x01" * 1000)
    assert not peer.is_closing
    peer.feed(b"\x01")
    assert peer.got()[-1][2:4] == (
        506,
        "RESOURCE_ERROR - more than 1000 bytes sent while a reply is due",
    )
    peer.send(0, "connection.close-ok")
    assert peer.is_closing


# Transactions


def test_a_commit_is_one_unit_and_waits_for_the_disk() -> None:
    house, peer = opened(is_slow=True)
    house.vhost.declare_queue("q", durable=True)
    house.turn.schedule()
    house.run()
    house.store.sync()
    peer.send(1, "tx.select")
    for n in range(3):
        peer.publish("q", b"%d" % n, delivery_mode=2)
    peer.got()
    house.store.units.clear()
    peer.send(1, "tx.commit")
    assert peer.got() == []
    [unit] = house.store.units
    assert len(unit.published) == 3
    house.store.sync()
    house.run()
    assert peer.got() == [(1, "tx.commit-ok")]


def test_a_commit_that_cannot_be_whole_does_nothing() -> None:
    house, peer = with_queue()
    peer.send(1, "exchange.declare", 0, "x", "fanout", False, False, False, False, False, {})
    peer.send(1, "tx.select")
    peer.publish("q", b"a")
    peer.publish("k", b"b", exchange="x")
    house.vhost.delete_exchange("x")
    peer.got()
    peer.send(1, "tx.commit")
    assert peer.got()[0][2] == 404
    assert house.vhost.queues["q"].depth == 0


def test_a_lost_transaction_returns_what_it_would_have_acknowledged() -> None:
    house, peer = with_queue()
    peer.publish("q", b"a")
    peer.send(1, "tx.select")
    peer.send(1, "basic.get", 0, "q", False)
    peer.send(1, "basic.ack", 1, False)
    peer.session.connection_lost("gone")
    house.run()
    assert house.vhost.queues["q"].depth == 1


def test_a_transaction_is_bounded() -> None:
    house, peer = opened(limits=AmqpLimits(transaction_count_max=2))
    peer.send(1, "tx.select")
    for _ in range(3):
        peer.publish("q", b"a")
    assert peer.got()[-1][2] == 506


# Routes and rights


def test_a_deleted_exchange_is_missed_by_the_next_publish() -> None:
    house, peer = opened()
    peer.send(1, "exchange.declare", 0, "x", "fanout", False, False, False, False, False, {})
    peer.publish("k", b"a", exchange="x")
    peer.send(1, "exchange.delete", 0, "x", False, False)
    peer.got()
    peer.publish("k", b"a", exchange="x")
    assert peer.got()[0][2:4] == (404, "NOT_FOUND - no exchange 'x' in vhost '/'")


RIGHTS = [
    (("queue.declare", 0, "q", False, False, False, False, False, {}), "configure", "queue", "q"),
    (("queue.delete", 0, "q", False, False, False), "configure", "queue", "q"),
    (("queue.purge", 0, "q", False), "read", "queue", "q"),
    (("queue.bind", 0, "q", "x", "", False, {}), "write", "queue", "q"),
    (("queue.bind", 0, "w", "x", "", False, {}), "read", "exchange", "x"),
    (("queue.unbind", 0, "q", "x", "", {}), "write", "queue", "q"),
    (
        ("exchange.declare", 0, "x", "fanout", False, False, False, False, False, {}),
        "configure",
        "exchange",
        "x",
    ),
    (("exchange.delete", 0, "x", False, False), "configure", "exchange", "x"),
    (("exchange.bind", 0, "x", "y", "", False, {}), "write", "exchange", "x"),
    (("exchange.unbind", 0, "w", "y", "", False, {}), "read", "exchange", "y"),
    (("basic.consume", 0, "q", "", False, False, False, False, {}), "read", "queue", "q"),
    (("basic.get", 0, "q", False), "read", "queue", "q"),
]


@pytest.mark.parametrize(("method", "right", "kind", "name"), RIGHTS)
def test_each_method_asks_for_its_right(
    method: tuple[object, ...], right: str, kind: str, name: str
) -> None:
    accounts = Accounts(
        {"guest": "plain:guest"}, {"guest": {"/": ("^$", "^w$", "^$")}}, lambda *_: False
    )
    peer = Peer(House(accounts=accounts)).login().channel()
    peer.send(1, *method)  # type: ignore[arg-type]
    assert peer.got()[0][2:4] == (
        403,
        f"ACCESS_REFUSED - {right} access to {kind} '{name}' in vhost '/' refused for user 'guest'",
    )


def test_publishing_asks_for_the_right_to_write() -> None:
    accounts = Accounts(
        {"guest": "plain:guest"}, {"guest": {"/": ("", "^x$", "")}}, lambda *_: False
    )
    peer = Peer(House(accounts=accounts)).login().channel()
    peer.publish("q", b"a")
    assert peer.got()[0][3] == (
        "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user "
        "'guest'"
    )


# Message groups


@pytest.mark.parametrize("exchange", ["", "amq.fanout", "amq.headers"])
@pytest.mark.parametrize("is_transacted", [False, True])
def test_messages_of_a_group_go_to_one_consumer(exchange: str, is_transacted: bool) -> None:
    house, peer = with_queue(durable=True)
    if exchange:
        peer.send(1, "queue.bind", 0, "q", exchange, "q", False, {"of": "a"})
        peer.got()
    peer.channel(2).channel(3)
    peer.consume("q", "one")
    peer.consume("q", "two", channel=2)
    if is_transacted:
        peer.send(3, "tx.select")
    for number in range(12):
        headers = {"JMSXGroupID": "ab"[number % 2], "of": "a"}
        peer.publish("q", b"%d" % number, exchange=exchange, channel=3, headers=headers)
    if is_transacted:
        peer.send(3, "tx.commit")
    owners: dict[str, set[str]] = {"a": set(), "b": set()}
    rows = [row for row in peer.got() if row[1] == "basic.deliver"]
    for row in rows:
        owners[row[7].headers["JMSXGroupID"]].add(row[2])
    assert len(rows) == 12
    assert sorted(map(tuple, owners.values())) == [("one",), ("two",)]
    assert house.vhost.queues["q"].definition()["grouped"]


def test_a_cancel_follows_the_answer_that_waits_for_the_disk() -> None:
    """RabbitMQ's order; kombu takes a cancel that comes before delete-ok for a failure."""
    house, peer = opened(is_slow=True)
    house.vhost.declare_queue("q", durable=True)
    house.turn.schedule()
    house.run()
    house.store.sync()
    peer.send(1, "basic.consume", 0, "q", "t", False, True, False, False, {})
    assert [one[1] for one in peer.got()] == ["basic.consume-ok"]
    peer.send(1, "queue.delete", 0, "q", False, False, False)
    assert peer.got() == []
    house.store.sync()
    house.run()
    assert [one[1] for one in peer.got()] == ["queue.delete-ok", "basic.cancel"]
