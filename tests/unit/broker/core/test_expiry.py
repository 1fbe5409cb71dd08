"""Time to live of messages and queues, bounds in bytes, and how a flood of expired messages is spread over turns."""

from __future__ import annotations

from broker.core.broker import CoreLimits
from broker.core.expiry import EXPIRE_MAX
from tests.support.core import Core, RecordingSink


def tick(core: Core, seconds: float = 0.0) -> None:
    core.clock.seconds += seconds
    if core.broker.needs_ticks:
        core.broker.tick()
    core.turn()


def test_nothing_is_looked_at_before_its_time() -> None:
    core = Core()
    core.vhost.declare_queue("q", arguments={"x-message-ttl": 60_000, "x-expires": 90_000})
    core.publish("", "q", b"1")
    assert not core.broker.needs_ticks
    core.clock.seconds += 60.1
    assert core.broker.needs_ticks


def test_an_expired_message_in_the_middle_of_a_run_is_not_delivered() -> None:
    core = Core()
    core.vhost.declare_queue("q")
    for body, expiration in ((b"a", None), (b"b", "100"), (b"c", None)):
        core.publish("", "q", body, expiration=expiration)
    core.clock.seconds += 1
    core.broker.now_ms = core.clock.wall_ms()
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"a", b"c"]


def test_a_message_behind_a_living_head_expires_when_it_becomes_the_head() -> None:
    core = Core()
    core.vhost.declare_queue("q")
    core.vhost.declare_queue("d")
    core.vhost.delete_queue("q")
    core.vhost.declare_queue(
        "q", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "d"}
    )
    core.publish("", "q", b"head")
    core.publish("", "q", b"behind", expiration="500")
    tick(core, 1)
    assert core.vhost.queues["q"].depth == 2, "RabbitMQ: expiry acts at the head"
    taken = core.vhost.get("q", True)
    assert taken is not None
    tick(core, 0.15)
    assert core.vhost.queues["q"].depth == 0
    assert core.vhost.queues["d"].depth == 1


def test_what_comes_back_expired_from_a_consumer_is_not_delivered_again() -> None:
    core = Core()
    core.vhost.declare_queue("q")
    core.publish("", "q", b"m", expiration="100")
    subscription, sink = core.subscribe("q")
    core.turn()
    tick(core, 0.2)
    core.vhost.unsubscribe(subscription)
    core.broker.release(sink.taken)
    _, again = core.subscribe("q")
    tick(core)
    assert again.bodies() == []
    assert core.vhost.queues["q"].depth == 0


def test_a_flood_of_expired_messages_takes_many_short_turns() -> None:
    core = Core(CoreLimits(window_bytes=1 << 20, window_count=1000))
    core.vhost.declare_queue("d", durable=True)
    core.vhost.declare_queue(
        "q",
        durable=True,
        arguments={
            "x-message-ttl": 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "d",
        },
    )
    for n in range(5000):
        core.publish("", "q", b"%d" % n, delivery_mode=2)
    core.turn()
    core.clock.seconds += 2
    core.broker.tick()
    turns = 0
    while core.vhost.queues["q"].depth:
        before = core.vhost.queues["q"].depth
        core.broker.now_ms = core.clock.wall_ms()
        core.broker.dispatch()
        core.store.commit(core.broker.take_unit())
        assert before - core.vhost.queues["q"].depth <= EXPIRE_MAX
        turns += 1
    assert turns >= 5000 // EXPIRE_MAX - 1
    assert core.vhost.queues["d"].depth == 5000
    assert core.broker.metrics.expired_count == 5000


def test_expiry_acts_within_a_tenth_of_a_second_after_a_restart() -> None:
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    core.publish("", "q", b"1", delivery_mode=2, expiration="1000")
    core.turn()
    queue = core.vhost.queues["q"]
    # As a restart leaves it: all in the store, nothing known about it.
    queue.lane.ready.clear()
    queue.lane.paged_count, queue.lane.paged_from, queue.has_expiry = 1, 0, False
    queue.look_at_ms = 0
    core.broker.watch(queue, core.broker.now_ms + 1)
    tick(core, 0.1)
    assert queue.depth == 1
    tick(core, 0.9)
    tick(core, 0.1)
    assert queue.depth == 0


def test_the_look_after_a_restart_brings_no_window_into_memory() -> None:
    core = Core()
    core.vhost.declare_queue("q", durable=True)
    for number in range(50):
        expiration = "1000" if number == 1 else None
        core.publish("", "q", b"%d" % number, delivery_mode=2, expiration=expiration)
    core.turn()
    queue = core.vhost.queues["q"]
    queue.lane.ready.clear()
    queue.lane.paged_count, queue.lane.paged_from, queue.has_expiry = 50, 0, False
    queue.look_at_ms = 0
    core.broker.watch(queue, core.broker.now_ms + 1)
    tick(core, 0.1)
    assert not queue.lane.ready and queue.depth == 50
    assert not core.broker.needs_ticks, "its head never expires"
    tick(core, 2)
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"%d" % number for number in range(50) if number != 1]


def test_a_queue_expires_when_nobody_uses_it() -> None:
    core = Core()
    core.vhost.declare_queue("q", arguments={"x-expires": 1000})
    subscription, _ = core.subscribe("q")
    tick(core, 5)
    assert "q" in core.vhost.queues
    core.vhost.unsubscribe(subscription)
    tick(core, 0.9)
    core.vhost.get("q", True)
    tick(core, 0.9)
    core.vhost.declare_queue("q", arguments={"x-expires": 1000})
    tick(core, 0.9)
    assert "q" in core.vhost.queues, "a get and a declaration count as use"
    tick(core, 0.2)
    assert "q" not in core.vhost.queues


def test_bytes_are_exact_whether_in_memory_or_not() -> None:
    core = Core(CoreLimits(window_bytes=1 << 20, window_count=4))
    core.vhost.declare_queue("q", durable=True, arguments={"x-max-length-bytes": 100})
    for n in range(50):
        core.publish("", "q", b"%010d" % n, delivery_mode=2)
        core.turn()
        assert core.vhost.queues["q"].ready_bytes == min(n + 1, 10) * 10
    _, sink = core.subscribe("q", is_acknowledged=False)
    for _ in range(5):
        core.turn()
    assert sink.bodies() == [b"%010d" % n for n in range(40, 50)]
    assert core.vhost.queues["q"].ready_bytes == 0


def test_bytes_are_counted_anew_only_when_a_restart_left_a_guess() -> None:
    core = Core(CoreLimits(window_bytes=1 << 20, window_count=4))
    core.vhost.declare_queue(
        "q", durable=True, arguments={"x-max-length-bytes": 100, "x-overflow": "reject-publish"}
    )
    for n in range(9):
        core.publish("", "q", b"%010d" % n, delivery_mode=2)
    core.turn()
    lane = core.vhost.queues["q"].lane
    lane.ready.clear()
    lane.bytes, lane.paged_from, lane.paged_count = 0, 0, 9
    lane.paged_bytes, lane.is_exact = 999, False
    assert core.publish("", "q", b"0123456789") == 1
    assert lane.is_exact
    assert core.publish("", "q", b"0123456789") == -1


def test_who_waits_takes_before_a_full_queue_drops_or_refuses() -> None:
    for overflow in ("drop-head", "reject-publish"):
        core = Core()
        core.vhost.declare_queue("q", arguments={"x-max-length": 1, "x-overflow": overflow})
        _, sink = core.subscribe("q")
        for n in range(5):
            assert core.publish("", "q", b"%d" % n) == 1
        core.turn()
        assert len(sink.taken) == 5


def test_a_requeue_over_the_bound_drops_the_head() -> None:
    core = Core()
    core.vhost.declare_queue("q", arguments={"x-max-length": 2})
    core.publish("", "q", b"0")
    taken = core.vhost.get("q", True)
    assert taken is not None
    for n in range(1, 3):
        core.publish("", "q", b"%d" % n)
    core.broker.requeue([taken[0]])
    assert core.vhost.queues["q"].depth == 2


def test_the_next_single_active_consumer_is_the_one_of_highest_priority() -> None:
    core = Core()
    core.vhost.declare_queue("q", arguments={"x-single-active-consumer": True})
    first, one = core.subscribe("q", credit=1, priority=0)
    _, low = core.subscribe("q", priority=1)
    _, high = core.subscribe("q", priority=9)
    core.publish("", "q", b"1")
    core.turn()
    assert one.bodies() == [b"1"], "a higher one does not take over by itself"
    core.vhost.unsubscribe(first)
    core.publish("", "q", b"2")
    core.turn()
    assert (low.bodies(), high.bodies()) == ([], [b"2"])


def test_dead_letter_exchanges_that_feed_each_other_come_to_an_end() -> None:
    """A ring of 150 queues of length 0: each drops into the next."""
    core = Core()
    count = 150
    for n in range(count):
        core.vhost.declare_queue(
            f"q{n}",
            arguments={
                "x-max-length": 0,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"q{(n + 1) % count}",
            },
        )
    core.publish("", "q0", b"x")
    core.turn()
    assert not core.broker.letters
    assert sum(queue.depth for queue in core.vhost.queues.values()) == 0


def test_a_turn_loads_one_window_of_large_bodies() -> None:
    """What a peer that is fast to take gets at once is bounded by bytes, not by its prefetch."""
    core = Core(CoreLimits(window_bytes=1 << 16, window_count=1000))
    core.vhost.declare_queue("q", durable=True)
    for _ in range(64):
        core.publish("", "q", bytes(1 << 14), delivery_mode=2)
    core.turn()
    sink = RecordingSink()
    core.subscribe("q", sink=sink)
    core.broker.dispatch()
    assert sum(len(body) for body in sink.bodies()) <= 3 << 16
    for _ in range(40):
        core.turn()
    assert len(sink.taken) == 64
