"""Queue semantics seen through an AMQP session, against plain lists: order, prefetch, settling, priority, expiry, dead letters.

The model keeps one list a priority of (number, expiry); whatever leaves it must come out of the session in that order.
"""

from __future__ import annotations

from bisect import insort
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.amqp import House, Peer

PRIORITY_MAX = 2
ARGUMENTS = {
    "x-max-priority": PRIORITY_MAX,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "dead",
    "x-delivery-limit": 3,
}
Row = tuple[int, int, int]
"""Number, priority, expiry in ms (0: never)."""


class SessionModel(RuleBasedStateMachine):
    """One queue, one consumer at a time; time and disk as told."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House()
        self.peer = Peer(self.house).login().channel()
        self.watcher = Peer(self.house).login().channel()
        self.peer.declare("q", arguments=ARGUMENTS)
        self.peer.declare("dead")
        self.peer.got()
        self.lanes: list[list[Row]] = [[] for _ in range(PRIORITY_MAX + 1)]
        self.in_hand: dict[int, Row] = {}
        self.counts: dict[int, int] = {}
        self.dead: list[tuple[int, str]] = []
        self.prefetch = 0
        self.next = 0
        self.tag = 0

    # The model

    def now_ms(self) -> int:
        return self.house.clock.wall_ms()

    def bury_heads(self) -> None:
        for lane in self.lanes:
            while lane and 0 < lane[0][2] < self.now_ms():
                self.dead.append((lane.pop(0)[0], "expired"))

    def expected(self) -> list[int]:
        """What the consumer is to get now."""
        out: list[int] = []
        while self.prefetch and len(self.in_hand) < self.prefetch:
            self.bury_heads()
            lane = next((lane for lane in reversed(self.lanes) if lane), None)
            if lane is None:
                break
            row = lane.pop(0)
            self.tag += 1
            self.in_hand[self.tag] = row
            out.append(row[0])
        self.bury_heads()
        return out

    def give_back(self, row: Row, *, counts: bool) -> None:
        number = row[0]
        self.counts[number] = (
            self.counts.get(number, 0) + 1 if counts else self.counts.get(number) or 1
        )
        if counts and self.counts[number] > ARGUMENTS["x-delivery-limit"]:  # type: ignore[operator]
            self.dead.append((number, "delivery_limit"))
        else:
            insort(self.lanes[row[1]], row)

    # Both

    def settle_down(self) -> None:
        """Let the broker come to rest, and compare what came with what should."""
        if self.house.broker.needs_ticks:
            self.house.broker.tick()
            self.house.turn.schedule()
        self.house.run()
        expected = self.expected()
        got = [row for row in self.peer.got() if row[1] == "basic.deliver"]
        assert [int(row[-1]) for row in got] == expected
        first = self.tag - len(expected) + 1
        assert [row[3] for row in got] == list(range(first, self.tag + 1)), "delivery tags"
        for row in got:
            assert row[4] == (self.counts.get(int(row[-1]), 0) > 0), "redelivered"
        self.check_dead()

    def check_dead(self) -> None:
        found: list[tuple[int, str]] = []
        while True:
            self.watcher.send(1, "basic.get", 0, "dead", True)
            (row,) = self.watcher.got()
            if row[1] == "basic.get-empty":
                break
            headers: dict[str, Any] = row[-2].headers
            found.append((int(row[-1]), headers["x-death"][0]["reason"]))
        assert sorted(found) == sorted(self.dead)
        self.dead.clear()

    @rule(priority=st.integers(0, 4), expiration=st.none() | st.integers(10, 300))
    def publish(self, priority: int, expiration: int | None) -> None:
        extra = {} if expiration is None else {"expiration": str(expiration)}
        self.peer.publish("q", b"%d" % self.next, priority=priority, **extra)
        row = (
            self.next,
            min(priority, PRIORITY_MAX),
            self.now_ms() + expiration if expiration else 0,
        )
        self.lanes[row[1]].append(row)
        self.next += 1
        self.settle_down()

    @rule(ms=st.integers(1, 200))
    def wait(self, ms: int) -> None:
        self.house.clock.seconds += ms / 1000
        self.house.broker.now_ms = self.now_ms()
        self.settle_down()

    @precondition(lambda self: not self.prefetch)
    @rule(prefetch=st.integers(1, 4))
    def consume(self, prefetch: int) -> None:
        # What the channel holds from before does not count for a new consumer.
        if self.in_hand:
            return
        self.peer.send(1, "basic.qos", 0, prefetch, False)
        self.prefetch = prefetch
        self.peer.send(1, "basic.consume", 0, "q", "t", False, False, False, False, {})
        self.settle_down()

    @precondition(lambda self: self.prefetch)
    @rule()
    def cancel(self) -> None:
        self.peer.send(1, "basic.cancel", "t", False)
        self.prefetch = 0
        self.settle_down()

    @precondition(lambda self: self.in_hand)
    @rule(pick=st.integers(0, 10), multiple=st.booleans())
    def ack(self, pick: int, multiple: bool) -> None:
        tags = sorted(self.in_hand)
        tag = tags[pick % len(tags)]
        self.peer.send(1, "basic.ack", tag, multiple)
        for one in tags:
            if one == tag or (multiple and one < tag):
                del self.in_hand[one]
        self.settle_down()

    @precondition(lambda self: self.in_hand)
    @rule(pick=st.integers(0, 10), multiple=st.booleans(), requeue=st.booleans())
    def nack(self, pick: int, multiple: bool, requeue: bool) -> None:
        tags = sorted(self.in_hand)
        tag = tags[pick % len(tags)]
        chosen = [one for one in tags if one == tag or (multiple and one < tag)]
        self.peer.send(1, "basic.nack", tag, multiple, requeue)
        for one in chosen:
            row = self.in_hand.pop(one)
            if requeue:
                self.give_back(row, counts=True)
            else:
                self.dead.append((row[0], "rejected"))
        self.settle_down()

    @rule()
    def close_the_channel(self) -> None:
        self.peer.send(1, "channel.close", 200, "", 0, 0)
        self.peer.send(1, "channel.open", "")
        for row in self.in_hand.values():
            self.give_back(row, counts=False)
        self.in_hand.clear()
        self.prefetch = 0
        self.tag = 0
        self.settle_down()

    @invariant()
    def depth_agrees(self) -> None:
        assert self.house.vhost.queues["q"].depth == sum(map(len, self.lanes))


TestSessionModel = SessionModel.TestCase
TestSessionModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
