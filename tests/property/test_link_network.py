"""Links under cuts, crashes and any order of events: nothing lost, nothing doubled between ours.

Real sessions, cores and turns on a simulated network and disks (tests/support/link_house.py).  Each case is a seed; set
GRIDMSG_LINK_SEEDS to the number wanted, GRIDMSG_LINK_SEED to one that failed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from broker.link.settings import Stream
from tests.support.link_house import Consumer, World

SEEDS = int(os.environ.get("GRIDMSG_LINK_SEEDS", "6"))
FIRST = int(os.environ.get("GRIDMSG_LINK_SEED", "0"))
PULL = Stream("exchange", False, "ex", "ex")
PUSH = Stream("exchange", True, "ex", "ex")

TOPOLOGIES = {
    "pair": (("a", "b"), (("b", "a", PULL),)),
    "push": (("a", "b"), (("a", "b", PUSH),)),
    "both ways": (("a", "b"), (("a", "b", PUSH), ("a", "b", PULL))),
    "chain": (("a", "b", "c"), (("b", "a", PULL), ("c", "b", PULL))),
    "ring": (
        ("a", "b", "c"),
        (("a", "b", PULL), ("b", "c", PULL), ("c", "a", PULL)),
    ),
    "mesh": (
        ("a", "b", "c"),
        tuple((x, y, PULL) for x in "abc" for y in "abc" if x != y),
    ),
}


def build(world: World, names, links) -> None:
    nodes = {node.name: node for node in world.add(*names)}
    for node in nodes.values():
        node.vhost.declare_exchange("ex", "topic", durable=True)
        node.vhost.declare_queue("sink", durable=True)
        node.vhost.bind_queue("sink", "ex", "k.#")
        node.turn.schedule()
    grouped: dict[tuple[str, str], list[Stream]] = {}
    for near, far, stream in links:
        grouped.setdefault((near, far), []).append(stream)
    for (near, far), streams in grouped.items():
        world.link(nodes[near], nodes[far], f"{near}{far}", *streams, window_bytes=4096)
    world.settle()


def trouble(world: World, *, cuts: float = 0.01, crashes: float = 0.004) -> None:
    """A cut, a crash, a further connection, or nothing."""
    draw = world.random.random()
    sockets = list(world.sockets())
    if draw < cuts and sockets:
        world.cut(world.random.choice(sorted(sockets, key=lambda one: one.link)))
    elif draw < cuts + crashes:
        world.random.choice(list(world.nodes.values())).crash()
    elif draw < cuts + crashes + 0.02:
        world.maybe_strand()
    elif draw < 0.06:
        world.look()


def check(world: World, wanted: dict[str, set[bytes]], known: set[bytes], queue: str) -> None:
    for node in world.nodes.values():
        found = Counter(node.bodies(queue))
        doubled = {body: count for body, count in found.items() if count > 1}
        assert not doubled, f"{node.name}: doubled {doubled}"
        lost = wanted[node.name] - set(found)
        assert not lost, f"{node.name}: lost {lost}"
        assert set(found) <= known, f"{node.name}: from nowhere {set(found) - known}"


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_exchange_links_lose_and_double_nothing(topology: str, seed: int) -> None:
    world = World(seed)
    names, links = TOPOLOGIES[topology]
    build(world, names, links)
    confirmed: set[bytes] = set()
    known: set[bytes] = set()
    publishers = names if topology not in ("pair", "push", "chain") else ("a",)
    for number in range(60):
        node = world.nodes[world.random.choice(publishers)]
        body = b"%s-%d" % (node.name.encode(), number)
        known.add(body)
        node.publish("ex", "k.x", body, lambda body=body: confirmed.add(body))
        for _ in range(world.random.randint(0, 60)):
            trouble(world)
            if not world.step():
                break
    world.settle()
    check(world, dict.fromkeys(names, confirmed), known, "sink")


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize("is_push", [False, True], ids=["pull", "push"])
def test_queue_links_move_each_message_once(is_push: bool, seed: int) -> None:
    """Some are consumed where they were published, the others are moved; none twice."""
    world = World(seed)
    a, b = world.add("a", "b")
    for node in (a, b):
        node.vhost.declare_queue("work", durable=True)
        node.turn.schedule()
    near, far = (a, b) if is_push else (b, a)
    world.link(near, far, "ab", Stream("queue", is_push, "work", "work"), window_bytes=2048)
    world.settle()
    confirmed: set[bytes] = set()
    known: set[bytes] = set()
    done: Counter[bytes] = Counter()
    consumer: Consumer | None = None
    crashes_of_a = a.claim_count
    for number in range(60):
        body = b"%d" % number
        known.add(body)
        a.publish("", "work", body, lambda body=body: confirmed.add(body))
        if a.claim_count != crashes_of_a:
            crashes_of_a, consumer = a.claim_count, None
        if consumer is None and world.random.random() < 0.3:
            consumer = Consumer(a, "work", credit=1)
        for _ in range(world.random.randint(0, 40)):
            trouble(world)
            if a.claim_count != crashes_of_a:
                crashes_of_a, consumer = a.claim_count, None
            if consumer is not None and world.random.random() < 0.1:
                consumer.settle(lambda body: done.update([body]))
            if not world.step():
                break
    if consumer is not None:
        consumer.settle(lambda body: done.update([body]))
        a.vhost.unsubscribe(consumer.subscription)
        a.broker.release(consumer.taken)
        a.turn.schedule()
    world.settle()
    arrived = Counter(b.bodies("work"))
    arrived.update(a.bodies("work"))
    doubled = {body: count for body, count in (arrived + done).items() if count > 1}
    assert not doubled, f"doubled {doubled}"
    assert confirmed <= set(arrived) | set(done), f"lost {confirmed - set(arrived) - set(done)}"
    assert not a.bodies("work"), "what nobody consumes is moved"
