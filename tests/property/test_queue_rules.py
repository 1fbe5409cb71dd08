"""A queue with all its rules against plain lists: priorities, time to live, dead letters, delivery limit, delayed requeues.

`tests/property/test_queue_model.py` has the plain queue and its window; here each rule of dying is in play at once.  The model: one list of
ready messages a priority, the set in consumers' hands, those that come back later, and the list of the dead with their reasons.  Each
step ends when nothing more happens at that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.broker import CoreLimits
from broker.core.delivery import Delivery
from broker.core.expiry import LOOK_AGAIN_MS
from broker.core.subscription import Subscription
from tests.support.core import Core, RecordingSink

LANES = 3
DELIVERY_LIMIT = 2
PICKS = st.lists(st.integers(0, 100), min_size=1, max_size=4)
IN_HAND = precondition(lambda self: self.model.in_hand)


@dataclass
class Modeled:
    """What a message should be like."""

    number: int
    priority: int
    expires_at: int
    count: int = 0


@dataclass
class Model:
    """Where each message should be."""

    ready: list[list[Modeled]] = field(default_factory=lambda: [[] for _ in range(LANES)])
    in_hand: dict[int, tuple[Modeled, Delivery]] = field(default_factory=dict)
    later: list[tuple[int, Modeled]] = field(default_factory=list)
    dead: Counter[tuple[int, str]] = field(default_factory=Counter)

    def put_back(self, one: Modeled) -> None:
        lane = self.ready[one.priority]
        lane.append(one)
        lane.sort(key=lambda each: each.number)

    def requeue(self, one: Modeled) -> None:
        one.count += 1
        if one.count > DELIVERY_LIMIT:
            self.dead[one.number, "delivery_limit"] += 1
        else:
            self.put_back(one)

    def expire_heads(self, now_ms: int, shown: Container[int] = ()) -> int:
        """Bury the heads that have expired and are not shown any more; returns how many still are."""
        late = 0
        for lane in self.ready:
            while lane and 0 < lane[0].expires_at < now_ms:
                if lane[0].number in shown:
                    late += 1
                    break
                self.dead[lane.pop(0).number, "expired"] += 1
        return late

    def take(self, now_ms: int) -> Modeled | None:
        """The next to be delivered, the expired before it buried."""
        for lane in reversed(self.ready):
            while lane:
                one = lane.pop(0)
                if not 0 < one.expires_at < now_ms:
                    return one
                self.dead[one.number, "expired"] += 1
        return None


class QueueRules(RuleBasedStateMachine):
    """Random operations on one queue, each followed until nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(CoreLimits(window_bytes=1 << 20, window_count=8))
        self.core.vhost.declare_queue("dead", durable=True)
        self.core.vhost.declare_queue(
            "q",
            durable=True,
            arguments={
                "x-max-priority": LANES - 1,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "dead",
                "x-delivery-limit": DELIVERY_LIMIT,
            },
        )
        self.queue = self.core.vhost.queues["q"]
        self.model = Model()
        self.sinks: list[tuple[Subscription, RecordingSink]] = []
        self.next = 0

    @property
    def now_ms(self) -> int:
        return self.core.clock.wall_ms()

    def settle_down(self) -> None:
        """Let the broker come to rest, and the model with it."""
        self.follow()
        for _ in range(10):
            shown = {int(message.body) for _, message, _ in self.queue.peek(10_000)}
            # What came to its place from the disk has a look of its own, a little later.
            late = self.model.expire_heads(self.now_ms, shown)
            if not late or not 0 < self.queue.look_at_ms - self.now_ms <= LOOK_AGAIN_MS:
                break
            self.core.clock.seconds += LOOK_AGAIN_MS / 1000
            self.core.broker.tick()
            self.follow()
        self.model.expire_heads(self.now_ms)

    def follow(self) -> None:
        """Have the broker do what is due now, and check what came of it."""
        self.core.turn()
        for _ in range(3):
            self.core.broker.tick()
            self.core.turn()
        model = self.model
        for due_ms, one in [each for each in model.later if each[0] <= self.now_ms]:
            model.later.remove((due_ms, one))
            model.requeue(one)
        delivered: dict[int, Delivery] = {}
        for subscription, sink in self.sinks:
            delivered.update({int(one.message.body): one for one in sink.taken})
            sink.taken.clear()
            assert 0 <= subscription.credit <= 3
        # Who has room still may have got all there was; else as many came as there was room for.
        has_room = any(subscription.room() > 0 for subscription, _ in self.sinks)
        expected: dict[int, Modeled] = {}
        while has_room or len(expected) < len(delivered):
            one = model.take(self.now_ms)
            if one is None:
                break
            expected[one.number] = one
        assert sorted(expected) == sorted(delivered), "delivered in the order of its rules"
        for number, one in expected.items():
            assert delivered[number].count == one.count, "how often it was delivered"
            model.in_hand[number] = (one, delivered[number])

    def picked(self, picks: list[int]) -> list[tuple[Modeled, Delivery]]:
        """Some of what is in hands; small picks are those that came most often, so that counts grow."""
        in_hand = self.model.in_hand
        numbers = sorted(in_hand, key=lambda number: (-in_hand[number][0].count, number))
        chosen = {numbers[pick % len(numbers)] for pick in picks}
        return [in_hand.pop(number) for number in sorted(chosen)]

    @rule(
        messages=st.lists(
            st.tuples(
                st.integers(0, LANES + 1),
                st.sampled_from([None, None, 0, 50, 400, 3000]),
                st.booleans(),
            ),
            min_size=1,
            max_size=14,
        )
    )
    def publish(self, messages: list[tuple[int, int | None, bool]]) -> None:
        for priority, ttl_ms, is_persistent in messages:
            made = Modeled(self.next, min(priority, LANES - 1), 0)
            properties: dict[str, object] = {
                "delivery_mode": 2 if is_persistent else 1,
                "priority": priority,
            }
            if ttl_ms is not None:
                properties["expiration"] = str(ttl_ms)
                made.expires_at = self.core.broker.now_ms + ttl_ms
            self.core.publish("", "q", b"%d" % self.next, **properties)
            self.next += 1
            if ttl_ms == 0 and not self.sinks:
                self.model.dead[made.number, "expired"] += 1
            else:
                self.model.ready[made.priority].append(made)
        self.settle_down()

    @rule(credit=st.integers(1, 3))
    def subscribe(self, credit: int) -> None:
        if len(self.sinks) < 2:
            self.sinks.append(self.core.subscribe("q", credit=credit))
        self.settle_down()

    @rule(pick=st.integers(0, 1))
    def leave(self, pick: int) -> None:
        """A consumer goes with all it holds: back, marked, and not counted to the limit."""
        if not self.sinks:
            return
        subscription, _ = self.sinks.pop(pick % len(self.sinks))
        self.core.vhost.unsubscribe(subscription)
        held = {n: d for n, (_, d) in self.model.in_hand.items() if d.subscription is subscription}
        self.core.broker.release(list(held.values()))
        for number in held:
            one, _ = self.model.in_hand.pop(number)
            one.count = max(1, one.count)
            self.model.put_back(one)
        self.settle_down()

    @IN_HAND
    @rule(picks=PICKS)
    def acknowledge(self, picks: list[int]) -> None:
        self.core.broker.acknowledge([delivery for _, delivery in self.picked(picks)])
        self.settle_down()

    @IN_HAND
    @rule(picks=PICKS)
    def requeue(self, picks: list[int]) -> None:
        chosen = self.picked(picks)
        self.core.broker.requeue([delivery for _, delivery in chosen])
        for one, _ in chosen:
            self.model.requeue(one)
        self.settle_down()

    @IN_HAND
    @rule(picks=PICKS, delay_ms=st.sampled_from([100, 1000]))
    def requeue_later(self, picks: list[int], delay_ms: int) -> None:
        chosen = self.picked(picks)
        due_ms = self.now_ms + delay_ms
        self.core.broker.delays.requeue([delivery for _, delivery in chosen], due_ms)
        self.model.later += [(due_ms, one) for one, _ in chosen]
        self.settle_down()

    @IN_HAND
    @rule(picks=PICKS)
    def reject(self, picks: list[int]) -> None:
        chosen = self.picked(picks)
        self.core.broker.reject([delivery for _, delivery in chosen])
        for one, _ in chosen:
            self.model.dead[one.number, "rejected"] += 1
        self.settle_down()

    @rule(is_acknowledged=st.booleans(), milliseconds=st.sampled_from([0, 0, 60, 500]))
    def get(self, is_acknowledged: bool, milliseconds: int) -> None:
        """Sooner than anybody looks at what has expired meanwhile."""
        self.core.clock.seconds += milliseconds / 1000
        self.core.broker.now_ms = self.now_ms
        taken = self.core.vhost.get("q", is_acknowledged)
        one = self.model.take(self.now_ms)
        if one is None:
            assert taken is None
        else:
            assert taken is not None
            assert int(taken[0].message.body) == one.number
            assert taken[0].count == one.count
            if is_acknowledged:
                self.model.in_hand[one.number] = (one, taken[0])
        self.settle_down()

    @rule(milliseconds=st.sampled_from([1, 60, 60, 500, 500, 4000]))
    def wait(self, milliseconds: int) -> None:
        self.core.clock.seconds += milliseconds / 1000
        self.core.broker.now_ms = self.now_ms
        self.core.broker.tick()
        self.settle_down()

    @IN_HAND
    @rule(delay_ms=st.sampled_from([100, 1000]))
    def come_back_twice(self, delay_ms: int) -> None:
        """At once, and then, where it came again, after its delay: both count."""
        self.requeue([0])
        if self.model.in_hand:
            self.requeue_later([0], delay_ms)
            self.wait(delay_ms)

    @precondition(lambda self: not self.sinks)
    @rule(is_persistent=st.booleans(), credit=st.integers(2, 3))
    def die_behind_the_living(self, is_persistent: bool, credit: int) -> None:
        """What expires behind a head that lives is still there when a consumer comes, and is not for it."""
        self.publish([(LANES, ttl_ms, is_persistent) for ttl_ms in (None, 50, None)])
        self.wait(60)
        self.subscribe(credit)

    @rule()
    def purge(self) -> None:
        assert self.core.vhost.purge_queue("q") == sum(map(len, self.model.ready))
        self.model.ready = [[] for _ in range(LANES)]
        self.settle_down()

    @invariant()
    def all_is_where_it_should_be(self) -> None:
        model = self.model
        waiting = [one for lane in reversed(model.ready) for one in lane]
        assert [int(m.body) for _, m, _ in self.queue.peek(10_000)] == [o.number for o in waiting]
        assert self.queue.depth == len(waiting)
        assert self.queue.unsettled_count == len(model.in_hand) + len(model.later)
        dead = self.core.vhost.queues["dead"].peek(10_000)
        found: Counter[tuple[int, str]] = Counter()
        for _, message, _ in dead:
            headers = message.properties.headers or {}
            found[int(message.body), headers["x-death"][0]["reason"]] += 1
        assert found == model.dead


TestQueueRules = QueueRules.TestCase
TestQueueRules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
