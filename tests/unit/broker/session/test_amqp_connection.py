"""A connection's clocks, blocking, farewells and bounds; its dialogues are in tests/conformance/amqp.json."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.session.amqp_connection import AmqpLimits
from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from broker.wire.amqp.methods import METHODS
from tests.support.amqp import LOGIN, House, Peer, published


def tick(house: House, peer: Peer, seconds: float) -> None:
    house.clock.seconds += seconds
    peer.session.tick(house.clock.now())
    house.turn.wake(peer.session)
    house.run()


def test_server_properties_say_what_clients_look_at() -> None:
    peer = Peer(House())
    peer.feed(PROTOCOL_HEADER)
    [start] = peer.got()
    properties = start[4]
    assert properties["product"] == "gridmsg"
    assert properties["capabilities"]["publisher_confirms"] is True
    assert {"version", "platform", "copyright", "information", "cluster_name"} < set(properties)


def test_a_late_login_is_cut_off() -> None:
    house = House()
    peer = Peer(house)
    peer.feed(PROTOCOL_HEADER)
    assert peer.session.next_deadline() == house.clock.now() + 10.0
    tick(house, peer, 9.9)
    assert not peer.is_closing
    tick(house, peer, 0.1)
    assert peer.is_closing


def test_a_refused_login_of_an_old_client_is_closed_after_a_pause() -> None:
    house = House()
    peer = Peer(house)
    peer.feed(PROTOCOL_HEADER)
    peer.send(0, "connection.start-ok", {}, "PLAIN", b"\0guest\0wrong", "en_US")
    assert peer.session.next_deadline() == house.clock.now() + 3.0
    tick(house, peer, 3.0)
    assert peer.is_closing


def test_guest_is_local() -> None:
    peer = Peer(House(), is_loopback=False)
    peer.feed(PROTOCOL_HEADER)
    capabilities = {"capabilities": {"authentication_failure_close": True}}
    peer.send(0, "connection.start-ok", capabilities, "PLAIN", LOGIN, "en_US")
    assert peer.got()[-1][2] == 403


def test_heartbeats_go_at_half_the_interval() -> None:
    house = House()
    peer = Peer(house).login()
    assert peer.session.next_deadline() == house.clock.now() + 30.0
    tick(house, peer, 29.9)
    assert peer.got() == []
    tick(house, peer, 0.1)
    assert peer.got() == [(0, "heartbeat")]
    assert peer.session.next_deadline() == house.clock.now() + 30.0


def test_two_silent_intervals_are_death_and_any_byte_is_life() -> None:
    house = House()
    peer = Peer(house).login()
    tick(house, peer, 119.0)
    peer.feed(b"\x08")
    tick(house, peer, 119.0)
    assert not peer.is_closing
    tick(house, peer, 1.0)
    assert peer.is_closing


def test_a_heartbeat_of_zero_is_none() -> None:
    house = House()
    peer = Peer(house)
    peer.feed(PROTOCOL_HEADER)
    peer.send(0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    peer.send(0, "connection.tune-ok", 10, 4096, 0)
    peer.send(0, "connection.open", "/", "", False)
    assert peer.session.next_deadline() is None


def test_a_missing_close_ok_is_not_waited_for_for_ever() -> None:
    house = House()
    peer = Peer(house).login()
    peer.send(9, "basic.qos", 0, 1, False)
    assert peer.got()[0][1] == "connection.close"
    assert not peer.is_closing
    tick(house, peer, AmqpLimits().closing_seconds)
    assert peer.is_closing


def handshaking(house: House) -> Peer:
    peer = Peer(house)
    peer.feed(PROTOCOL_HEADER)
    peer.send(0, "connection.start-ok", {}, "PLAIN", LOGIN, "en_US")
    peer.send(0, "connection.tune-ok", 10, 4096, 1)
    return peer


def closing(house: House) -> Peer:
    peer = handshaking(house)
    peer.send(0, "connection.open", "/", "", False)
    peer.send(9, "basic.qos", 0, 1, False)
    return peer


def blocked(house: House) -> Peer:
    peer = Peer(house).login().channel()
    peer.session.set_blocked("low on disk")
    peer.publish("q", b"a")
    return peer


@pytest.mark.parametrize("state", [handshaking, closing, blocked])
def test_a_tick_leaves_no_deadline_behind_it(state: Callable[[House], Peer]) -> None:
    """Else the timer would be set for now again and again."""
    house = House()
    peer = state(house)
    for _ in range(40):
        deadline = peer.session.next_deadline()
        if deadline is None:
            break
        assert deadline > house.clock.now()
        tick(house, peer, deadline - house.clock.now())
    assert (deadline is None) == peer.is_closing


def test_publishers_are_told_and_held_while_blocked() -> None:
    house = House()
    peer = Peer(house).login().channel()
    peer.declare("q")
    peer.got()
    peer.session.set_blocked("low on disk")
    peer.send(1, "basic.qos", 0, 1, False)
    assert peer.got() == [(1, "basic.qos-ok")]
    peer.publish("q", b"a")
    peer.send(1, "basic.qos", 0, 2, False)
    assert peer.got() == [(0, "connection.blocked", "low on disk")]
    assert house.vhost.queues["q"].depth == 0
    tick(house, peer, 150.0)
    assert peer.got() == [(0, "heartbeat")]
    assert not peer.is_closing
    peer.session.set_blocked(None)
    house.run()
    assert peer.got() == [(0, "connection.unblocked"), (1, "basic.qos-ok")]
    assert house.vhost.queues["q"].depth == 1


def test_clients_that_cannot_be_told_are_only_held() -> None:
    house = House()
    peer = Peer(house).login({}).channel()
    peer.session.set_blocked("low on disk")
    peer.publish("q", b"a")
    peer.session.set_blocked(None)
    house.run()
    assert peer.got() == []


def test_a_stop_is_told() -> None:
    house = House()
    peer = Peer(house).login()
    peer.session.shutdown("broker forced connection closure with reason 'shutdown'")
    peer.flush()
    assert peer.got() == [
        (
            0,
            "connection.close",
            320,
            "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
            0,
            0,
        )
    ]
    assert not peer.is_closing
    peer.send(0, "connection.close-ok")
    assert peer.is_closing


def test_long_texts_are_cut_as_rabbitmq_cuts_them() -> None:
    peer = Peer(House()).login().channel()
    peer.send(1, "queue.declare", 0, "é" * 127, True, False, False, False, False, {})
    text = peer.got()[0][3]
    assert text.endswith("...")
    assert 250 <= len(text.encode()) <= 255


def test_exclusive_queues_are_gone_before_close_ok() -> None:
    house = House()
    peer = Peer(house).login().channel()
    peer.declare("q", exclusive=True)
    payload = METHODS["connection.close"].encode(200, "", 0, 0)
    # No turn ends here: the queue is gone by the time that close-ok can be written.
    peer.session.receive_data(method_frame(0, payload))
    assert "q" not in house.vhost.queues


def test_caches_are_bounded() -> None:
    limits = AmqpLimits(cached_routes_max=3, cached_traits_max=3)
    peer = Peer(House(), limits).login().channel()
    for n in range(10):
        peer.publish(f"k{n}", b"a", message_id=f"m{n}")
    peer.publish("k", b"a", message_id="m" * 255, app_id="a" * 255, type="t" * 255)
    assert len(peer.session.publishing.routes) <= 3
    assert len(peer.session.publishing.traits) <= 3
    assert all(
        len(header) <= limits.cached_header_bytes_max for header in peer.session.publishing.traits
    )
    assert peer.got() == []


def test_consumers_of_a_channel_are_bounded() -> None:
    house = House()
    peer = Peer(house, AmqpLimits(channel_consumers_max=2)).login().channel()
    peer.declare("q")
    for n in range(3):
        peer.consume("q", f"c{n}")
    assert peer.got()[-1][2] == 506


def test_close_ok_is_found_where_frames_cannot_be_told_any_more() -> None:
    peer = Peer(House()).login()
    peer.feed(b"\x01\x00\x01\x00\x00\x00\x05\x00\x14\x00\x10\x00\xcd")
    assert [got[1:3] for got in peer.got()] == [("connection.close", 501)]
    peer.feed(b"\x00\xff\x01\x00")
    close_ok = method_frame(0, methods.encode("connection.close-ok"))
    peer.feed(close_ok[:5])
    assert not peer.is_closing
    peer.feed(close_ok[5:])
    assert peer.is_closing and peer.got() == []


def test_a_stop_finds_the_answer_behind_what_was_held() -> None:
    house = House(is_slow=True)
    peer = Peer(house).login().channel()
    peer.declare("q", durable=True)
    peer.feed(published("q", b"a")[:-3])
    peer.session.shutdown("stop")
    peer.feed(published("q", b"a")[-3:])
    assert [got[1:3] for got in peer.got()] == [("connection.close", 320)]
    peer.send(0, "connection.close-ok")
    assert peer.is_closing
