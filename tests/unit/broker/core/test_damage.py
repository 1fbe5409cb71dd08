"""Stored messages that cannot be read: their queue stands still and says so once, all others go on in the same turn."""

import logging

import pytest

from broker.core.broker import CoreLimits
from broker.core.delay import BUCKET_MS
from broker.core.message import Message
from broker.core.selector import Selector
from broker.wire.properties import STOMP
from store.errors import Corrupt
from tests.support.core import Core

LIMITS = CoreLimits(window_bytes=1 << 20, window_count=4)


class Damaged:
    """A store of which some lanes cannot be read."""

    def __init__(self, store):
        self._store = store
        self.lanes = set()
        self.error = Corrupt("/store/segments/7.seg", 4096, "messages fail their checksum")

    def read(self, lane, first, count_max, bytes_max):
        if lane in self.lanes:
            raise self.error
        return self._store.read(lane, first, count_max, bytes_max)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def core():
    made = Core(LIMITS)
    made.store = made.broker.store = Damaged(made.store)
    for name in ("bad", "good"):
        made.vhost.declare_queue(name, durable=True, arguments={"x-max-priority": 1})
        for number in range(10):
            made.publish("", name, b"%d" % number, delivery_mode=2)
    made.turn()
    made.store.lanes = {made.vhost.queues["bad"].lanes[0].number}
    return made


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error")])
def test_the_others_of_the_turn_go_on(core, caplog, error):
    core.store.error = error or core.store.error
    (_, bad), (_, good) = core.subscribe("bad"), core.subscribe("good")
    core.publish("", "good", b"new", delivery_mode=2)
    with caplog.at_level(logging.ERROR):
        for _ in range(6):
            core.turn()
    assert good.bodies() == [b"%d" % n for n in range(10)] + [b"new"]
    assert bad.bodies() == [b"%d" % n for n in range(4)], "what was in memory"
    assert core.durable[-1] == core.store.commit(core.broker.take_unit())
    (record,) = caplog.records
    assert "queue bad stands still" in record.message and str(core.store.error) in record.message
    assert core.vhost.queues["bad"].depth == 6, "nothing is taken for gone"


def test_whoever_looks_at_it_gets_what_there_is(core):
    queue = core.vhost.queues["bad"]
    assert [message.body for _, message, _ in queue.peek(100)] == [b"%d" % n for n in range(4)]
    taken = [queue.take(is_acknowledged=False) for _ in range(5)]
    assert [one.message.body for one in taken[:4]] == [b"%d" % n for n in range(4)]
    assert taken[4] is None and queue.depth == 6
    core.publish("", "bad", b"urgent", delivery_mode=2, priority=1)
    _, sink = core.subscribe("bad")
    core.turn()
    assert sink.bodies() == [b"urgent"], "another lane is served"


def test_it_goes_on_when_it_can_be_read_again(core):
    _, sink = core.subscribe("bad")
    core.turn()
    core.store.lanes.clear()
    core.publish("", "bad", b"new", delivery_mode=2)
    core.turn()
    assert sink.bodies() == [b"%d" % n for n in range(10)] + [b"new"]


def test_a_browser_or_a_selector_over_damage_stops_nobody(core):
    core.subscribe("bad", selector=Selector("a = 1"), credit=5)
    _, good = core.subscribe("good")
    core.turn()
    assert len(good.taken) == 10


def test_expiry_and_bounds_over_damage_stop_no_timer(core):
    settings = {"x-message-ttl": 1000, "x-max-length": 5}
    core.vhost.declare_queue("ttl", durable=True, arguments=settings)
    core.vhost.declare_queue("well", durable=True, arguments={"x-message-ttl": 1000})
    for name in ("ttl", "well"):
        for number in range(5):
            core.publish("", name, b"%d" % number, delivery_mode=2)
    core.turn()
    core.store.lanes.add(core.vhost.queues["ttl"].lane.number)
    core.publish("", "ttl", b"over the bound", delivery_mode=2)
    core.clock.seconds += 5
    for _ in range(4):
        core.broker.tick()
        core.turn()
    assert core.vhost.queues["well"].depth == 0


def test_a_delayed_message_that_cannot_be_read_stays_in_the_store(core):
    now = core.broker.now_ms
    for number, due_ms in enumerate((3 * BUCKET_MS, 4 * BUCKET_MS)):
        destination = core.vhost.destination("", "good")
        message = Message(destination, STOMP, b"a:b\n", b"late %d" % number, True, 0, now, 0)
        core.broker.delays.hold(core.vhost, message, now + due_ms)
    core.turn()
    first = min(bucket.lane for bucket in core.broker.delays._buckets.values())
    core.store.lanes = {first}
    _, sink = core.subscribe("good")
    for _ in range(8):
        core.clock.seconds += BUCKET_MS / 1000
        core.broker.tick()
        core.turn()
    assert sink.bodies()[10:] == [b"late 1"], "the other bucket goes on"
    core.store.lanes.clear()
    core.broker.tick()
    core.turn()
    assert sink.bodies()[10:] == [b"late 1", b"late 0"]
