"""Every operation × every right it needs × both protocols: allowed with exactly its rights, refused without any one of them."""

from __future__ import annotations

import re

import pytest

from broker.session.auth import Accounts
from tests.support import amqp, stomp_house

GEN = "amq.gen-n0"
"""What the next server-named queue is called."""

# Operation, what is sent, and what it needs: (right, kind, name), in the order in which it is asked for.
AMQP = {
    "queue.declare": (
        ("queue.declare", 0, "new", False, False, False, False, False, {}),
        [("configure", "queue", "new")],
    ),
    "queue.declare, there": (
        ("queue.declare", 0, "q", False, False, False, False, False, {}),
        [("configure", "queue", "q")],
    ),
    "queue.declare, server-named": (
        ("queue.declare", 0, "", False, False, True, False, False, {}),
        [("configure", "queue", GEN)],
    ),
    "queue.declare, passive": (
        ("queue.declare", 0, "q", True, False, False, False, False, {}),
        [],
    ),
    "queue.declare, dead letters": (
        (
            "queue.declare",
            0,
            "new",
            False,
            False,
            False,
            False,
            False,
            {"x-dead-letter-exchange": "x"},
        ),
        [("configure", "queue", "new"), ("read", "queue", "new"), ("write", "exchange", "x")],
    ),
    "queue.bind": (
        ("queue.bind", 0, "q", "x", "k", False, {}),
        [("write", "queue", "q"), ("read", "exchange", "x")],
    ),
    "queue.unbind": (
        ("queue.unbind", 0, "q", "x", "k", {}),
        [("write", "queue", "q"), ("read", "exchange", "x")],
    ),
    "queue.purge": (("queue.purge", 0, "q", False), [("read", "queue", "q")]),
    "queue.delete": (("queue.delete", 0, "q", False, False, False), [("configure", "queue", "q")]),
    "exchange.declare": (
        ("exchange.declare", 0, "new", "fanout", False, False, False, False, False, {}),
        [("configure", "exchange", "new")],
    ),
    "exchange.declare, passive": (
        ("exchange.declare", 0, "x", "direct", True, False, False, False, False, {}),
        [],
    ),
    "exchange.declare, alternate": (
        (
            "exchange.declare",
            0,
            "new",
            "fanout",
            False,
            False,
            False,
            False,
            False,
            {"alternate-exchange": "x"},
        ),
        [("configure", "exchange", "new"), ("read", "exchange", "new"), ("write", "exchange", "x")],
    ),
    "exchange.delete": (
        ("exchange.delete", 0, "x", False, False),
        [("configure", "exchange", "x")],
    ),
    "exchange.bind": (
        ("exchange.bind", 0, "y", "x", "k", False, {}),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    "exchange.unbind": (
        ("exchange.unbind", 0, "y", "x", "k", False, {}),
        [("write", "exchange", "y"), ("read", "exchange", "x")],
    ),
    "basic.consume": (
        ("basic.consume", 0, "q", "c", False, False, False, False, {}),
        [("read", "queue", "q")],
    ),
    "basic.get": (("basic.get", 0, "q", False), [("read", "queue", "q")]),
    "basic.publish": (("x", "k"), [("write", "exchange", "x")]),
    "basic.publish, default exchange": (("", "q"), [("write", "exchange", "amq.default")]),
    "basic.qos": (("basic.qos", 0, 5, False), []),
    "confirm.select": (("confirm.select", False), []),
    "tx.select": (("tx.select",), []),
    "channel.flow": (("channel.flow", True), []),
}
STOMP = {
    "SEND to a new queue": (
        b"SEND\ndestination:/queue/new\nreceipt:r\n\nx\0",
        [("write", "exchange", "amq.default"), ("configure", "queue", "new")],
    ),
    "SEND to a queue": (
        b"SEND\ndestination:/queue/q\nreceipt:r\n\nx\0",
        [("write", "exchange", "amq.default")],
    ),
    "SEND to /amq/queue": (
        b"SEND\ndestination:/amq/queue/q\nreceipt:r\n\nx\0",
        [("write", "exchange", "amq.default")],
    ),
    "SEND to an exchange": (
        b"SEND\ndestination:/exchange/x/k\nreceipt:r\n\nx\0",
        [("write", "exchange", "x")],
    ),
    "SEND to a topic": (
        b"SEND\ndestination:/topic/a.b\nreceipt:r\n\nx\0",
        [("write", "exchange", "amq.topic")],
    ),
    "SEND to a bare exchange name": (
        b"SEND\ndestination:/gracc.site.raw\nreceipt:r\n\nx\0",
        [("configure", "exchange", "gracc.site.raw"), ("write", "exchange", "gracc.site.raw")],
    ),
    "SEND in a transaction": (
        b"BEGIN\ntransaction:t\n\n\0SEND\ndestination:/exchange/x/k\ntransaction:t\nreceipt:r\n\nx\0",
        [("write", "exchange", "x")],
    ),
    "SUBSCRIBE to a new queue": (
        b"SUBSCRIBE\nid:1\ndestination:/queue/new\nreceipt:r\n\n\0",
        [("configure", "queue", "new"), ("read", "queue", "new")],
    ),
    "SUBSCRIBE to a queue": (
        b"SUBSCRIBE\nid:1\ndestination:/queue/q\nreceipt:r\n\n\0",
        [("read", "queue", "q")],
    ),
    "SUBSCRIBE to /amq/queue": (
        b"SUBSCRIBE\nid:1\ndestination:/amq/queue/q\nreceipt:r\n\n\0",
        [("read", "queue", "q")],
    ),
    "SUBSCRIBE to an exchange": (
        b"SUBSCRIBE\nid:1\ndestination:/exchange/x/k\nx-queue-name:mine\nreceipt:r\n\n\0",
        [
            ("configure", "queue", "mine"),
            ("write", "queue", "mine"),
            ("read", "exchange", "x"),
            ("read", "queue", "mine"),
        ],
    ),
    "SUBSCRIBE to a topic": (
        b"SUBSCRIBE\nid:1\ndestination:/topic/a.*\nx-queue-name:mine\nreceipt:r\n\n\0",
        [
            ("configure", "queue", "mine"),
            ("write", "queue", "mine"),
            ("read", "exchange", "amq.topic"),
            ("read", "queue", "mine"),
        ],
    ),
    "BEGIN and ABORT": (b"BEGIN\ntransaction:t\n\n\0ABORT\ntransaction:t\nreceipt:r\n\n\0", []),
    "DISCONNECT": (b"DISCONNECT\nreceipt:r\n\n\0", []),
}
RIGHTS = ("configure", "write", "read")


def exactly(needs):
    """Patterns that allow what is needed and nothing else."""
    return tuple(
        "^(" + "|".join(re.escape(name) for right, _, name in needs if right == one) + ")$"
        if any(right == one for right, _, _ in needs)
        else ""
        for one in RIGHTS
    )


def all_but(refused):
    """Patterns that allow everything but one right on one name."""
    right, _, name = refused
    return tuple(f"^(?!{re.escape(name)}$)" if one == right else ".*" for one in RIGHTS)


def text(need, name=None):
    right, kind, _ = need
    return f"ACCESS_REFUSED - {right} access to {kind} '{name or need[2]}' in vhost '/' refused for user 'guest'"


def accounts(patterns):
    return Accounts({"guest": "plain:guest"}, {"guest": {"/": patterns}}, lambda *_: False)


def furnish(vhost):
    vhost.declare_queue("q")
    vhost.declare_exchange("x", "direct")
    vhost.declare_exchange("y", "fanout")


def amqp_answer(sent, patterns):
    house = amqp.House(accounts=accounts(patterns))
    furnish(house.vhost)
    house.broker.random_name = lambda: "n0"
    peer = amqp.Peer(house).login().channel()
    if sent[0] in ("x", ""):
        peer.publish(sent[1], b"m", exchange=sent[0], mandatory=True)
        # Whatever went wrong has closed the channel by now.
        peer.send(1, "basic.qos", 0, 1, False)
        return [got for got in peer.got() if got[1] != "basic.return"][0]
    peer.send(1, *sent)
    return peer.got()[0]


def stomp_answer(frames, patterns):
    house = stomp_house.House(accounts=accounts(patterns))
    furnish(house.core.vhost)
    house.connect()
    return house.say(frames)


def cases(table):
    return [
        pytest.param(sent, needs, need, id=f"{name}: without {need[0]} on {need[2]}")
        for name, (sent, needs) in table.items()
        for need in needs
    ]


@pytest.mark.parametrize(("sent", "needs"), AMQP.values(), ids=AMQP)
def test_amqp_is_allowed_with_exactly_its_rights(sent, needs):
    assert amqp_answer(sent, exactly(needs))[1] != "channel.close"


@pytest.mark.parametrize(("sent", "needs", "refused"), cases(AMQP))
def test_amqp_is_refused_without_one_of_them(sent, needs, refused):
    answer = amqp_answer(sent, all_but(refused))
    assert answer[1:4] == ("channel.close", 403, text(refused))


@pytest.mark.parametrize(("sent", "needs"), STOMP.values(), ids=STOMP)
def test_stomp_is_allowed_with_exactly_its_rights(sent, needs):
    said = stomp_answer(sent, exactly(needs))
    assert b"RECEIPT\nreceipt-id:r\n" in said and b"ERROR" not in said


@pytest.mark.parametrize(("sent", "needs", "refused"), cases(STOMP))
def test_stomp_is_refused_without_one_of_them(sent, needs, refused):
    said = stomp_answer(sent, all_but(refused))
    assert said.startswith(b"ERROR\nmessage:access_refused\n")
    assert text(refused).encode() + b"\0" in said
    assert b"receipt-id:r\n" in said and b"RECEIPT\n" not in said


@pytest.mark.parametrize("right", RIGHTS)
def test_a_generated_queue_of_a_topic_needs_its_rights(right):
    """Its name is not known before, so the beginning is asked for."""
    sent = b"SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:r\n\n\0"
    patterns = tuple("^(?!amq.gen-)" if one == right else ".*" for one in RIGHTS)
    said = stomp_answer(sent, patterns)
    assert said.startswith(b"ERROR\nmessage:access_refused\n")
    assert f"{right} access to queue 'amq.gen-".encode() in said


def test_every_operation_of_amqp_is_in_the_table():
    from broker.session.amqp_operations import OPERATIONS

    needless = {  # work on what a channel already has, or were there before any right
        "channel.open", "channel.close", "basic.ack", "basic.nack", "basic.reject", "basic.recover",
        "basic.recover-async", "basic.cancel", "tx.commit", "tx.rollback", "access.request",
        "channel.flow-ok", "channel.close-ok", "basic.cancel-ok",
    }  # fmt: skip
    assert set(OPERATIONS) - needless <= {name.partition(",")[0] for name in AMQP}


# Routing keys of topic exchanges

TOPIC = ("^allowed$", "^allowed$")
TOPIC_AMQP = {
    "basic.publish": ("write", lambda peer, key: peer.publish(key, b"m", exchange="amq.topic")),
    "queue.bind": (
        "read",
        lambda peer, key: peer.send(1, "queue.bind", 0, "q", "amq.topic", key, False, {}),
    ),
    "queue.unbind": (
        "read",
        lambda peer, key: peer.send(1, "queue.unbind", 0, "q", "amq.topic", key, {}),
    ),
    "exchange.bind": (
        "read",
        lambda peer, key: peer.send(1, "exchange.bind", 0, "y", "amq.topic", key, False, {}),
    ),
    "exchange.unbind": (
        "read",
        lambda peer, key: peer.send(1, "exchange.unbind", 0, "y", "amq.topic", key, False, {}),
    ),
}
TOPIC_STOMP = {
    "SEND": ("write", b"SEND\ndestination:/topic/%b\nreceipt:r\n\nx\0"),
    "SUBSCRIBE": ("read", b"SUBSCRIBE\nid:1\ndestination:/topic/%b\nreceipt:r\n\n\0"),
    "SUBSCRIBE to the exchange": (
        "read",
        b"SUBSCRIBE\nid:1\ndestination:/exchange/amq.topic/%b\nreceipt:r\n\n\0",
    ),
}


def topic_text(right, key):
    return f"ACCESS_REFUSED - {right} access to topic '{key}' in exchange 'amq.topic' in vhost '/' refused for user 'guest'"


def restricted():
    made = accounts((".*", ".*", ".*"))
    made.users["guest"].rights["/"].topics["amq.topic"] = TOPIC
    return made


@pytest.mark.parametrize("key", ["allowed", "other"])
@pytest.mark.parametrize(("right", "do"), TOPIC_AMQP.values(), ids=TOPIC_AMQP)
def test_amqp_topic_rights(right, do, key):
    house = amqp.House(accounts=restricted())
    furnish(house.vhost)
    peer = amqp.Peer(house).login().channel()
    do(peer, key)
    do(peer, key)
    closed = [got[2:4] for got in peer.got() if got[1] == "channel.close"]
    assert closed == ([] if key == "allowed" else [(403, topic_text(right, key))])


@pytest.mark.parametrize("key", ["allowed", "other"])
@pytest.mark.parametrize(("right", "frame"), TOPIC_STOMP.values(), ids=TOPIC_STOMP)
def test_stomp_topic_rights(right, frame, key):
    house = stomp_house.House(accounts=restricted())
    house.connect()
    said = house.say(frame % key.encode())
    if key == "allowed":
        assert b"RECEIPT\n" in said and b"ERROR" not in said
    else:
        assert said.startswith(b"ERROR\nmessage:access_refused\n")
        assert topic_text(right, key).encode() in said


def test_an_exchange_made_anew_as_a_topic_exchange_has_topic_rights():
    """A cached route must not lead past them."""
    made = accounts((".*", ".*", ".*"))
    made.users["guest"].rights["/"].topics["t"] = ("^allowed$", "")
    house = amqp.House(accounts=made)
    house.vhost.declare_exchange("t", "direct")
    peer = amqp.Peer(house).login().channel()
    peer.publish("other", b"m", exchange="t")
    house.vhost.delete_exchange("t")
    house.vhost.declare_exchange("t", "topic")
    assert peer.got() == []
    peer.publish("other", b"m", exchange="t")
    assert peer.got()[0][1:3] == ("channel.close", 403)


# Logging in, vhosts, and what a message says of its sender


def test_amqp_vhosts():
    for vhost, wanted in (
        ("none", "NOT_ALLOWED - vhost none not found"),
        ("closed", "NOT_ALLOWED - access to vhost 'closed' refused for user 'guest'"),
    ):
        house = amqp.House(accounts=accounts(("", "", "")))
        house.broker.add_vhost("closed")
        peer = amqp.Peer(house)
        peer.feed(amqp.PROTOCOL_HEADER)
        peer.send(0, "connection.start-ok", {}, "PLAIN", amqp.LOGIN, "en_US")
        peer.send(0, "connection.tune-ok", 10, 131072, 0)
        peer.send(0, "connection.open", vhost, "", False)
        assert peer.got()[-1][1:4] == ("connection.close", 530, wanted)


def test_stomp_vhosts():
    house = stomp_house.House(accounts=accounts(("", "", "")))
    house.core.broker.add_vhost("closed")
    said = house.say(b"CONNECT\naccept-version:1.2\nhost:closed\n\n\0")
    assert b"message:Bad CONNECT\n" in said and b"Virtual host 'closed' access denied" in said


def test_nobody_sends_in_another_name():
    peer = amqp.Peer(amqp.House()).login().channel()
    peer.publish("q", b"m", user_id="root")
    assert peer.got()[0][1:3] == ("channel.close", 406)


def test_an_impersonator_sends_in_any_name():
    """RabbitMQ's tag, by both protocols."""
    house = amqp.House()
    house.accounts.users["guest"].tags = ("impersonator",)
    peer = amqp.Peer(house).login().channel()
    peer.publish("q", b"m", user_id="root")
    assert peer.got() == []
    stomp = stomp_house.House(accounts=house.accounts)
    stomp.connect()
    said = stomp.say(b"SEND\ndestination:/queue/q\nuser-id:root\nreceipt:1\n\nm\0")
    assert said.startswith(b"RECEIPT")
    stomp.accounts.users["guest"].tags = ()
    said = stomp.say(b"SEND\ndestination:/queue/q\nuser-id:ann\nreceipt:2\n\nm\0")
    assert b"message:precondition_failed" in said
