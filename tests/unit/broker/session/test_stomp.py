import re

import pytest

from broker.session.auth import Accounts
from broker.session.stomp_connect import StompLimits
from tests.support.stomp_house import House

SEND = b"SEND\ndestination:/queue/a\n\n%b\0"
SUBSCRIBE = b"SUBSCRIBE\nid:0\ndestination:/queue/a\nack:%b\n\n\0"


def bodies(said):
    return re.findall(rb"\n\n([^\0]*)\0", said)


def test_guest_comes_from_loopback_only():
    house = House()
    session = house.peer(is_loopback=False)
    said = house.say(b"CONNECT\naccept-version:1.2\n\n\0")
    assert b"message:Bad CONNECT\n" in said and b"non-loopback access denied" in said
    assert session.is_closing


def test_rights_are_checked_where_rabbitmq_does():
    accounts = Accounts(
        {"u": "plain:p"},
        {"u": {"/": ("^mine$", "^(amq.default|amq.topic)$", "^mine$")}},
        lambda *_: False,
    )
    login = b"CONNECT\naccept-version:1.2\nlogin:u\npasscode:p\n\n\0"
    for frame, refusal in (
        (b"SEND\ndestination:/queue/other\n\nx\0", b"configure access to queue 'other'"),
        (
            b"SEND\ndestination:/exchange/amq.direct/k\n\nx\0",
            b"write access to exchange 'amq.direct'",
        ),
        (b"SUBSCRIBE\nid:0\ndestination:/amq/queue/other\n\n\0", b"read access to queue 'other'"),
        (b"SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0", b"configure access to queue 'amq.gen-'"),
    ):
        house = House(accounts=accounts)
        house.core.vhost.declare_queue("other" if b"amq/queue" in frame else "unrelated")
        assert house.say(login).startswith(b"CONNECTED")
        said = house.say(frame)
        assert b"message:access_refused\n" in said and refusal in said
    house = House(accounts=accounts)
    house.say(login)
    assert house.say(b"SEND\ndestination:/queue/mine\nreceipt:1\n\nx\0").startswith(b"RECEIPT")


def test_acks_of_one_read_are_settled_in_one_call():
    house = House()
    house.connect()
    house.say(SUBSCRIBE % b"client-individual")
    house.say(b"".join(SEND % b"x" for _ in range(5)))
    calls = []
    acknowledge = house.core.broker.acknowledge
    house.core.broker.acknowledge = lambda some: (calls.append(len(some)), acknowledge(some))
    house.say(b"".join(b"ACK\nid:n0-1-%d\n\n\0" % n for n in (1, 3, 2)))
    assert calls == [3]
    assert house.core.vhost.queue("a").unsettled_count == 2


def test_a_slow_reader_gets_nothing_until_it_reads():
    house = House()
    session = house.connect()
    house.say(SUBSCRIBE % b"auto")
    session.set_writable(False)
    assert house.say(SEND % b"x") == b""
    session.set_writable(True)
    house.turn()
    assert bodies(house.read()) == [b"x"]


def test_login_must_come_in_time():
    house = House()
    session = house.peer()
    assert session.next_deadline() == house.core.clock.now() + 10
    session.tick(house.core.clock.now() + 9.9)
    assert not session.is_closing
    session.tick(house.core.clock.now() + 10)
    assert session.is_closing and b"message:Login timeout" in b"".join(session.output())


def test_heart_beats():
    house = House()
    session = house.peer()
    house.say(b"CONNECT\naccept-version:1.2\nheart-beat:1000,400\n\n\0")
    start = house.core.clock.now()
    assert session.next_deadline() == pytest.approx(start + 0.3)
    session.tick(start + 0.2)
    assert session.output() == []
    house.core.clock.seconds = start + 0.3
    session.tick(start + 0.3)
    assert session.output() == [b"\n"]
    house.core.clock.seconds = start + 1.9
    session.receive_data(b"\n")
    session.tick(start + 3.8)
    assert not session.is_closing
    session.tick(start + 3.9)
    assert session.is_closing and b"message:Heart-beat timeout" in b"".join(session.output())


def test_a_peer_that_is_not_read_is_not_dead():
    house = House()
    session = house.peer()
    house.say(b"CONNECT\naccept-version:1.2\nheart-beat:1000,0\n\n\0")
    house.core.store.is_blocked = True
    session.tick(house.core.clock.now() + 100)
    assert not session.is_closing


def test_shutdown_tells_the_peer():
    house = House()
    session = house.connect()
    session.shutdown("the broker stops")
    assert session.is_closing
    assert b"message:Server shutdown" in b"".join(session.output())


def test_commit_is_refused_as_a_whole():
    house = House()
    house.connect()
    vhost = house.core.vhost
    vhost.declare_exchange("e", "fanout")
    house.say(
        b"BEGIN\ntransaction:t\n\n\0SEND\ndestination:/queue/a\ntransaction:t\n\n1\0"
        b"SEND\ndestination:/exchange/e/\ntransaction:t\n\n2\0"
    )
    vhost.delete_exchange("e")
    said = house.say(b"COMMIT\ntransaction:t\nreceipt:c\n\n\0")
    assert b"message:not_found\n" in said and b"receipt-id:c\n" in said
    assert vhost.queue("a").depth == 0


def test_commit_is_one_unit():
    house = House()
    house.connect()
    house.say(SUBSCRIBE % b"client" + b"SEND\ndestination:/queue/a\npersistent:true\n\n0\0")
    session = house.peer()
    session.receive_data(
        b"BEGIN\ntransaction:t\n\n\0ACK\nid:n0-1-1\ntransaction:t\n\n\0"
        b"SEND\ndestination:/queue/b\npersistent:true\ntransaction:t\n\n1\0"
        b"SEND\ndestination:/queue/c\npersistent:true\ntransaction:t\n\n2\0"
    )
    house.turn()
    assert not house.core.broker.has_changes
    session.receive_data(b"COMMIT\ntransaction:t\n\n\0")
    unit = house.core.broker.unit
    assert (len(unit.published), len(unit.acknowledged)) == (2, 1)


def test_a_queue_deleted_meanwhile_is_declared_again():
    house = House()
    house.connect()
    house.say(SEND % b"1")
    house.core.vhost.delete_queue("a")
    house.say(SEND % b"2")
    assert house.core.vhost.queue("a").depth == 1


def test_a_full_queue_refuses_with_an_error():
    house = House()
    session = house.connect()
    house.core.vhost.declare_queue(
        "a", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    frame = b"SEND\ndestination:/queue/a\nreceipt:1\n\nx\0"
    assert house.say(frame) == b"RECEIPT\nreceipt-id:1\n\n\0"
    assert b"message:Message refused\n" in house.say(frame) and session.is_closing


def test_late_acks_and_aborts_after_unsubscribe_lose_nothing():
    house = House()
    house.connect()
    house.say(SUBSCRIBE % b"client-individual")
    house.say(SEND % b"1" + SEND % b"2")
    house.say(
        b"BEGIN\ntransaction:t\n\n\0ACK\nid:n0-1-1\ntransaction:t\n\n\0ACK\nid:n0-1-2\n\n\0"
        b"UNSUBSCRIBE\nid:0\n\n\0ABORT\ntransaction:t\n\n\0"
    )
    queue = house.core.vhost.queue("a")
    assert (queue.depth, queue.unsettled_count) == (0, 1)
    house.lose()
    assert (queue.depth, queue.unsettled_count) == (1, 0)


def test_amqp_messages_are_translated():
    house = House()
    house.connect()
    house.connect("b")
    for name in ("a", "b"):
        house.say(b"SUBSCRIBE\nid:0\ndestination:/topic/k\n\n\0", name)
    house.core.publish("amq.topic", "k", b"x", content_type="text/plain", headers={"n": 7})
    house.turn()
    for name in ("a", "b"):
        said = house.read(name)
        assert b"\ncontent-type:text/plain\nn:7\ncontent-length:1\n\nx\0" in said


def test_too_many_receipts_end_the_connection():
    house = House(StompLimits(receipts_waiting_max=2))
    session = house.connect()
    frame = b"SEND\ndestination:/queue/a\npersistent:true\nreceipt:1\n\nx\0"
    house.say(frame * 3, is_durable=False)
    house.turn()
    assert session.is_closing
    assert house.read().count(b"RECEIPT") == 2
