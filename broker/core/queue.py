"""A queue: messages at positions, handed out by credit, settled or put back in their place.

A queue owns one lane (one a priority, if it has priorities): the head of its backlog in memory, the rest in the store
(`broker/core/backlog.py`).  Time to live is in `broker/core/expiry.py`, length in `broker/core/bounds.py`.  Position order is the only
order.  The queue knows nothing of protocols, sockets or time: the turn's unit and clock come from the broker.
Tests: tests/unit/broker/core/test_queue.py, model test tests/property/test_queue_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any, Final, final

from broker.core import backlog, bounds, expiry
from broker.core.arguments import QueueArguments
from broker.core.delivery import Delivery
from broker.core.exchange import storable
from broker.core.lane import Lane, position_of
from broker.core.message import Message
from broker.core.selective import Choice
from broker.core.subscription import Subscription

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost

RUN_MAX: Final = 1000
"""The most messages handed to a subscription at once."""
TURN_MAX: Final = 4000
"""The most messages that one queue hands out in one turn."""
HORIZON_STEP: Final = 10_000
"""Positions by which a horizon record runs ahead of what is handed out."""


@final
class Queue:
    """A named queue of a vhost."""

    __slots__ = (
        "_turn",
        "admit",
        "arguments",
        "binding_count",
        "broker",
        "choice",
        "has_expiry",
        "is_auto_delete",
        "is_bounded",
        "is_declared_durable",
        "is_deleted",
        "is_durable",
        "is_exclusive",
        "is_expiring",
        "is_touched",
        "lane",
        "lanes",
        "look_at_ms",
        "name",
        "owner",
        "settings",
        "subscriptions",
        "unused_since_ms",
        "vhost",
        "was_consumed",
        "window_bytes",
        "window_count",
    )

    def __init__(
        self,
        vhost: Vhost,
        name: str,
        lanes: list[Lane],
        *,
        is_durable: bool,
        is_exclusive: bool,
        is_auto_delete: bool,
        arguments: dict[str, Any],
        settings: QueueArguments,
        owner: object,
    ) -> None:
        self.vhost = vhost
        self.broker: Broker = vhost.broker
        self.name = name
        self.lanes = lanes  # by rising priority
        self.lane = lanes[0]
        self.is_durable = is_durable
        self.is_declared_durable = is_durable  # an exclusive queue may be declared so, and is not
        self.is_exclusive = is_exclusive
        self.is_auto_delete = is_auto_delete
        self.arguments = arguments
        self.settings = settings
        self.owner = owner
        self.subscriptions: list[Subscription] = []
        self.choice: Choice | None = None
        # A link's buffer asks it first: it notes where the message comes from, or passes over what must not go that way.
        self.admit: Callable[[Message], bool] | None = None
        self.binding_count = 0
        self.is_touched = False
        self.is_deleted = False
        self.was_consumed = False
        self.is_expiring = False
        self.look_at_ms = 0
        self.has_expiry = settings.message_ttl_ms is not None
        self.is_bounded = settings.length_max is not None or settings.bytes_max is not None
        self.unused_since_ms = self.broker.now_ms
        self.window_bytes = self.broker.memory.idle.bytes
        self.window_count = self.broker.memory.idle.count
        self._turn = 0

    # What it holds

    @property
    def depth(self) -> int:
        """Messages ready to be delivered."""
        return sum(len(lane.ready) + lane.paged_count for lane in self.lanes)

    @property
    def unsettled_count(self) -> int:
        """Messages in consumers' hands, and those given back for later."""
        return sum(len(lane.unsettled) + len(lane.held) for lane in self.lanes)

    @property
    def ready_bytes(self) -> int:
        """Bytes of the bodies that wait, in memory or not."""
        return sum(lane.bytes + lane.paged_bytes for lane in self.lanes)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the bodies that wait in memory."""
        return sum(lane.bytes for lane in self.lanes)

    @property
    def consumer_count(self) -> int:
        """Subscriptions."""
        return len(self.subscriptions)

    # In

    def publish(self, message: Message) -> bool:
        """Take a message at the next position of its lane; False: refused by the queue's bound."""
        if self.admit is not None and not self.admit(message):
            return True
        if (
            self.is_bounded
            and self.settings.overflow != "drop-head"
            and not bounds.has_room(self, message)
        ):
            return False
        if self.has_expiry or message.expires_at:
            if not self.subscriptions and expiry.is_dead_on_arrival(self, message):
                self.broker.metrics.expired_count += 1
                self.vhost.dead_letter_message(self, message, "expired", "nobody waited for it")
                return True
            self.note_expiry(message)
        lane = self.lane
        if len(self.lanes) > 1:
            lane = self.lanes[min(message.priority, len(self.lanes) - 1)]
        position = lane.next
        lane.next = position + 1
        is_stored = self.is_durable and message.is_persistent
        if (
            lane.paged_count
            or lane.bytes > self.window_bytes
            or len(lane.ready) >= self.window_count
        ):
            if not lane.paged_count:
                lane.paged_from = position
            lane.paged_count += 1
            lane.paged_bytes += len(message.body)
            self.broker.unit.published.append((message, lane.number, position))
        else:
            if is_stored:
                self.broker.unit.published.append((message, lane.number, position))
            if not lane.ready:
                self.broker.memory.resident[self] = None
            lane.ready.append(Delivery(self, lane, position, message, is_stored, 0))
            lane.bytes += len(message.body)
        if not self.is_touched and self.subscriptions:
            self.is_touched = True
            self.broker.touched.append(self)
        if self.is_bounded:
            bounds.trim(self)
        return True

    def note_expiry(self, message: Message) -> None:
        """Something in here expires: have the queue looked at in time."""
        self.has_expiry = True
        self.broker.watch(self, expiry.due_ms(self, message))

    # Out

    def dispatch(self) -> None:
        """Hand runs of messages to subscriptions with credit, until either is used up.

        At most TURN_MAX messages and one window from the store a turn: sockets must get a chance to say that
        they are full.
        """
        if self.is_expiring:
            expiry.expire(self)
        if self.choice is not None and self.choice.is_active:
            self.choice.dispatch()
            return
        left = TURN_MAX
        is_loaded = False
        for lane in reversed(self.lanes):
            while lane.ready or lane.paged_count:
                if not self.subscriptions:
                    return
                if left <= 0:
                    self.broker.touch_again(self)
                    return
                if not lane.ready:
                    if is_loaded:
                        self.broker.touch_again(self)
                        return
                    is_loaded = True
                    left = min(left, RUN_MAX)
                    if not backlog.load(self, lane):
                        break
                subscription = self._next_subscription()
                if subscription is None:
                    return
                left -= self._hand_over(lane, subscription)

    def _next_subscription(self) -> Subscription | None:
        """Round-robin among those with room, higher consumer priority first."""
        subscriptions = self.subscriptions
        count = len(subscriptions)
        if count == 1 or self.settings.is_single_active:
            first = subscriptions[0]
            return first if first.room() > 0 else None
        best: Subscription | None = None
        best_index = 0
        for offset in range(count):
            index = (self._turn + offset) % count
            one = subscriptions[index]
            if (best is None or one.priority > best.priority) and one.room() > 0:
                best = one
                best_index = index
        self._turn = best_index + 1
        return best

    def _hand_over(self, lane: Lane, subscription: Subscription) -> int:
        ready = lane.ready
        available = len(ready)
        count = subscription.room()
        if len(self.subscriptions) > 1:
            # Even shares: a run to the first of several consumers would starve the others for a whole window.
            available = max(1, available // len(self.subscriptions))
        if count > available:
            count = available
        if count > RUN_MAX:
            count = RUN_MAX
        if self.has_expiry:
            run = expiry.take_living(self, lane, count)
            if not run:
                return count
        elif count == len(ready):
            run = list(ready)
            ready.clear()
            lane.bytes = 0
        else:
            run = [ready.popleft() for _ in range(count)]
            lane.bytes -= sum([len(delivery.message.body) for delivery in run])
        count = len(run)
        self.raise_horizon(lane, run[-1].position + 1)
        if subscription.is_acknowledged:
            unsettled = lane.unsettled
            for delivery in run:
                delivery.subscription = subscription
                unsettled[delivery.position] = delivery
            subscription.credit -= count
            subscription.unsettled += count
            if subscription.shared is not None:
                subscription.shared.left -= count
        else:
            number = lane.number
            self.broker.unit.acknowledged += [
                (number, delivery.position, delivery.message)
                for delivery in run
                if delivery.is_stored
            ]
        self.broker.metrics.delivered_count += count
        subscription.sink.deliver(subscription, run)
        return count

    def raise_horizon(self, lane: Lane, end: int) -> None:
        """Positions below `end` are being handed out: let the store know in time, or the turn wait until it does."""
        if end > lane.horizon - HORIZON_STEP // 2 and self.is_durable:
            if end > lane.horizon:
                self.broker.is_early = True
            lane.horizon = end + HORIZON_STEP
            self.broker.unit.horizon(lane.number, lane.horizon)

    def take(self, is_acknowledged: bool) -> Delivery | None:
        """One message for `basic.get`, in the order of delivery; None if the queue is empty."""
        for lane in reversed(self.lanes):
            while lane.ready or backlog.load(self, lane):
                delivery = lane.ready.popleft()
                lane.bytes -= len(delivery.message.body)
                if self.has_expiry and expiry.has_expired(self, delivery.message):
                    expiry.bury(self, delivery)
                    continue
                if self.has_expiry:
                    expiry.watch_head(self, lane)
                self.raise_horizon(lane, delivery.position + 1)
                if is_acknowledged:
                    lane.unsettled[delivery.position] = delivery
                else:
                    self.forget(delivery)
                return delivery
        return None

    def withhold(self, lane: Lane, wanted: Container[object], end: int) -> list[Delivery]:
        """Take the wanted positions below `end` out, as if in a consumer's hands: a link that may have sent them decides.

        For a queue that was just restored: nobody has consumed of it yet.
        """
        found: list[Delivery] = []
        passed: list[Delivery] = []
        while (lane.ready or backlog.load(self, lane)) and lane.ready[0].position < end:
            delivery = lane.ready.popleft()
            lane.bytes -= len(delivery.message.body)
            if delivery.position in wanted:
                lane.unsettled[delivery.position] = delivery
                found.append(delivery)
            else:
                passed.append(delivery)
        lane.ready.extendleft(reversed(passed))
        lane.bytes += sum(len(delivery.message.body) for delivery in passed)
        return found

    def peek(self, count_max: int) -> list[tuple[int, Message, int]]:
        """Look at the first messages without taking them: (position, message, delivery count)."""
        return backlog.peek(self, count_max)

    # Settled, put back, expired

    def forget(self, delivery: Delivery) -> None:
        """Remove a message that is in nobody's hands any more from the store."""
        if delivery.is_stored and not self.is_deleted:
            self.broker.unit.acknowledged.append(
                (delivery.lane.number, delivery.position, delivery.message)
            )

    def put_back(self, deliveries: Iterable[Delivery], *, is_counted: bool) -> None:
        """Return messages to their positions, as redelivered; over the delivery limit they are dead-lettered."""
        limit = self.settings.delivery_limit
        lanes: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            delivery.subscription = None
            if not is_counted:
                delivery.count = delivery.count or 1
                lanes.setdefault(delivery.lane.number, []).append(delivery)
                continue
            delivery.count += 1
            if limit >= 0 and delivery.count > limit:
                self.vhost.dead_letter(
                    self, delivery, "delivery_limit", f"delivered {delivery.count} times"
                )
                continue
            if delivery.is_stored and self.is_durable:
                self.broker.unit.requeue(delivery.lane.number, delivery.position, delivery.count)
            lanes.setdefault(delivery.lane.number, []).append(delivery)
        for returned in lanes.values():
            returned.sort(key=position_of)
            lane = returned[0].lane
            if self.choice is not None:
                self.choice.offer_again(lane, returned[0].position)
            returned = backlog.leave(self, lane, returned)
            if not returned:
                continue
            self.broker.memory.resident[self] = None
            lane.insert(returned)
        if not self.has_expiry:
            # It may have been the only one that expires, and gone from here while it was in a consumer's hands.
            self.has_expiry = any(
                delivery.message.expires_at for returned in lanes.values() for delivery in returned
            )
        if self.has_expiry:
            self.broker.watch(self, self.broker.now_ms)
        if self.is_bounded:
            bounds.trim(self)
        self.touch()

    def look(self) -> None:
        """Do what time asks for: end an unused queue, let messages expire.  Called when `look_at_ms` has come."""
        expires_ms = self.settings.expires_ms
        if expires_ms is not None and not self.subscriptions:
            ends_at_ms = self.unused_since_ms + expires_ms
            if self.broker.now_ms >= ends_at_ms:
                self.vhost.drop_queue(self)
                return
            self.broker.watch(self, ends_at_ms)
        if self.has_expiry or self.settings.message_ttl_ms is not None or self.depth:
            expiry.expire(self)

    def purge(self) -> int:
        """Remove all messages that nobody holds; return how many."""
        count = self.depth
        for lane in self.lanes:
            if count:
                kept = sorted([*lane.unsettled, *lane.held])
                self.broker.unit.purge(lane.number, lane.next, kept)
            lane.clear()
        return count

    def choose(self) -> Choice:
        """What chooses among the messages of this queue, from now on."""
        if self.choice is None:
            self.choice = Choice(self)
        return self.choice

    def touch(self) -> None:
        """Have the queue dispatched at the end of this turn."""
        if not self.is_touched and not self.is_deleted:
            self.is_touched = True
            self.broker.touched.append(self)

    def definition(self) -> dict[str, Any]:
        """What the store keeps of it."""
        made = {
            "lanes": [lane.number for lane in self.lanes],
            "auto_delete": self.is_auto_delete,
            "arguments": storable(self.arguments),
        }
        if self.choice is not None and self.choice.is_grouped:
            made["grouped"] = True
        return made
