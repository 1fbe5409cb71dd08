"""The acknowledgement timeout: when it counts, and what the channel hears."""

from __future__ import annotations

from broker.session.amqp_limits import AmqpLimits
from broker.session.amqp_patience import Patience, check_seconds
from tests.support.amqp import House, Peer

TEXT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. "
    "This timeout value can be configured, see consumers doc guide to learn more"
)


def test_only_what_was_there_at_an_old_note_is_overdue() -> None:
    patience = Patience()
    assert not patience.is_over([1, 2], 2, 0.0, 100.0)
    assert not patience.is_over([2, 3], 3, 50.0, 100.0)
    assert not patience.is_over([3], 3, 149.0, 100.0), "2 was settled; 3 is 99 s old at most"
    assert patience.is_over([3], 3, 150.0, 100.0)
    assert not patience.is_over([], 3, 999.0, 100.0)


def test_how_often_it_is_looked_at() -> None:
    assert check_seconds(1800) == 60
    assert check_seconds(2) == 0.5


def wait(house: House, peer: Peer, seconds: float) -> None:
    """Let time pass minute by minute, with the peer's heart-beats."""
    for _ in range(int(seconds // 30)):
        house.clock.seconds += 30
        peer.feed(b"\x08\x00\x00\x00\x00\x00\x00\xce")
        peer.session.tick(house.clock.now())
        house.turn.wake(peer.session)
        house.run()


def test_a_channel_that_holds_a_delivery_too_long_is_closed() -> None:
    house = House()
    peer = Peer(house).login().channel()
    peer.declare("q")
    peer.publish("q", b"x")
    peer.send(1, "basic.consume", 0, "q", "t", False, False, False, False, {})
    peer.got()
    wait(house, peer, 1700)
    assert [row for row in peer.got() if row[1] != "heartbeat"] == []
    wait(house, peer, 300)
    rows = [row for row in peer.got() if row[1] != "heartbeat"]
    assert rows == [(1, "channel.close", 406, TEXT, 0, 0)]
    assert house.vhost.queues["q"].depth == 1, "it went back"


def test_zero_is_for_ever_and_no_channel_needs_no_timer() -> None:
    house = House()
    peer = Peer(house, AmqpLimits(acknowledgement_seconds=0, heartbeat_seconds=0))
    peer.login().channel()
    peer.declare("q")
    peer.publish("q", b"x")
    peer.send(1, "basic.get", 0, "q", False)
    wait(house, peer, 7200)
    assert house.vhost.queues["q"].unsettled_count == 1
