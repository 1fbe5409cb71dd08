from __future__ import annotations

from broker.core.broker import Broker
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


def test_delay_of():
    assert delay_of("500") == 500 and delay_of(7) == 7
    assert [delay_of(v) for v in (0, -1, "", "x", True, None, 1.5, "٣")] == [None] * 8
