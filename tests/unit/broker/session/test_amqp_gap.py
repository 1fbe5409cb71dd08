"""broker.session.amqp_gap: what a consumer gets is written some turns after its consume-ok, in order, and never lost."""

from __future__ import annotations

from broker.session.amqp_gap import GAP_TURNS, Gap
from tests.support.amqp import House, Peer


def names(peer: Peer) -> list[str]:
    return [got[1] for got in peer.got()]


def turns(peer: Peer) -> list[list[str]]:
    """What each turn wrote, until nothing is left to do."""
    found = []
    while peer.house._soon:
        calls, peer.house._soon[:] = list(peer.house._soon), []
        for call in calls:
            call()
        found.append(names(peer))
    return found


def consume(peer: Peer, tag: str) -> None:
    """Ask for a consumer, without ending the turn."""
    house, run = peer.house, peer.house.run
    house.run = lambda: None  # type: ignore[method-assign]
    peer.consume("q", tag)
    house.run = run  # type: ignore[method-assign]


def consuming() -> Peer:
    """A peer that asked for a consumer of a queue with a message; the turn has not ended."""
    peer = Peer(House()).login().channel()
    peer.declare("q")
    peer.publish("q", b"x")
    peer.got()
    consume(peer, "c")
    return peer


def test_deliveries_wait_behind_consume_ok() -> None:
    peer = consuming()
    silence: list[list[str]] = [[]] * GAP_TURNS
    assert turns(peer) == [["basic.consume-ok"], *silence, ["basic.deliver"]]
    assert not peer.session.gap.is_open


def test_a_second_consumer_hastens_the_first() -> None:
    peer = consuming()
    peer.house._soon.pop(0)()
    assert names(peer) == ["basic.consume-ok"]
    consume(peer, "d")
    assert turns(peer)[0] == ["basic.deliver", "basic.consume-ok"]


def test_a_close_waits_for_nothing() -> None:
    peer = consuming()
    peer.house._soon.pop(0)()
    assert names(peer) == ["basic.consume-ok"]
    peer.session.shutdown("bye")
    peer.flush()
    assert names(peer) == ["basic.deliver", "connection.close"]


def test_a_gap_is_cut_where_it_began() -> None:
    gap = Gap()
    gap.begin(2)
    out = [b"1", b"2", b"3"]
    written, out = gap.cut(out)
    assert (written, out) == ([b"1", b"2"], [b"3"])
    for _ in range(GAP_TURNS):
        written, out = gap.cut([*out, b"4"])
        assert written == [] and gap.is_open
    written, out = gap.cut(out)
    assert (written, out, gap.is_open) == ([b"3", b"4", b"4"], [], False)
