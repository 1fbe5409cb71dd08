"""Selective queues against a plain model: who asks for what gets it once, in order; the rest waits; nothing is lost."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from broker.core.broker import CoreLimits
from broker.core.message import Message
from broker.core.selector import Selector
from broker.core.subscription import Subscription
from broker.wire.properties import STOMP
from tests.support.core import Core, RecordingSink

KINDS = "abc"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(KINDS), st.integers(1, 12)),
        st.tuples(st.just("subscribe"), st.sampled_from([*KINDS, ""]), st.integers(1, 6)),
        st.tuples(st.just("leave"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("acknowledge"), st.integers(0, 5), st.integers(1, 9)),
        st.tuples(st.just("requeue"), st.integers(0, 5), st.integers(1, 9)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
        st.tuples(st.just("get"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


class Model:
    def __init__(self) -> None:
        self.core = Core(CoreLimits(window_bytes=1 << 20, window_count=8))
        self.queue = self.core.vhost.declare_queue(
            "q", durable=True, arguments={"x-delivery-limit": -1}
        )
        self.published: list[bytes] = []
        self.settled: set[bytes] = set()
        self.peers: list[tuple[RecordingSink, Subscription, str]] = []
        self.held: dict[int, list] = {}

    def turn(self) -> None:
        broker = self.core.broker
        for _ in range(300):
            broker.dispatch()
            self.collect()
            self.core.store.commit(broker.take_unit())
            if not (broker.touched or broker.has_changes):
                return
        raise AssertionError("the broker does not come to rest")

    def collect(self) -> None:
        """Take note of what the consumers were given."""
        for sink, subscription, kind in self.peers:
            taken, sink.taken = sink.taken, []
            for delivery in taken:
                body = delivery.message.body
                assert not kind or body[:1].decode() == kind, "not what it selects"
                assert body not in self.settled, "given after it was settled"
                assert all(d.message.body != body for h in self.held.values() for d in h), (
                    "in two hands"
                )
                self.held.setdefault(id(sink), []).append(delivery)
            assert subscription.credit >= 0

    def waiting(self) -> set[bytes]:
        held = {d.message.body for h in self.held.values() for d in h}
        return set(self.published) - self.settled - held

    def check(self) -> None:
        assert self.queue.depth == len(self.waiting())
        assert [m.body for _, m, _ in self.queue.peek(10_000)] == [
            body for body in self.published if body in self.waiting()
        ], "what waits is all there, in order"
        for _, subscription, kind in self.peers:
            if subscription.room() > 0:
                missed = [b for b in self.waiting() if not kind or b[:1].decode() == kind]
                assert not missed, f"{missed} wait though a consumer has room"

    def do(self, step) -> None:
        name, one, two = step
        if name == "publish":
            for _ in range(two):
                body = f"{one}{len(self.published)}".encode()
                self.published.append(body)
                destination = self.core.vhost.destination("", "q")
                block = b"kind:%b\n" % one.encode()
                self.core.vhost.publish(
                    Message(destination, STOMP, block, body, True, 0, self.core.broker.now_ms, 0)
                )
        elif name == "subscribe":
            sink = RecordingSink()
            selector = Selector(f"kind = '{one}'") if one else None
            made = Subscription(sink, "t", is_acknowledged=True, credit=two, selector=selector)
            self.core.vhost.subscribe("q", made)
            self.peers.append((sink, made, one))
        elif name == "turn":
            self.turn()
            self.check()
        elif name == "get":
            # Who waits in the queue is served before.
            taken = self.core.vhost.get("q", False)
            self.collect()
            if taken is not None:
                body = taken[0].message.body
                assert body in self.waiting()
                self.settled.add(body)
        elif self.peers:
            self.settle(name, one % len(self.peers), two)

    def settle(self, name, index, count) -> None:
        sink, subscription, _ = self.peers[index]
        held = self.held.setdefault(id(sink), [])
        if name == "leave":
            self.core.vhost.unsubscribe(subscription)
            del self.peers[index]
            self.core.broker.release(list(held))
            held.clear()
            return
        some = held[:count]
        del held[:count]
        if name == "acknowledge":
            self.core.broker.acknowledge(some)
            self.settled.update(d.message.body for d in some)
        else:
            self.core.broker.requeue(some)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_selective_queue_keeps_to_the_model(steps):
    model = Model()
    for step in steps:
        model.do(step)
    model.turn()
    model.check()
