"""Direct reply-to between two connections, and properties that are too large for a consumer's frames."""

from __future__ import annotations

from broker.wire.amqp.frames import FRAME_OVERHEAD_BYTES
from tests.support.amqp import LOGIN, PROTOCOL_HEADER, House, Peer

REPLY_TO = "amq.rabbitmq.reply-to"


def test_question_and_answer() -> None:
    house = House()
    client = Peer(house).login().channel()
    server = Peer(house).login().channel()
    server.declare("rpc")
    server.send(1, "basic.consume", 0, "rpc", "s", False, True, False, False, {})
    client.send(1, "basic.consume", 0, REPLY_TO, "c", False, True, False, False, {})
    client.got(), server.got()
    client.publish("rpc", b"ask", reply_to=REPLY_TO, correlation_id="7")
    question = server.got()[0]
    name = question[-2].reply_to
    assert name.startswith(REPLY_TO + ".")
    assert question[-2].headers is None
    server.send(1, "queue.declare", 0, name, True, False, False, False, False, {})
    assert server.got() == [(1, "queue.declare-ok", name, 0, 1)]
    server.publish(name, b"answer", mandatory=True, correlation_id="7")
    assert server.got() == []
    answer = client.got()[0]
    assert answer[1:3] == ("basic.deliver", "c")
    assert (answer[-1], answer[-2].correlation_id) == (b"answer", "7")
    client.send(1, "channel.close", 200, "", 0, 0)
    server.publish(name, b"late", mandatory=True)
    assert server.got()[0][1:3] == ("basic.return", 312)
    server.send(1, "queue.declare", 0, name, True, False, False, False, False, {})
    assert server.got()[0][1:3] == ("channel.close", 404)
    assert not [queue for queue in house.vhost.queues if queue.startswith("amq.")]


def test_nobody_else_can_consume_the_answers() -> None:
    house = House()
    client = Peer(house).login().channel()
    client.send(1, "basic.consume", 0, REPLY_TO, "c", False, True, False, False, {})
    (name,) = house.vhost.queues
    thief = Peer(house).login().channel()
    thief.send(1, "basic.consume", 0, name, "t", False, True, False, False, {})
    assert thief.got()[0][1:3] == ("channel.close", 405)


def small_peer(house: House) -> Peer:
    """A peer that takes frames of 4096 bytes only."""
    peer = Peer(house)
    peer.feed(PROTOCOL_HEADER)
    peer.send(0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    peer.send(0, "connection.tune-ok", 10, 4096, 0)
    peer.send(0, "connection.open", "/", "", False)
    peer.got()
    return peer.channel()


def test_properties_that_fit_no_frame_are_dead_lettered_and_the_rest_goes_on() -> None:
    house = House()
    large = Peer(house).login().channel()
    large.declare("q")
    for body, pad in ((b"a", 10), (b"b", 5000), (b"c", 10)):
        large.publish("q", body, headers={"pad": "x" * pad})
    large.got()
    small = small_peer(house)
    small.send(1, "basic.consume", 0, "q", "t", False, False, False, False, {})
    rows = small.got()
    assert [row[-1] for row in rows if row[1] == "basic.deliver"] == [b"a", b"c"]
    for row in rows:
        if row[1] == "basic.deliver":
            small.send(1, "basic.ack", row[3], False)
    assert small.got() == []
    large.send(1, "basic.get", 0, "dead-letter", True)
    (letter,) = large.got()
    assert letter[-1] == b"b"
    assert "do not fit a frame of 4096 bytes" in letter[-2].headers["x-gridmsg-cause"]
    assert house.vhost.queues["q"].unsettled_count == 0


def test_properties_that_fit_exactly_are_delivered() -> None:
    house = House()
    large = Peer(house).login().channel()
    large.declare("q")
    # Flags 2, table length 4, name 4, tag 1, length 4; content header 12.
    room = 4096 - FRAME_OVERHEAD_BYTES - 12 - 2 - 4 - 4 - 1 - 4
    for pad in (room, room + 1):
        large.publish("q", b"%d" % (pad - room), headers={"pad": "x" * pad})
    small = small_peer(house)
    small.send(1, "basic.get", 0, "q", False)
    assert small.got()[0][-1] == b"0"
    small.send(1, "basic.get", 0, "q", False)
    assert small.got()[0][1] == "basic.get-empty"
    house.run()
    assert house.vhost.queues["dead-letter"].depth == 1
