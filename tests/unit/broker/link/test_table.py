"""What stays when a link is taken away, and what a message keeps that an operator moves: on a simulated network."""

from __future__ import annotations

import pytest

from broker.link.settings import Stream
from broker.link.trace import origin_of
from broker.management.operations import copy_to
from tests.support.link_house import Node, World

PUSH = Stream("exchange", True, "ex", "ex")
MOVE = Stream("queue", True, "work", "work")


def pair(stream: Stream) -> tuple[World, Node, Node]:
    """A link that a dials to push to b; at rest."""
    world = World(11)
    a, b = world.add("a", "b")
    for node in (a, b):
        node.vhost.declare_exchange("ex", "topic", durable=True)
        node.vhost.declare_queue("work", durable=True)
        node.turn.schedule()
    b.vhost.declare_queue("sink", durable=True)
    b.vhost.bind_queue("sink", "ex", "#")
    world.link(a, b, "ab", stream)
    world.settle()
    return world, a, b


def part(world: World) -> None:
    """Cut the link; it is not dialed again."""
    for node in world.nodes.values():
        node.links.clear()
    for socket in list(world.sockets()):
        world.cut(socket)
    for socket in list(world.sockets()):
        socket.lose("cut")
    world.settle()


def buffer_of(node: Node) -> str:
    return next(name for name in node.vhost.queues if name.startswith("link."))


def test_what_a_buffer_holds_stays_when_its_link_is_taken_away(caplog):
    world, a, _ = pair(PUSH)
    part(world)
    a.publish("ex", "k", b"m0")
    name = buffer_of(a)
    assert a.table.drop_stream("ab", PUSH) == {name: 1}
    assert f"1 messages, stays in queue {name}" in caplog.text
    a.publish("ex", "k", b"m1")
    world.settle()
    assert a.bodies(name) == [b"m0"], "nothing new enters"
    a.crash()
    world.settle()
    assert a.bodies(name) == [b"m0"]
    assert next(iter(a.table.linked.values())).is_given_up
    a.vhost.purge_queue(name)
    a.turn.schedule()
    world.settle()
    assert name not in a.vhost.queues
    assert not a.table.linked


def test_an_empty_buffer_goes_with_its_link():
    world, a, _ = pair(PUSH)
    part(world)
    assert a.table.drop_stream("ab", PUSH) == {}
    a.turn.schedule()
    world.settle()
    assert not [name for name in a.vhost.queues if name.startswith("link.")]
    a.crash()
    assert not a.table.linked


def test_a_link_that_comes_back_takes_up_what_it_left():
    world, a, b = pair(PUSH)
    a.publish("ex", "k", b"m0")
    world.settle()
    part(world)
    a.publish("ex", "k", b"m1")
    a.table.drop_stream("ab", PUSH)
    world.settle()
    world.link(a, b, "ab", PUSH)
    world.settle()
    a.publish("ex", "k", b"m2")
    world.settle()
    assert b.bodies("sink") == [b"m0", b"m1", b"m2"]
    assert not next(iter(a.table.linked.values())).is_given_up


def test_a_shared_queue_goes_on_without_its_link():
    world, a, _ = pair(MOVE)
    part(world)
    a.publish("", "work", b"m0")
    assert a.table.drop_stream("ab", MOVE) == {}
    world.settle()
    assert a.bodies("work") == [b"m0"]
    assert not a.table.linked


def test_a_deleted_queue_is_forgotten():
    """Also of a link that the far side dialed and that is away: there is nothing else to delete."""
    world, a, _ = pair(PUSH)
    part(world)
    a.vhost.delete_queue(buffer_of(a))
    a.turn.schedule()
    world.settle()
    assert not a.table.linked
    a.crash()
    assert not a.table.linked


@pytest.mark.parametrize("is_kept", [True, False], ids=["origin kept", "origin dropped"])
def test_moved_to_another_link_a_message_is_still_known(is_kept: bool):
    """What a link left behind may be at the far side already: moved on by another link, it is a second copy there."""
    world, a, b = pair(PUSH)
    a.publish("ex", "k", b"m0")
    world.settle()
    part(world)
    a.publish("ex", "k", b"m1")
    # As a cut before the acknowledgement leaves it: applied there, still here.
    (left,) = [message for _, message, _ in a.vhost.queues[buffer_of(a)].peek(1)]
    origin = origin_of(left.trace)
    assert origin is not None
    b.table.origins.apply(*origin)
    a.table.drop_stream("ab", PUSH)
    world.settle()
    world.link(a, b, "other", PUSH)
    world.settle()
    there = next(name for name in a.vhost.queues if name.startswith("link.other"))
    copy = copy_to(left, a.vhost.destination("", there))
    if not is_kept:
        copy.trace = b""
    assert a.vhost.publish(copy) == 1
    a.turn.schedule()
    world.settle()
    assert (b.bodies("sink") == [b"m0"]) is is_kept


def test_what_waits_for_a_puller_that_goes_stays_at_the_sender():
    """The dialing end forgets a stream that it pulled: the other end keeps what it had not sent."""
    pull = Stream("exchange", False, "ex", "ex")
    world, a, b = pair(pull)
    a.vhost.declare_queue("sink", durable=True)
    a.vhost.bind_queue("sink", "ex", "#")
    world.settle()
    (session,) = a.table.sessions.values()
    name = buffer_of(b)
    # What b sends is not acknowledged before the stream is forgotten.
    b.publish("ex", "k", b"m0")
    b.end_turn()
    a.links.clear()
    session.forget_stream(0)
    a.turn.schedule()
    world.settle()
    assert b.bodies(name) == [b"m0"]
    assert next(iter(b.table.linked.values())).is_given_up
    b.publish("ex", "k", b"m1")
    world.settle()
    assert b.bodies(name) == [b"m0"]
