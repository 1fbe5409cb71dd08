from __future__ import annotations

from typing import Any

import pytest

from broker.core.broker import Broker, CoreLimits
from broker.core.delay import BUCKET_MS, DELAY_MS_MAX, delay_of
from broker.core.message import Message
from broker.wire.properties import STOMP
from store.interface import LaneState, Recovered
from tests.support.core import Core


def hold(core: Core, key: str, body: bytes, delay_ms: int, *, is_persistent: bool = True) -> None:
    now = core.broker.now_ms
    message = Message(
        core.vhost.destination("", key), STOMP, b"a:b\n", body, is_persistent, 0, now, 0
    )
    core.broker.delays.hold(core.vhost, message, now + delay_ms)


def turn(core: Core) -> None:
    core.broker.dispatch()
    core.store.commit(core.broker.take_unit())


def pass_time(core: Core, seconds: float) -> None:
    core.clock.seconds += seconds
    for _ in range(3):
        core.broker.tick()
        turn(core)


def bodies(core: Core, queue: str) -> list[bytes]:
    return [message.body for _, message, _ in core.vhost.queues[queue].peek(100)]


def test_published_when_due_in_due_order():
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    hold(core, "q", b"late", 3000)
    hold(core, "q", b"soon", 1000)
    turn(core)
    assert bodies(core, "q") == [] and core.broker.needs_ticks
    pass_time(core, 1.1)
    assert bodies(core, "q") == [b"soon"]
    pass_time(core, 2)
    assert bodies(core, "q") == [b"soon", b"late"]
    message = core.vhost.queues["q"].peek(1)[0][1]
    assert message.published_at == core.broker.now_ms - 2000
    assert core.broker.delays.count == 0


def test_far_ones_are_read_back_from_the_store():
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    hold(core, "q", b"far", 3 * BUCKET_MS)
    hold(core, "q", b"far and transient", 3 * BUCKET_MS + 1, is_persistent=False)
    turn(core)
    assert not core.broker.needs_ticks, "nothing near: no ticks"
    pass_time(core, 3 * BUCKET_MS / 1000 + 1)
    assert bodies(core, "q") == [b"far", b"far and transient"]
    pass_time(core, 2 * BUCKET_MS / 1000)
    assert not core.broker.delays.is_near(core.broker.now_ms), "the empty bucket is gone"


def test_survives_a_restart_but_for_what_is_transient():
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    hold(core, "q", b"kept", 2000)
    hold(core, "q", b"not kept", 2000, is_persistent=False)
    hold(core, "q", b"spilled, not kept", 2 * BUCKET_MS, is_persistent=False)
    turn(core)
    definitions = dict(core.store._definitions)
    lanes = {
        made["lane"]: LaneState(0, 2, 1, 0, 0) for k, made in definitions.items() if '"delay"' in k
    }
    for key, made in definitions.items():
        if '"queue"' in key:
            lanes.update({n: LaneState(0, 0, 0, 0, 0) for n in made["lanes"]})
    again = Broker(core.store, core.clock, lambda: "n")
    again.restore(Recovered(definitions, lanes, 100, 2, "id"))
    core.broker, core.vhost = again, again.vhosts["/"]
    pass_time(core, 2.1)
    assert bodies(core, "q") == [b"kept"]
    pass_time(core, 3 * BUCKET_MS / 1000)
    assert bodies(core, "q") == [b"kept"] and again.delays.count == 0


def test_what_cannot_be_published_when_due_is_kept():
    core = Core()
    core.vhost.declare_exchange("x", "fanout")
    message = Message(
        core.vhost.destination("x", "k"), STOMP, b"", b"m", True, 0, core.broker.now_ms, 0
    )
    core.broker.delays.hold(core.vhost, message, core.broker.now_ms + 100)
    core.vhost.delete_exchange("x")
    pass_time(core, 1)
    assert bodies(core, "dead-letter") == [b"m"]


def test_a_long_delay_is_cut_to_the_bound():
    core = Core()
    hold(core, "q", b"m", DELAY_MS_MAX * 10)
    assert core.broker.delays._keys[0][0] == (core.broker.now_ms + DELAY_MS_MAX) // BUCKET_MS


def test_a_delayed_requeue_comes_back_in_its_place():
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    for body in (b"1", b"2"):
        core.publish("", "q", body, delivery_mode=2)
    taken = core.vhost.get("q", True)
    assert taken is not None
    core.broker.delays.requeue([taken[0]], core.broker.now_ms + 1000)
    pass_time(core, 0.5)
    assert bodies(core, "q") == [b"2"]
    pass_time(core, 0.6)
    assert bodies(core, "q") == [b"1", b"2"]
    assert core.vhost.queues["q"].peek(1)[0][2] == 1


def restarted(core: Core) -> None:
    """Put the broker of what is in the store in the place of this one."""
    definitions = dict(core.store._definitions)
    lanes = {}
    for number, lane in core.store._lanes.items():
        positions = sorted(lane.messages)
        bytes_ = sum(len(message.body) for message in lane.messages.values())
        end = positions[-1] + 1 if positions else 0
        first = positions[0] if positions else 0
        lanes[number] = LaneState(first, end, len(positions), bytes_, end)
    core.broker = Broker(core.store, core.clock, lambda: "n", limits=core.broker.limits)
    core.broker.restore(Recovered(definitions, lanes, 100, 2, "id"))
    core.vhost = core.broker.vhosts["/"]


def give_back_later(core: Core, count: int, delay_ms: int) -> None:
    """Take so many from the head of q and requeue the first and the last of them later."""
    taken = [core.vhost.get("q", True) for _ in range(count)]
    deliveries = [one[0] for one in taken if one is not None]
    core.broker.delays.requeue([deliveries[0], deliveries[-1]], core.broker.now_ms + delay_ms)
    core.broker.requeue(deliveries[1:-1])
    core.turn()


def numbers(count: int, *but: int) -> list[bytes]:
    return [b"%d" % number for number in range(count) if number not in but]


def make_q(core: Core, count: int, **arguments: Any) -> None:
    core.vhost.declare_queue("q", durable=True, arguments=arguments)
    for number in range(count):
        core.publish("", "q", b"%d" % number, delivery_mode=2)
    core.turn()


@pytest.mark.parametrize("depth", [2, 5, 30])
def test_a_delayed_requeue_keeps_its_time_over_restarts(depth):
    core = Core(CoreLimits(window_count=8))
    make_q(core, depth)
    give_back_later(core, depth, 5000)
    for _ in range(2):
        restarted(core)
        queue = core.vhost.queues["q"]
        assert bodies(core, "q") == numbers(depth, 0, depth - 1)
        assert queue.depth == depth - 2 and queue.unsettled_count == 2
        pass_time(core, 2)
    pass_time(core, 2)
    assert bodies(core, "q") == numbers(depth)
    assert queue.depth == depth and not queue.unsettled_count
    assert not [key for key in core.store._definitions if "requeue" in key]
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == numbers(depth)
    assert {one.count for one in sink.taken} == {1}


def test_over_the_delivery_limit_it_dies_when_it_is_due():
    core = Core()
    make_q(core, 3, **{"x-delivery-limit": 0})
    give_back_later(core, 3, 1000)
    restarted(core)
    pass_time(core, 1.1)
    assert bodies(core, "q") == []
    assert sorted(bodies(core, "dead-letter")) == numbers(3)


def test_purge_leaves_what_waits_and_deletion_takes_it_along():
    core = Core()
    make_q(core, 4)
    give_back_later(core, 4, 1000)
    assert core.vhost.purge_queue("q") == 2
    core.turn()
    restarted(core)
    assert bodies(core, "q") == []
    pass_time(core, 1.1)
    assert bodies(core, "q") == [b"0", b"3"]
    give_back_later(core, 2, 1000)
    core.vhost.delete_queue("q")
    core.turn()
    assert not core.store._definitions
    pass_time(core, 1.1)
    restarted(core)
    assert not core.broker.needs_ticks


def test_what_is_not_on_disk_waits_in_memory():
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    core.publish("", "q", b"transient")
    core.publish("", "q", b"held", delivery_mode=2)
    give_back_later(core, 2, 1000)
    assert core.vhost.queues["q"].unsettled_count == 2
    pass_time(core, 1.1)
    assert bodies(core, "q") == [b"transient", b"held"]


def test_too_many_to_remember_wait_in_memory(monkeypatch):
    monkeypatch.setattr("broker.core.delay.REMEMBERED_MAX", 1)
    core = Core()
    make_q(core, 3)
    give_back_later(core, 3, 1000)
    assert len(core.vhost.queues["q"].lane.held) == 1
    pass_time(core, 1.1)
    assert bodies(core, "q") == numbers(3)
    assert core.broker.delays._remembered_count == 0


def test_delay_of():
    assert delay_of("500") == 500 and delay_of(7) == 7
    assert [delay_of(v) for v in (0, -1, "", "x", True, None, 1.5, "٣")] == [None] * 8
