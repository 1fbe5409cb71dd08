"""Order, credit, settling, paging and bounds of a queue."""

from __future__ import annotations

from broker.core.broker import CoreLimits
from broker.core.subscription import Credit
from tests.support.core import Core, RecordingSink


def filled(count: int, **arguments: object) -> Core:
    core = Core()
    core.vhost.declare_queue("q", durable=True, arguments=dict(arguments))
    for n in range(count):
        core.publish("", "q", b"%d" % n, delivery_mode=2)
    return core


def test_credit_bounds_what_is_in_hand() -> None:
    """Never more than the credit is out; settling gives it back."""
    core = filled(10)
    subscription, sink = core.subscribe("q", credit=3)
    core.turn()
    assert sink.bodies() == [b"0", b"1", b"2"]
    core.broker.acknowledge(sink.taken[:2])
    core.turn()
    assert sink.bodies() == [b"0", b"1", b"2", b"3", b"4"]
    assert subscription.unsettled == 3
    core.broker.acknowledge(sink.taken[:2])
    assert subscription.unsettled == 3, "settling twice counts once"


def test_shared_credit_bounds_several_subscriptions() -> None:
    """AMQP's channel-wide prefetch."""
    core = filled(10)
    sink = RecordingSink()
    shared = Credit(4)
    core.subscribe("q", sink=sink, shared=shared)
    core.subscribe("q", sink=sink, shared=shared)
    core.turn()
    assert len(sink.taken) == 4
    core.broker.acknowledge(sink.taken[:1])
    core.turn()
    assert len(sink.taken) == 5


def test_requeue_restores_order_and_marks_redelivered() -> None:
    """Requeued messages come again first, in their old order, counted."""
    core = filled(6)
    subscription, sink = core.subscribe("q", credit=4)
    core.turn()
    core.vhost.unsubscribe(subscription)
    core.broker.requeue([sink.taken[2], sink.taken[0]])
    _, again = core.subscribe("q")
    core.turn()
    assert again.bodies() == [b"0", b"2", b"4", b"5"]
    assert [delivery.count for delivery in again.taken] == [1, 1, 0, 0]


def test_consumers_share_a_backlog() -> None:
    """Round-robin in even shares."""
    core = filled(10)
    _, first = core.subscribe("q")
    _, second = core.subscribe("q")
    core.turn()
    assert len(first.taken) + len(second.taken) == 10
    assert len(second.taken) >= 2


def test_higher_consumer_priority_is_served_first() -> None:
    """Lower ones get what the higher has no credit for."""
    core = filled(5)
    _, low = core.subscribe("q", priority=0)
    _, high = core.subscribe("q", priority=5, credit=3)
    core.turn()
    assert len(high.taken) == 3
    assert len(low.taken) == 2


def test_unwritable_sink_gets_nothing_until_resumed() -> None:
    """A slow reader stops its deliveries."""
    core = filled(2)
    sink = RecordingSink()
    sink.is_writable = False
    core.subscribe("q", sink=sink)
    core.turn()
    assert sink.taken == []
    sink.is_writable = True
    core.broker.resume(sink)
    core.turn()
    assert len(sink.taken) == 2


def test_backlog_beyond_the_window_is_paged_in_order() -> None:
    """What does not fit in memory lies in the store, transient messages too, and comes back in order."""
    core = Core(CoreLimits(window_bytes=1 << 20, window_count=8))
    core.vhost.declare_queue("q", durable=True)
    for n in range(100):
        core.publish("", "q", b"%d" % n, delivery_mode=1 + n % 2)
        if n % 7 == 0:
            core.turn()
    queue = core.vhost.queues["q"]
    assert len(queue.lane.ready) <= 8
    assert queue.depth == 100
    _, sink = core.subscribe("q", credit=5)
    for _ in range(40):
        core.turn()
        core.broker.acknowledge(sink.taken[-5:])
    assert sink.bodies() == [b"%d" % n for n in range(100)]
    assert queue.depth == 0


def test_priorities_are_lanes() -> None:
    """Higher message priority first, order within one."""
    core = Core()
    core.vhost.declare_queue("q", arguments={"x-max-priority": 5})
    for body, priority in ((b"a", 0), (b"b", 5), (b"c", 9), (b"d", 1)):
        core.publish("", "q", body, priority=priority)
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"b", b"c", b"d", b"a"]


def test_length_bound_drops_the_head_or_refuses() -> None:
    """`x-max-length` with both overflows."""
    core = filled(5, **{"x-max-length": 3})
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"2", b"3", b"4"]
    core = filled(0, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    assert core.publish("", "q", b"1") == 1
    assert core.publish("", "q", b"2") == -1


def test_expired_messages_are_not_delivered() -> None:
    """Per-message expiry acts at the head."""
    core = Core()
    core.vhost.declare_queue("q")
    core.publish("", "q", b"short", expiration="1000")
    core.publish("", "q", b"long", expiration="9000")
    core.clock.seconds += 2
    core.broker.tick()
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"long"]


def test_purge_spares_what_is_in_hand() -> None:
    """Purge removes ready messages only, also after a restart."""
    core = filled(5)
    subscription, sink = core.subscribe("q", credit=2)
    core.turn()
    assert core.vhost.purge_queue("q") == 3
    core.turn()
    core.vhost.unsubscribe(subscription)
    core.broker.requeue(sink.taken)
    assert core.vhost.queues["q"].depth == 2


def test_get_takes_one_and_says_how_many_are_left() -> None:
    """`basic.get` with and without acknowledgement."""
    core = filled(3)
    taken = core.vhost.get("q", True)
    assert taken is not None
    delivery, left = taken
    assert (delivery.message.body, left) == (b"0", 2)
    core.broker.requeue([delivery])
    again = core.vhost.get("q", False)
    assert again is not None
    assert (again[0].message.body, again[0].count, again[1]) == (b"0", 1, 2)


def test_peek_takes_nothing() -> None:
    """Looking leaves everything where it is."""
    core = filled(3)
    assert [message.body for _, message, _ in core.vhost.queues["q"].peek(2)] == [b"0", b"1"]
    assert core.vhost.queues["q"].depth == 3


def test_single_active_consumer_serves_the_first_alone() -> None:
    """The second takes over when the first leaves."""
    core = filled(2, **{"x-single-active-consumer": True})
    first, one = core.subscribe("q", credit=1)
    _, two = core.subscribe("q")
    core.turn()
    assert (one.bodies(), two.bodies()) == ([b"0"], [])
    core.vhost.unsubscribe(first)
    core.turn()
    assert two.bodies() == [b"1"]


def test_time_to_live_of_zero_reaches_who_waits() -> None:
    """RabbitMQ: expiration 0 is delivered at once or never."""
    core = Core()
    core.vhost.declare_queue("q")
    subscription, sink = core.subscribe("q", credit=1)
    core.publish("", "q", b"now", expiration="0")
    core.publish("", "q", b"too late", expiration="0")
    core.turn()
    core.clock.seconds += 0.01
    core.turn()
    core.broker.acknowledge(sink.taken)
    core.turn()
    assert sink.bodies() == [b"now"]
    assert subscription.unsettled == 0


def test_a_backlog_is_read_in_growing_parts():
    core = Core(CoreLimits(window_bytes=1 << 20, window_count=400))
    core.vhost.declare_queue("q", durable=True)
    for number in range(1000):
        core.publish("", "q", b"%d" % number, delivery_mode=2)
    core.turn()
    asked = []

    class Watched:
        def __init__(self, store):
            self.store = store

        def __getattr__(self, name):
            return getattr(self.store, name)

        def read(self, lane, first, count_max, bytes_max):
            asked.append(count_max)
            return self.store.read(lane, first, count_max, bytes_max)

    core.store = core.broker.store = Watched(core.store)
    _, sink = core.subscribe("q")
    core.turn()
    assert sink.bodies() == [b"%d" % number for number in range(1000)]
    assert asked[:4] == [16, 64, 100, 100]
    core.publish("", "q", b"last", delivery_mode=2)
    core.turn()
    assert core.vhost.queues["q"].lane.load_count == 16, "the next backlog begins anew"
