"""A queue against a plain list: order, credit, acknowledgement, requeue, rejection, purge, paging.

The model is the list of ready messages in position order and the set in consumers' hands.  With a window of a few
messages most of the backlog goes through the store.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from broker.core.broker import CoreLimits
from broker.core.delivery import Delivery
from broker.core.subscription import Subscription
from tests.support.core import Core, RecordingSink


class QueueModel(RuleBasedStateMachine):
    """Random operations on one queue, each followed by turns until nothing is left to do."""

    subscriptions: Bundle[tuple[Subscription, RecordingSink]] = Bundle("subscriptions")

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(CoreLimits(window_bytes=1 << 20, window_count=8))
        self.core.vhost.declare_queue("q", durable=True, arguments={"x-delivery-limit": -1})
        self.core.vhost.declare_queue("keep-alive")
        self.ready: list[int] = []
        self.in_hand: dict[int, Delivery] = {}
        self.sinks: list[tuple[Subscription, RecordingSink]] = []
        self.delivered: set[int] = set()
        self.next = 0

    def settle_down(self) -> None:
        """End turns, then move what was delivered from the model's list into hands, checking the order."""
        self.core.turn()
        for subscription, sink in self.sinks:
            for delivery in sink.taken:
                number = int(delivery.message.body)
                self.in_hand[number] = delivery
                assert number in self.ready, "delivered what was not ready"
                self.ready.remove(number)
                assert (delivery.count > 0) == (number in self.delivered), "redelivered flag"
                self.delivered.add(number)
            order = [delivery.position for delivery in sink.taken]
            assert order == sorted(order), "a run is in position order"
            sink.taken.clear()
            assert subscription.unsettled <= 5

    @rule(count=st.integers(1, 30), is_persistent=st.booleans())
    def publish(self, count: int, is_persistent: bool) -> None:
        for _ in range(count):
            body = b"%d" % self.next
            self.core.publish("", "q", body, delivery_mode=2 if is_persistent else 1)
            self.ready.append(self.next)
            self.next += 1
        self.settle_down()

    @rule(target=subscriptions, credit=st.integers(1, 5))
    def subscribe(self, credit: int) -> tuple[Subscription, RecordingSink]:
        made = self.core.subscribe("q", credit=credit)
        self.sinks.append(made)
        self.settle_down()
        return made

    @rule(made=consumes(subscriptions))
    def unsubscribe(self, made: tuple[Subscription, RecordingSink]) -> None:
        self.core.vhost.unsubscribe(made[0])
        self.sinks.remove(made)
        self.settle_down()

    def chosen(self, picks: list[int]) -> list[int]:
        numbers = sorted(self.in_hand)
        return sorted({numbers[pick % len(numbers)] for pick in picks}) if numbers else []

    @rule(picks=st.lists(st.integers(0, 100), max_size=6))
    def acknowledge(self, picks: list[int]) -> None:
        numbers = self.chosen(picks)
        self.core.broker.acknowledge([self.in_hand.pop(number) for number in numbers])
        self.settle_down()

    @rule(picks=st.lists(st.integers(0, 100), max_size=12))
    def requeue(self, picks: list[int]) -> None:
        numbers = self.chosen(picks)
        self.core.broker.requeue([self.in_hand.pop(number) for number in numbers])
        self.ready = sorted([*self.ready, *numbers])
        self.settle_down()

    @rule(picks=st.lists(st.integers(0, 100), max_size=3))
    def reject(self, picks: list[int]) -> None:
        numbers = self.chosen(picks)
        self.core.broker.reject([self.in_hand.pop(number) for number in numbers])
        self.settle_down()

    @rule()
    def purge(self) -> None:
        assert self.core.vhost.purge_queue("q") == len(self.ready)
        self.ready.clear()
        self.settle_down()

    @rule()
    def get(self) -> None:
        taken = self.core.vhost.get("q", True)
        if not self.ready:
            assert taken is None
            return
        assert taken is not None
        delivery, left = taken
        number = int(delivery.message.body)
        assert number == self.ready.pop(0)
        assert left == len(self.ready)
        self.delivered.add(number)
        self.in_hand[number] = delivery
        self.settle_down()

    @invariant()
    def counts_agree(self) -> None:
        queue = self.core.vhost.queues["q"]
        assert queue.depth == len(self.ready)
        assert queue.unsettled_count == len(self.in_hand)
        # The window, and what came back from consumers' hands.
        assert len(queue.lane.ready) <= 8 + len(self.delivered)
        room = any(subscription.room() > 0 for subscription, _ in self.sinks)
        assert not (room and self.ready), "ready messages and a consumer with room"


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
