"""A queue: messages at positions, handed out by credit, settled or put back in their place.

A queue owns one lane (one a priority, if it has priorities).  A lane holds the head of its backlog in memory as
Deliveries in position order; what does not fit the window lies in the store only and is read back a window at a time
(store.md, promise 4).  Position order is the only order.  The queue knows nothing of protocols, sockets
or time: the turn's unit and clock come from the broker.  Tests: tests/unit/broker/core/test_queue.py.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, final

from broker.core.arguments import QueueArguments
from broker.core.delivery import Delivery
from broker.core.exchange import storable
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
EXPIRE_MAX: Final = 250
"""The most messages that one queue lets expire in one turn, so that ten million at once delay nobody."""
LOOK_AGAIN_MS: Final = 100
"""How soon to look again at a head that lives, behind which something may expire."""
HORIZON_STEP: Final = 10_000
"""Positions by which a horizon record runs ahead of what is handed out."""


@final
class Lane:
    """One sequence of positions of a queue.

    `ready` holds deliveries in memory in position order; `paged_count` more lie in the store from `paged_from` on, with
    `paged_bytes` of bodies (at most: after a restart the store's overhead counts, until `is_exact`).
    `unsettled` maps positions to what is in a consumer's hands.  Positions below `redelivered_before` may have been
    handed out before a restart.
    """

    __slots__ = (
        "bytes",
        "horizon",
        "is_exact",
        "next",
        "number",
        "paged_bytes",
        "paged_count",
        "paged_from",
        "ready",
        "redelivered_before",
        "unsettled",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.next = 0
        self.horizon = 0
        self.redelivered_before = 0
        self.ready: deque[Delivery] = deque()
        self.unsettled: dict[int, Delivery] = {}
        self.bytes = 0
        self.paged_count = 0
        self.paged_bytes = 0
        self.is_exact = True
        self.paged_from = 0


@final
class Queue:
    """A named queue of a vhost."""

    __slots__ = (
        "_turn",
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
        self.binding_count = 0
        self.is_touched = False
        self.is_deleted = False
        self.was_consumed = False
        self.is_expiring = False
        self.look_at_ms = 0
        self.has_expiry = settings.message_ttl_ms is not None
        self.is_bounded = settings.length_max is not None or settings.bytes_max is not None
        self.unused_since_ms = self.broker.now_ms
        self.window_bytes = self.broker.memory.window_bytes
        self.window_count = self.broker.memory.window_count
        self._turn = 0

    # What it holds

    @property
    def depth(self) -> int:
        """Messages ready to be delivered."""
        return sum(len(lane.ready) + lane.paged_count for lane in self.lanes)

    @property
    def unsettled_count(self) -> int:
        """Messages in consumers' hands."""
        return sum(len(lane.unsettled) for lane in self.lanes)

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
        if (
            self.is_bounded
            and self.settings.overflow != "drop-head"
            and not self._has_room(message)
        ):
            return False
        if self.has_expiry or message.expires_at:
            if not self.subscriptions and self._is_dead_on_arrival(message):
                self.broker.metrics.expired_count += 1
                self.vhost.dead_letter_message(self, message, "expired", "nobody waited for it")
                return True
            self._note_expiry(message)
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
            self._trim()
        return True

    def _is_dead_on_arrival(self, message: Message) -> bool:
        """A time to live of 0: only who waits already can have it."""
        return 0 < message.expires_at <= self.broker.now_ms or self.settings.message_ttl_ms == 0

    def _has_room(self, message: Message) -> bool:
        """Whether one more message fits a queue that refuses what does not."""
        if not self._is_over(1, len(message.body)):
            return True
        if self.subscriptions:
            # Who waits takes first, as if each message were handed on when it comes.
            self.dispatch()
            if not self._is_over(1, len(message.body)):
                return True
        if self.settings.overflow == "reject-publish-dlx":
            self.vhost.dead_letter_message(self, message, "maxlen", "queue is full")
        return False

    def _is_over(self, more_count: int = 0, more_bytes: int = 0) -> bool:
        """Whether the queue is over its bounds, with so much more."""
        settings = self.settings
        if settings.length_max is not None and self.depth + more_count > settings.length_max:
            return True
        if settings.bytes_max is None or self.ready_bytes + more_bytes <= settings.bytes_max:
            return False
        if all(lane.is_exact for lane in self.lanes):
            return True
        for lane in self.lanes:
            self._count_bytes(lane)
        return self.ready_bytes + more_bytes > settings.bytes_max

    def _count_bytes(self, lane: Lane) -> None:
        """Count the bodies in the store: once after a restart, and only when the bound may be reached."""
        total_bytes, at, left = 0, lane.paged_from, lane.paged_count
        while left > 0:
            rows = self.broker.store.read(lane.number, at, left, self.window_bytes)
            if not rows:
                break
            total_bytes += sum([len(stored.body) for _, stored, _ in rows])
            at = rows[-1][0] + 1
            left -= len(rows)
        lane.paged_bytes = total_bytes
        lane.is_exact = True

    def _trim(self) -> None:
        """Drop from the head what is over the bounds, after those who wait took theirs."""
        if self.settings.overflow != "drop-head" or not self._is_over():
            return
        if self.subscriptions:
            self.dispatch()
        while self._is_over() and self._drop_head():
            pass

    def _drop_head(self) -> bool:
        for lane in self.lanes:
            if lane.ready or self._load(lane):
                delivery = lane.ready.popleft()
                lane.bytes -= len(delivery.message.body)
                self.vhost.dead_letter(
                    self, delivery, "maxlen", "dropped from the head: queue is full"
                )
                return True
        return False

    # Out

    def dispatch(self) -> None:
        """Hand runs of messages to subscriptions with credit, until either is used up.

        At most TURN_MAX messages and one window from the store a turn: sockets must get a chance to say that
        they are full.
        """
        if self.is_expiring:
            self.expire()
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
                    if not self._load(lane):
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
            run = self._take_living(lane, count)
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
            acknowledged = self.broker.unit.acknowledged
            for delivery in run:
                if delivery.is_stored:
                    acknowledged.append((lane.number, delivery.position, delivery.message))
        self.broker.metrics.delivered_count += count
        subscription.sink.deliver(subscription, run)
        return count

    def raise_horizon(self, lane: Lane, end: int) -> None:
        """Positions below `end` are being handed out: let the store know in time."""
        if end > lane.horizon and self.is_durable:
            lane.horizon = end + HORIZON_STEP
            self.broker.unit.horizon(lane.number, lane.horizon)

    def _load(self, lane: Lane) -> bool:
        """Read the next window of the backlog from the store; False: nothing can be had now."""
        if not lane.paged_count:
            return False
        rows = self.broker.store.read(
            lane.number, lane.paged_from, self.window_count // 4, self.window_bytes // 4
        )
        self.broker.memory.resident[self] = None
        if not rows:
            if not self.broker.unit:
                # Nothing on disk and nothing on its way there: the count was wrong (transient leftovers of a restart).
                lane.paged_count = lane.paged_bytes = 0
            else:
                self.broker.touch_again(self)
            return False
        lane.paged_from = rows[-1][0] + 1
        if self.choice is not None:
            rows = self.choice.waiting(lane, rows)
            if not rows:
                return self._load(lane)
        read_bytes = 0
        for position, stored, count in rows:
            destination = self.vhost.destination_of(stored.exchange, stored.routing_key)
            message = Message.from_stored(stored, destination)
            if position < lane.redelivered_before and count == 0:
                count = 1  # handed out before the restart, as far as can be known
            lane.ready.append(Delivery(self, lane, position, message, True, count))
            lane.bytes += len(message.body)
            read_bytes += len(message.body) if lane.is_exact else message.size
            if message.expires_at and not self.has_expiry:
                self._note_expiry(message)
        lane.paged_count = max(0, lane.paged_count - len(rows))
        lane.paged_bytes = max(0, lane.paged_bytes - read_bytes) if lane.paged_count else 0
        return True

    def take(self, is_acknowledged: bool) -> Delivery | None:
        """One message for `basic.get`, in the order of delivery; None if the queue is empty."""
        for lane in reversed(self.lanes):
            while lane.ready or self._load(lane):
                delivery = lane.ready.popleft()
                lane.bytes -= len(delivery.message.body)
                if self.has_expiry and self._has_expired(delivery.message):
                    self._bury(delivery)
                    continue
                if self.has_expiry:
                    self._watch_head(lane)
                if self.is_durable and delivery.position >= lane.horizon:
                    lane.horizon = delivery.position + 1 + HORIZON_STEP
                    self.broker.unit.horizon(lane.number, lane.horizon)
                if is_acknowledged:
                    lane.unsettled[delivery.position] = delivery
                else:
                    self.forget(delivery)
                return delivery
        return None

    def peek(self, count_max: int) -> list[tuple[int, Message, int]]:
        """Look at the first messages without taking them: (position, message, delivery count)."""
        found: list[tuple[int, Message, int]] = []
        for lane in reversed(self.lanes):
            for delivery in lane.ready:
                if len(found) >= count_max:
                    return found
                found.append((delivery.position, delivery.message, delivery.count))
            if lane.paged_count and len(found) < count_max:
                rows = self.broker.store.read(
                    lane.number, lane.paged_from, count_max - len(found), self.window_bytes
                )
                if self.choice is not None:
                    rows = self.choice.waiting(lane, rows)
                for position, stored, count in rows:
                    destination = self.vhost.destination_of(stored.exchange, stored.routing_key)
                    found.append((position, Message.from_stored(stored, destination), count))
        return found

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
            returned.sort(key=_position)
            lane = returned[0].lane
            if self.choice is not None:
                returned = self.choice.put_back(lane, returned)
                if not returned:
                    continue
            lane.bytes += sum(len(delivery.message.body) for delivery in returned)
            self.broker.memory.resident[self] = None
            if not lane.ready or returned[-1].position < lane.ready[0].position:
                lane.ready.extendleft(reversed(returned))
            elif len(returned) < 8:
                for delivery in returned:
                    insort(lane.ready, delivery, key=_position)
            else:
                lane.ready = deque(sorted([*returned, *lane.ready], key=_position))
        if not self.has_expiry:
            # It may have been the only one that expires, and gone from here while it was in a consumer's hands.
            self.has_expiry = any(
                delivery.message.expires_at for returned in lanes.values() for delivery in returned
            )
        if self.has_expiry:
            self.broker.watch(self, self.broker.now_ms)
        if self.is_bounded:
            self._trim()
        self.touch()

    # Time

    def _note_expiry(self, message: Message) -> None:
        """Something in here expires: have the queue looked at in time."""
        self.has_expiry = True
        self.broker.watch(self, self._due_ms(message, self.broker.now_ms))

    def _has_expired(self, message: Message) -> bool:
        # Strictly: with a time to live of 0 a message still reaches who waits in the same turn (RabbitMQ).
        now_ms = self.broker.now_ms
        if 0 < message.expires_at < now_ms:
            return True
        ttl_ms = self.settings.message_ttl_ms
        return ttl_ms is not None and message.published_at + ttl_ms < now_ms

    def _bury(self, delivery: Delivery) -> None:
        """Dead-letter an expired message that was taken from its lane."""
        self.broker.metrics.expired_count += 1
        self.vhost.dead_letter(self, delivery, "expired", "time to live passed")

    def _take_living(self, lane: Lane, count: int) -> list[Delivery]:
        """Take so many from the head of a lane and return those that have not expired."""
        run: list[Delivery] = []
        for _ in range(count):
            delivery = lane.ready.popleft()
            lane.bytes -= len(delivery.message.body)
            if self._has_expired(delivery.message):
                self._bury(delivery)
            else:
                run.append(delivery)
        self._watch_head(lane)
        return run

    def _watch_head(self, lane: Lane) -> None:
        """A message became the head of its lane: only now its expiry acts."""
        now_ms = self.broker.now_ms
        if lane.ready:
            self.broker.watch(self, self._due_ms(lane.ready[0].message, now_ms))
        elif lane.paged_count:
            self.broker.watch(self, now_ms + LOOK_AGAIN_MS)

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
            self.expire()

    def expire(self) -> None:
        """Let the heads of all lanes expire, a bounded number a turn, and say when to look again."""
        left = EXPIRE_MAX
        now_ms = self.broker.now_ms
        next_ms = 0
        self.is_expiring = False
        for lane in self.lanes:
            while lane.ready or self._load(lane):
                if left <= 0:
                    self.is_expiring = True
                    self.broker.touch_again(self)
                    return
                message = lane.ready[0].message
                if not self._has_expired(message):
                    at_ms = self._due_ms(message, now_ms)
                    next_ms = min(next_ms, at_ms) if next_ms else at_ms
                    break
                left -= 1
                delivery = lane.ready.popleft()
                lane.bytes -= len(message.body)
                self._bury(delivery)
        if next_ms and self.has_expiry:
            self.broker.watch(self, next_ms)
        elif not next_ms:
            self.has_expiry = self.settings.message_ttl_ms is not None

    def _due_ms(self, message: Message, now_ms: int) -> int:
        """When a message at the head expires; soon, if it never does, for the sake of those behind it."""
        due_ms = message.expires_at or 0
        ttl_ms = self.settings.message_ttl_ms
        if ttl_ms is not None and (not due_ms or message.published_at + ttl_ms < due_ms):
            due_ms = message.published_at + ttl_ms
        return due_ms + 1 if due_ms else now_ms + LOOK_AGAIN_MS

    def purge(self) -> int:
        """Remove all messages that nobody holds; return how many."""
        count = self.depth
        for lane in self.lanes:
            if count:
                self.broker.unit.purge(lane.number, lane.next, sorted(lane.unsettled))
            lane.ready.clear()
            lane.bytes = 0
            lane.paged_count = lane.paged_bytes = 0
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


def _position(delivery: Delivery) -> int:
    return delivery.position
