"""The broker's memory budget: windows shrink, the alarm rises and ends, nothing is lost or doubled by it."""

from broker.core.broker import CoreLimits
from tests.support.core import Core

MIB = 1 << 20


def core(memory_bytes, **more):
    return Core(CoreLimits(memory_bytes=memory_bytes, **more))


def fill(made, queues, count, size, mode=2):
    for number in range(queues):
        name = f"q{number}"
        if name not in made.vhost.queues:
            made.vhost.declare_queue(name, durable=True)
        for serial in range(count):
            made.publish("", name, b"%06d" % serial + bytes(size - 6), delivery_mode=mode)
    made.turn()


def test_windows_of_many_queues_shrink_until_all_fit():
    made = core(MIB)
    fill(made, 20, 100, 1000)
    memory = made.broker.memory
    before = 20 * 100 * 1000
    for _ in range(12):
        memory.look()
        assert not memory.is_alarmed or memory.used_bytes > MIB
    assert memory.used_bytes < 0.6 * MIB < before and not memory.is_alarmed
    assert memory.idle.bytes < 60_000
    assert all(queue.depth == 100 for queue in made.vhost.queues.values())
    made.vhost.declare_queue("new", durable=True)
    assert made.vhost.queues["new"].window_bytes == memory.idle.bytes


def test_queues_that_are_consumed_from_have_larger_windows():
    made = core(MIB)
    for number in range(20):
        made.vhost.declare_queue(f"q{number}", durable=True)
        if number < 10:
            # Without credit: the backlog stays.
            made.subscribe(f"q{number}", credit=0)
    fill(made, 20, 100, 1000)
    memory = made.broker.memory
    for _ in range(20):
        memory.look()
    in_memory = [len(made.vhost.queues[f"q{number}"].lane.ready) for number in range(20)]
    assert memory.used_bytes < 0.6 * MIB and memory.idle.bytes < memory.window.bytes
    assert max(in_memory[10:]) * 2 < min(in_memory[:10])
    assert sum(in_memory[10:]) * 1700 < 0.04 * MIB
    assert all(queue.depth == 100 for queue in made.vhost.queues.values())


def test_many_queues_are_visited_in_rounds():
    made = core(8 * MIB)
    fill(made, 2500, 3, 1000)
    memory = made.broker.memory
    memory.look()
    assert memory.used_bytes == 1000 * 3 * 1700, "a part of the round"
    assert len({queue.window_bytes for queue in made.vhost.queues.values()}) == 1
    for _ in range(2):
        memory.look()
    assert memory.used_bytes == (1000 * 3 + 1500 * 2) * 1700, "windows shrank within the round"
    for _ in range(60):
        memory.look()
    assert 2500 * 1700 <= memory.used_bytes < 2 * 2500 * 1700
    assert all(queue.depth == 3 for queue in made.vhost.queues.values())


def test_what_was_let_go_is_delivered_in_order_and_once():
    made = core(MIB)
    fill(made, 3, 1000, 1000)
    for _ in range(12):
        made.broker.memory.look()
    fill(made, 3, 10, 1000)
    for number in range(3):
        _, sink = made.subscribe(f"q{number}")
        made.turn()
        wanted = [b"%06d" % n for n in [*range(1000), *range(10)]]
        assert [body[:6] for body in sink.bodies()] == wanted
        assert not any(delivery.count for delivery in sink.taken)


def test_windows_grow_back_when_there_is_room():
    made = core(MIB)
    fill(made, 3, 1000, 1000)
    for _ in range(12):
        made.broker.memory.look()
    for number in range(3):
        made.vhost.purge_queue(f"q{number}")
    made.turn()
    for _ in range(20):
        made.broker.memory.look()
    assert made.broker.memory.idle.bytes == 8 * MIB and not made.broker.memory.resident


def test_what_consumers_hold_raises_the_alarm_until_they_settle():
    made = core(MIB)
    made.vhost.declare_queue("q0", durable=True)
    _, sink = made.subscribe("q0")
    fill(made, 1, 1000, 2000)
    memory = made.broker.memory
    assert memory.look() and memory.is_alarmed
    assert made.broker.blocked_reason == "low on memory"
    made.broker.acknowledge(sink.taken[:300])
    assert not memory.look() and memory.is_alarmed, "not before the lower mark"
    made.broker.acknowledge(sink.taken[300:800])
    assert memory.look() and not memory.is_alarmed
    assert made.broker.blocked_reason is None


def test_messages_that_were_handed_out_and_transient_ones_stay():
    made = core(MIB)
    made.vhost.declare_queue("q0", durable=True)
    fill(made, 1, 5, 60_000)
    subscription, sink = made.subscribe("q0", credit=5)
    made.turn()
    made.vhost.unsubscribe(subscription)
    made.broker.release(sink.taken)
    made.turn()
    fill(made, 1, 10, 60_000, mode=1)
    for _ in range(12):
        made.broker.memory.look()
    queue = made.vhost.queues["q0"]
    assert len(queue.lane.ready) == 15 and queue.lane.paged_count == 0
    fill(made, 1, 3, 60_000, mode=1)
    assert queue.lane.paged_count == 3, "what comes then goes to the store"


def test_both_alarms_are_named():
    made = core(MIB)
    assert made.broker.blocked_reason is None
    made.store.is_blocked = True
    assert made.broker.blocked_reason == "low on disk"
    made.broker.memory.is_alarmed = True
    assert made.broker.blocked_reason == "low on memory & disk"
