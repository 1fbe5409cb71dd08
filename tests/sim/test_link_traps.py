"""The known traps of links between brokers, each with its rule on, and with its rule off, where it must fail.

Real sessions and cores on a simulated network and disks (tests/support/link_house.py).  Where two rules stand against one
trap, the other one is off in both cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from broker.core.subscription import Subscription
from broker.errors import PreconditionFailed
from broker.link import trace
from broker.link.cursor import History
from broker.link.frames import RESUME, SETTLED
from broker.link.inflow import Inflow
from broker.link.linked import LinkedQueue
from broker.link.outflow import Outflow
from broker.link.settings import Stream
from broker.link.table import LinkTable
from broker.link.trace import OriginTable, OriginWindow
from tests.support.link_house import Node, Socket, World

QUEUE = Stream("queue", False, "work", "work")
EXCHANGE = Stream("exchange", False, "ex", "ex")
Patch = pytest.MonkeyPatch

on_and_off = pytest.mark.parametrize("is_on", [True, False], ids=["rule on", "rule off"])


def pair(stream: Stream = QUEUE, **options: Any) -> tuple[World, Node, Node]:
    """A link that b dials to pull from a; at rest."""
    world = World(7)
    a, b = world.add("a", "b")
    for node in (a, b):
        node.vhost.declare_queue("work", durable=True)
        node.vhost.declare_exchange("ex", "topic", durable=True)
        node.turn.schedule()
    b.vhost.declare_queue("sink", durable=True)
    b.vhost.bind_queue("sink", "ex", "#")
    world.link(b, a, "ab", stream, **options)
    world.settle()
    return world, a, b


def run(world: World, until: Callable[[], bool], *, but_not: tuple[Node, ...] = ()) -> None:
    """Do what is due, but sync no disk of `but_not`, until something is so."""
    for _ in range(5000):
        if until():
            return
        for node in world.nodes.values():
            node.end_turn()
            if node.disk.waiting_count and node not in but_not:
                node.sync(node.disk.waiting_count)
        if until():
            return
        for socket in list(world.sockets()):
            if socket.flying and not socket.is_cut:
                piece = bytes(socket.flying)
                socket.flying.clear()
                assert socket.other is not None
                socket.other.node.receive(socket.other, piece)
    raise AssertionError("it never happened")


def cut(world: World) -> None:
    for socket in list(world.sockets()):
        world.cut(socket)
    for socket in list(world.sockets()):
        socket.lose("cut")


def found(node: Node, queue: str) -> Counter[bytes]:
    return Counter(node.bodies(queue))


def of_each_claim(patch: Patch) -> None:
    """Switch off: a queue's name and positions stay the same over the sender's restarts."""
    patch.setattr(
        LinkedQueue,
        "lane",
        property(lambda self: hash((self.claim, self.queue.name)) & 0xFFFFFFFF),
    )


@on_and_off
def test_1_numbers_stay_over_a_crash_of_the_sender(monkeypatch: Patch, is_on: bool) -> None:
    if not is_on:
        of_each_claim(monkeypatch)
    world, a, b = pair()
    a.publish("", "work", b"m0")
    run(world, lambda: b"m0" in b.bodies("work"), but_not=())
    # Applied and durable at b; the acknowledgement is lost with a.
    b.sync(b.disk.waiting_count)
    a.crash()
    world.settle()
    assert (found(b, "work") == {b"m0": 1}) is is_on


@on_and_off
def test_2_nothing_is_sent_before_it_is_durable(monkeypatch: Patch, is_on: bool) -> None:
    monkeypatch.setattr(History, "has", lambda *_: True)
    if not is_on:

        def end_turn(self: Outflow, commit: int) -> None:
            fresh, self._fresh = self._fresh, []
            self._make_ready(fresh)

        monkeypatch.setattr(Outflow, "end_turn", end_turn)
    monkeypatch.setattr("broker.core.queue.HORIZON_STEP", 0)
    world, a, b = pair(EXCHANGE)
    a.publish("ex", "k", b"m0")
    # The turn holds back what goes beyond the horizon: another rule, off here.
    a.broker.is_early = False
    for _ in range(20):
        a.end_turn()
        b.end_turn()
        b.sync(b.disk.waiting_count)
        for socket in list(world.sockets()):
            piece = bytes(socket.flying)
            socket.flying.clear()
            if piece and socket.other is not None:
                socket.other.node.receive(socket.other, piece)
    assert bool(b.bodies("sink")) is not is_on, "m0 is at b before it is durable, or not"
    a.crash()
    world.settle()
    confirmed: list[bytes] = []
    a.publish("ex", "k", b"m1", lambda: confirmed.append(b"m1"))
    world.settle()
    assert confirmed == [b"m1"]
    assert (b"m1" in b.bodies("sink")) is is_on


@on_and_off
def test_3_a_repeat_is_acknowledged_when_the_first_copy_is_durable(
    monkeypatch: Patch, is_on: bool
) -> None:
    world, a, b = pair(EXCHANGE)
    if not is_on:

        def start(self: Inflow, lane: int, claim: str, is_shared: bool) -> None:
            table = self._session.table
            self._cursor = table.cursors.cursor(self._session.peer_id, lane, is_shared=is_shared)
            self._claim = claim
            self._session.send(RESUME, [self.number, self._cursor.statement()])

        monkeypatch.setattr(Inflow, "start", start)
    confirmed: list[bytes] = []
    a.publish("ex", "k", b"m0", lambda: confirmed.append(b"m0"))
    run(world, lambda: bool(b.bodies("sink")), but_not=(b,))
    assert confirmed
    cut(world)
    b.dial("ab")
    rounds = iter(range(60))
    run(world, lambda: next(rounds) == 59, but_not=(b,))
    b.crash()
    world.settle()
    assert (found(b, "sink") == {b"m0": 1}) is is_on


@pytest.mark.parametrize("verdict", ["unknown", "repeat", "new"])
def test_4_older_than_the_window_is_applied_and_marked(monkeypatch: Patch, verdict: str) -> None:
    """Told as a repeat it is lost; told as new its doubling goes unnoticed."""
    monkeypatch.setattr(trace, "WINDOW", 4096)
    world, a, b = pair(EXCHANGE)
    apply = OriginTable.apply

    def told(self: OriginTable, opening: bytes, sequence: int) -> str:
        answer = apply(self, opening, sequence)
        return verdict if answer == "unknown" else answer

    monkeypatch.setattr(OriginTable, "apply", told)
    a.publish("ex", "k", b"m0")
    # Meanwhile ten thousand others of the same origin came by a quicker path.
    run(world, lambda: bool(a.vhost.queues[buffer_of(a)].depth) or bool(b.bodies("sink")))
    world.settle()
    opening = next(iter(b.table.origins._windows))
    b.table.origins.apply(opening, 20_000)
    a.publish("ex", "k", b"m1")
    world.settle()
    bodies = b.bodies("sink")
    (row,) = [one for one in stored(b, "sink") if one.body == b"m1"] or [None]
    is_marked = row is not None and b"x-possible-duplicate" in row.header
    assert (b"m1" in bodies, is_marked) == {
        "unknown": (True, True),
        "repeat": (False, False),
        "new": (True, False),
    }[verdict]
    if verdict == "unknown":
        assert sum(flow.unknown_count for flow in flows(b)) == 1


def buffer_of(node: Node) -> str:
    return next(name for name in node.vhost.queues if name.startswith("link."))


def flows(node: Node) -> list[Inflow]:
    return [flow for session in node.table.sessions.values() for flow in session.inflows.values()]


def stored(node: Node, queue: str) -> list[Any]:
    lane = node.vhost.queues[queue].lanes[0].number
    return [row[1] for row in node.disk.read(lane, 0, 1 << 30, 1 << 50)]


@on_and_off
def test_5_gaps_that_never_close_cost_a_window(monkeypatch: Patch, is_on: bool) -> None:
    """A filtered path brings every third sequence: a bitmap of the last ones is kept, in memory and in the store."""
    monkeypatch.setattr(trace, "WINDOW", 4 * 4096)
    if not is_on:
        monkeypatch.setattr(OriginWindow, "lowest_piece", lambda self: 0)
    table = OriginTable()
    kept: dict[str, Any] = {}

    def define(key: str, value: dict[str, Any] | None) -> None:
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = value

    for sequence in range(0, 100_000, 3):
        assert table.apply(b"o" * 16, sequence) == "new"
        if sequence % 300 == 0:
            table.flush(define)
    table.flush(define)
    assert (len(kept) <= 6) is is_on
    if is_on:
        again = OriginTable()
        again.restore(kept)
        assert [again.apply(b"o" * 16, one) for one in (99_999, 99_998, 10)] == [
            "repeat",
            "new",
            "unknown",
        ]


@on_and_off
def test_6_a_store_put_back_from_a_copy_begins_a_new_stream(
    monkeypatch: Patch, is_on: bool
) -> None:
    # Positions also go on behind what was handed out (horizon), by thousands: here one is enough.
    monkeypatch.setattr("broker.core.queue.HORIZON_STEP", 0)
    if not is_on:
        monkeypatch.setattr(History, "has", lambda *_: True)
    world, a, b = pair(EXCHANGE)
    a.publish("ex", "k", b"before")
    world.settle()
    image = a.disk.image()
    for number in range(5):
        a.publish("ex", "k", b"original %d" % number)
    world.settle()
    a.disk.put_back(image)
    a.crash()
    for number in range(5):
        a.publish("ex", "k", b"later %d" % number)
    world.settle()
    assert {body for body in b.bodies("sink") if body.startswith(b"later")} == (
        {b"later %d" % number for number in range(5)} if is_on else set()
    )


@on_and_off
def test_6_a_buffer_deleted_and_declared_again_begins_a_new_stream(
    monkeypatch: Patch, is_on: bool
) -> None:
    """Its lane has another number: positions restart, cursors do not meet."""
    if not is_on:
        by_name = property(lambda self: hash(self.queue.name) & 0xFFFFFFFF)
        monkeypatch.setattr(LinkedQueue, "lane", by_name)
    world, a, b = pair(EXCHANGE)
    for number in range(5):
        a.publish("ex", "k", b"first %d" % number)
    world.settle()
    a.vhost.delete_queue(buffer_of(a))
    a.turn.schedule()
    world.settle()
    cut(world)
    world.settle()
    for number in range(5):
        a.publish("ex", "k", b"second %d" % number)
    world.settle()
    wanted = {b"first %d" % number: 1 for number in range(5)}
    if is_on:
        wanted |= {b"second %d" % number: 1 for number in range(5)}
    assert found(b, "sink") == wanted


@on_and_off
def test_7_settled_is_told_when_it_is_durable(monkeypatch: Patch, is_on: bool) -> None:
    if not is_on:
        acknowledged = Outflow.acknowledged

        def at_once(self: Outflow, what: Any) -> None:
            acknowledged(self, what)
            self._settling = []
            self._session.send(SETTLED, [self.number, what])

        monkeypatch.setattr(Outflow, "acknowledged", at_once)
    world, a, b = pair()
    a.publish("", "work", b"m0")
    run(world, lambda: bool(b.bodies("work")))
    rounds = iter(range(40))
    run(world, lambda: next(rounds) == 39, but_not=(a,))
    a.crash()
    world.settle()
    assert (found(b, "work") == {b"m0": 1}) is is_on


@on_and_off
def test_7_a_requeued_position_comes_back_lower(monkeypatch: Patch, is_on: bool) -> None:
    if not is_on:
        link_queue = LinkTable.link_queue

        def as_buffer(self: LinkTable, *given: Any, is_shared: bool, **rest: Any) -> LinkedQueue:
            return link_queue(self, *given, is_shared=False, **rest)

        monkeypatch.setattr(LinkTable, "link_queue", as_buffer)
    world, a, b = pair()
    cut(world)
    for socket in list(world.sockets()):
        socket.lose("cut")
    a.publish("", "work", b"m0")
    a.publish("", "work", b"m1")
    taken: list[Any] = []

    class Holding:
        is_writable = True

        def deliver(self, subscription: Subscription, run: list[Any]) -> None:
            taken.extend(run)

        def cancelled(self, subscription: Subscription, reason: str) -> None:
            """Never in this test."""

    holder = Subscription(Holding(), "holder", is_acknowledged=True, credit=1)
    a.vhost.subscribe("work", holder)
    a.broker.dispatch()
    assert [one.message.body for one in taken] == [b"m0"]
    world.settle()
    assert found(b, "work") == {b"m1": 1}
    a.vhost.unsubscribe(holder)
    a.broker.requeue(taken)
    a.turn.schedule()
    world.settle()
    assert (found(b, "work") == {b"m1": 1, b"m0": 1}) is is_on


@on_and_off
def test_8_a_queue_link_may_bring_a_message_back(monkeypatch: Patch, is_on: bool) -> None:
    if not is_on:
        monkeypatch.setattr(
            Inflow,
            "is_circling",
            lambda self, given: trace.has_been_at(given, self._session.table.id),
        )
    world, a, b = pair()
    a.vhost.declare_queue("back", durable=True)
    a.turn.schedule()
    world.link(a, b, "ba", Stream("queue", False, "work", "back"))
    a.publish("", "work", b"m0")
    world.settle()
    assert (found(a, "back") == {b"m0": 1}) is is_on


@on_and_off
def test_8_a_queue_link_ends_a_circle_by_hops_and_keeps_the_message(
    monkeypatch: Patch, is_on: bool
) -> None:
    if not is_on:
        monkeypatch.setattr("broker.link.inflow.hop_count", lambda trace: 0)
    world, a, b = pair(hops_max=5)
    world.link(a, b, "ba", QUEUE, hops_max=5)
    a.publish("", "work", b"m0")
    if not is_on:
        with pytest.raises(AssertionError, match="never come to rest"):
            world.settle(3000)
        return
    world.settle()
    letters = [*kept(a), *kept(b)]
    assert [one for one in letters] == [b"m0"]
    assert not a.bodies("work")
    assert not b.bodies("work")


def kept(node: Node) -> list[bytes]:
    return node.bodies("dead-letter") if "dead-letter" in node.vhost.queues else []


def zombie_sends(stream: Stream, queue: str) -> Counter[bytes]:
    """What b has in the end, after a former owner of a's store sent what the new one had sent, too."""
    world, a, b = pair(stream)
    a.publish("ex" if stream is EXCHANGE else "", "work", b"m0")
    run(world, lambda: any(one.flying and one.node is a for one in world.sockets()) and sent(a))
    zombie = next(one for one in world.sockets() if one.node is a)
    late = bytes(zombie.flying)
    zombie.flying.clear()
    assert b"m0" in late
    there: Socket = zombie.other  # type: ignore[assignment]
    # Its disk has a new owner, which sends the same; b has both connections.
    a.sockets.clear()
    b.sockets.discard(there)
    a.start()
    world.settle()
    assert found(b, queue) == {b"m0": 1}
    b.receive(there, late)
    world.settle()
    return found(b, queue)


@on_and_off
def test_9_what_a_former_owner_still_sends_are_repeats(monkeypatch: Patch, is_on: bool) -> None:
    # That a new connection of the same link ends the old one, and the origin, are other rules: off here.
    monkeypatch.setattr(LinkTable, "enter", enter_beside)
    monkeypatch.setattr(OriginTable, "apply", lambda *_: "new")
    if not is_on:
        of_each_claim(monkeypatch)
    assert (zombie_sends(EXCHANGE, "sink") == {b"m0": 1}) is is_on


@on_and_off
def test_9_a_new_connection_of_a_link_ends_the_old_one(monkeypatch: Patch, is_on: bool) -> None:
    """For a shared queue what is settled is forgotten: here this rule is the one that counts."""
    if not is_on:
        monkeypatch.setattr(LinkTable, "enter", enter_beside)
    assert (zombie_sends(QUEUE, "work") == {b"m0": 1}) is is_on


def enter_beside(table: LinkTable, session: Any) -> None:
    table.sessions[id(session).to_bytes(16, "big"), "", False] = session


def sent(node: Node) -> bool:
    return any(
        flow.sent_count
        for session in node.table.sessions.values()
        for flow in session.outflows.values()
    )


@on_and_off
def test_10_a_refused_message_does_not_hold_up_the_link(monkeypatch: Patch, is_on: bool) -> None:
    if not is_on:

        def refuse(self: Inflow, message: Any, taken: int) -> None:
            raise PreconditionFailed("refused")

        monkeypatch.setattr(Inflow, "_not_taken", refuse)
    world = World(7)
    a, b = world.add("a", "b")
    a.vhost.declare_queue("work", durable=True)
    b.vhost.declare_queue(
        "work", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    for node in (a, b):
        node.turn.schedule()
    world.link(b, a, "ab", QUEUE)
    for number in range(3):
        a.publish("", "work", b"m%d" % number)
    if is_on:
        world.settle()
        assert not a.bodies("work")
        assert (b.bodies("work"), kept(b)) == ([b"m0"], [b"m1", b"m2"])
    else:
        with pytest.raises(AssertionError, match="never come to rest"):
            world.settle(3000)


@on_and_off
def test_several_paths_bring_one_copy(monkeypatch: Patch, is_on: bool) -> None:
    """The origin tells second copies: a full mesh of four."""
    if not is_on:
        monkeypatch.setattr(OriginTable, "apply", lambda *_: "new")
    world = World(3)
    nodes = world.add("a", "b", "c", "d")
    for node in nodes:
        node.vhost.declare_exchange("ex", "topic", durable=True)
        node.vhost.declare_queue("sink", durable=True)
        node.vhost.bind_queue("sink", "ex", "#")
        node.turn.schedule()
    for near in nodes:
        for far in nodes:
            if near is not far:
                world.link(near, far, f"{near.name}{far.name}", EXCHANGE)
    world.settle()
    for number in range(4):
        nodes[number].publish("ex", "k", b"%d" % number)
    world.settle()
    wanted = {b"%d" % number: 1 for number in range(4)}
    assert all(found(node, "sink") == wanted for node in nodes) is is_on
