from __future__ import annotations

import pytest

from broker.core.broker import CoreLimits
from broker.core.message import Message
from broker.core.selector import Selector
from broker.core.subscription import Credit, Subscription
from broker.wire.properties import STOMP
from tests.support.core import Core, RecordingSink

SMALL = CoreLimits(window_bytes=1 << 20, window_count=8)


class BrowsingSink(RecordingSink):
    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    def browsed(self, subscription) -> None:
        self.ended += 1


class House:
    def __init__(self, limits: CoreLimits | None = None, **arguments) -> None:
        self.core = Core(limits)
        self.queue = self.core.vhost.declare_queue("q", durable=True, arguments=arguments)

    def publish(self, *names: str, block: str = "", priority: int = 0, expires_at: int = 0) -> None:
        for name in names:
            self.core.vhost.publish(
                Message(
                    self.core.vhost.destination("", "q"),
                    STOMP,
                    f"kind:{name[0]}\n{block}".encode(),
                    name.encode(),
                    True,
                    priority,
                    self.core.broker.now_ms,
                    expires_at,
                )
            )
        self.turn()

    def subscribe(self, selector: str = "", sink=None, credit=1000, acks=True, **options):
        sink = sink or RecordingSink()
        subscription = Subscription(
            sink,
            "t",
            is_acknowledged=acks,
            credit=credit,
            selector=Selector(selector) if selector else None,
            **options,
        )
        self.core.vhost.subscribe("q", subscription)
        self.turn()
        return sink, subscription

    def turn(self) -> None:
        broker = self.core.broker
        for _ in range(200):
            broker.dispatch()
            self.core.store.commit(broker.take_unit())
            if not (broker.touched or broker.has_changes):
                return
        raise AssertionError("the broker does not come to rest")


def names(sink) -> str:
    return " ".join(delivery.message.body.decode() for delivery in sink.taken)


def test_each_gets_what_it_selects_and_the_rest_stays():
    house = House()
    a, _ = house.subscribe("kind = 'a'")
    b, _ = house.subscribe("kind = 'b'")
    house.publish("a1", "c1", "b1", "a2", "c2")
    assert (names(a), names(b)) == ("a1 a2", "b1")
    assert house.queue.depth == 2
    rest, _ = house.subscribe()
    assert names(rest) == "c1 c2"


def test_a_message_is_looked_at_once():
    house = House()
    looks = []

    class Counting:
        def matches(self, message):
            looks.append(message.body)
            return False

    _, subscription = house.subscribe("kind = 'x'")
    subscription.selector = Counting()
    for number in range(20):
        house.publish(f"a{number}")
    assert len(looks) == 20


def test_beyond_the_window_in_memory():
    house = House(SMALL)
    house.publish(*[f"a{n}" for n in range(100)], "b1", *[f"a{n}" for n in range(50)], "b2")
    b, subscription = house.subscribe("kind = 'b'", credit=1)
    assert names(b) == "b1"
    house.core.broker.acknowledge([b.taken[0]])
    house.turn()
    assert names(b) == "b1 b2"
    house.core.broker.requeue([b.taken[1]])
    house.turn()
    assert names(b) == "b1 b2 b2" and b.taken[2].count == 1
    rest, _ = house.subscribe(acks=False)
    assert len(rest.taken) == 150 and house.queue.depth == 0
    house.core.vhost.unsubscribe(subscription)
    house.core.broker.release([b.taken[2]])
    house.turn()
    assert names(rest).endswith("b2") and house.queue.depth == 0
    assert house.queue.lane.unsettled == {}


def test_taken_from_the_store_and_not_read_again():
    house = House(SMALL)
    house.publish(*[f"a{n}" for n in range(30)], "b1", "b2")
    b, subscription = house.subscribe("kind = 'b'")
    assert names(b) == "b1 b2"
    house.core.vhost.unsubscribe(subscription)
    # Acknowledged in the turn in which the store is read.
    house.core.broker.acknowledge([b.taken[0]])
    rest, _ = house.subscribe(acks=False)
    assert len(rest.taken) == 30 and "b" not in names(rest)
    assert house.core.vhost.get("q", True) is None


def test_what_is_acknowledged_in_this_turn_is_not_read_again():
    house = House(SMALL)
    house.publish(*[f"a{n}" for n in range(8)], "b1", "b2", "a8", "a9")
    b, subscription = house.subscribe("kind = 'b'")
    house.core.vhost.unsubscribe(subscription)
    house.core.broker.acknowledge(list(b.taken))
    rest, _ = house.subscribe(acks=False)
    assert names(rest) == " ".join(f"a{n}" for n in range(10)) and house.queue.depth == 0


def test_what_was_not_looked_at_keeps_its_place():
    house = House()
    house.publish("c1", "a1", "a2", "c2", "a3")
    house.subscribe("kind = 'a'", credit=1)
    assert [m.body for _, m, _ in house.queue.peek(9)] == [b"c1", b"a2", b"c2", b"a3"]


def test_put_back_from_beyond_the_window_is_given_in_its_place():
    house = House(SMALL)
    house.publish(*[f"a{n}" for n in range(30)], "b1", "a30")
    b, subscription = house.subscribe("kind = 'b'")
    house.core.vhost.unsubscribe(subscription)
    house.core.broker.requeue([b.taken[0]])
    house.turn()
    assert house.queue.depth == 32
    rest, _ = house.subscribe()
    assert names(rest).split()[-2:] == ["b1", "a30"] and len(rest.taken) == 32
    assert next(d for d in rest.taken if d.message.body == b"b1").count == 1


def test_shares_go_round_and_priority_goes_first():
    house = House()
    one, _ = house.subscribe("kind = 'a'")
    two, _ = house.subscribe("kind = 'a'")
    house.publish("a1", "a2", "a3", "a4")
    assert {len(one.taken), len(two.taken)} == {2}
    high, _ = house.subscribe("kind = 'a'", priority=5, credit=1)
    house.publish("a5", "a6")
    assert names(high) == "a5"


def test_shared_credit_is_counted():
    house = House()
    shared = Credit(1)
    sink, _ = house.subscribe("kind = 'a'", shared=shared)
    house.publish("a1", "a2")
    assert names(sink) == "a1" and shared.left == 0
    house.core.broker.acknowledge(list(sink.taken))
    house.turn()
    assert names(sink) == "a1 a2"


def test_an_expired_message_is_not_given():
    house = House()
    a, _ = house.subscribe("kind = 'a'", credit=1)
    house.publish("b1", "a1")
    house.publish("a2", expires_at=house.core.broker.now_ms + 1000)
    house.core.clock.seconds += 2
    house.core.broker.tick()
    house.core.broker.acknowledge([a.taken[0]])
    house.turn()
    assert names(a) == "a1" and house.queue.depth == 1


def test_priority_lanes():
    house = House(**{"x-max-priority": 2})
    house.publish("a1", "b1")
    house.publish("a2", "b2", priority=2)
    a, _ = house.subscribe("kind = 'a'")
    assert names(a) == "a2 a1"


def test_a_preferred_consumer_gets_all_until_it_leaves():
    house = House()
    one, _ = house.subscribe()
    two, preferred = house.subscribe(is_preferred=True)
    three, _ = house.subscribe(is_preferred=True)
    house.publish("a1", "a2")
    assert (names(one), names(two), names(three)) == ("", "a1 a2", "")
    house.core.vhost.unsubscribe(preferred)
    house.publish("a3")
    assert names(three) == "a3"


def group(house: House, name: str, *bodies: str, seq: str = "") -> None:
    block = f"JMSXGroupID:{name}\n" + (f"JMSXGroupSeq:{seq}\n" if seq else "")
    house.publish(*bodies, block=block)


def test_a_group_stays_with_one_consumer():
    house = House()
    house.core.vhost.group(house.queue)
    one, first = house.subscribe()
    two, _ = house.subscribe()
    for number in range(3):
        group(house, "g", f"g{number}")
        group(house, "h", f"h{number}")
    assert {names(one), names(two)} == {"g0 g1 g2", "h0 h1 h2"}
    house.core.vhost.unsubscribe(first)
    house.core.broker.release(list(one.taken))
    house.turn()
    assert len(two.taken) == 6


def test_a_group_waits_for_its_consumer_and_is_free_when_closed():
    house = House()
    house.core.vhost.group(house.queue)
    one, _ = house.subscribe(credit=1)
    group(house, "g", "g1")
    two, _ = house.subscribe()
    group(house, "g", "g2")
    group(house, "g", "g3", seq="-1")
    group(house, "g", "g4")
    assert (names(one), names(two)) == ("g1", "")
    for _ in range(2):
        house.core.broker.acknowledge([one.taken[-1]])
        house.turn()
    assert (names(one), names(two)) == ("g1 g2 g3", "g4")


def test_groups_are_known_after_a_restart():
    house = House()
    house.core.vhost.group(house.queue)
    made = house.queue.definition()
    assert made["grouped"] is True
    del house.core.vhost.queues["q"]
    again = house.core.vhost.restore_queue("q", made, house.queue.lanes)
    assert again.choice is not None and again.choice.is_grouped


@pytest.mark.parametrize("limits", [None, SMALL])
def test_browsing_shows_what_waits_and_takes_nothing(limits):
    house = House(limits)
    house.publish(*[f"a{n}" for n in range(60)])
    taken = house.core.vhost.get("q", True)
    assert taken is not None
    sink = BrowsingSink()
    browser = Subscription(sink, "b", is_acknowledged=False)
    house.core.vhost.browse("q", browser, sink)
    house.publish("late")
    assert names(sink) == " ".join(f"a{n}" for n in range(1, 60)) and sink.ended == 1
    assert house.queue.depth == 60 and browser.queue is None
    assert not house.queue.choice.is_active


def test_browsing_waits_for_a_slow_reader_and_ends_with_its_queue():
    house = House()
    house.publish("a1", "b1")
    sink = BrowsingSink()
    sink.is_writable = False
    browser = Subscription(sink, "b", is_acknowledged=False, selector=Selector("kind = 'b'"))
    house.core.vhost.browse("q", browser, sink)
    house.turn()
    assert sink.taken == [] and sink.ended == 0
    sink.is_writable = True
    house.core.broker.resume(sink)
    house.turn()
    assert names(sink) == "b1" and sink.ended == 1
    sink.is_writable = False
    house.core.vhost.browse("q", browser, sink)
    house.core.vhost.delete_queue("q")
    assert sink.ended == 2
    house.core.vhost.end_browsing(browser)


def test_browsing_an_empty_queue_ends_at_once():
    house = House()
    sink = BrowsingSink()
    house.core.vhost.browse("q", Subscription(sink, "b", is_acknowledged=False), sink)
    house.turn()
    assert sink.taken == [] and sink.ended == 1
