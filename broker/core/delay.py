"""Messages that wait for their time: delayed publishing, and requeueing later.

A delayed message lies in the lane of a *bucket*, the span of time in which it is due, until it is published like any other.  What
the store keeps of it has the due time as `published_at`, so buckets are rebuilt from their lanes after a restart and
need no format of their own.  Only the buckets near in time are in memory, and of those only what fits a window; the rest
is a time and a position.  Invariant: a message leaves its bucket in the unit of work that publishes it.
A delayed requeue of what is on disk is a definition (`["requeue", lane, position]`, its time and delivery count) and the lane's
`held`; the message is read again when it is due.  Other messages stay in their queue's `unsettled`.
Tests: tests/unit/broker/core/test_delay.py.
"""

from __future__ import annotations

import json
import logging
from bisect import insort
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.errors import BrokerError, ResourceLimit
from store.interface import StoreError

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.lane import Lane
    from broker.core.queue import Queue
    from broker.core.vhost import Vhost
    from store.interface import LaneState

log = logging.getLogger(__name__)

DELAY_MS_MAX: Final = 0xFFFFFFFF
"""The longest delay, 49 days (that of RabbitMQ's delayed message exchange)."""
BUCKET_MS: Final = 600_000
"""The span of a bucket, 10 minutes: at most some 7,200 of them."""
NEAR_MS: Final = 60_000
"""A bucket is read into memory so long before its span begins."""
WINDOW_BYTES: Final = 8 << 20
"""Bodies of delayed messages kept in memory, all vhosts together."""
HELD_MAX: Final = 1_000_000
"""Delayed messages, and as many delayed requeues, at one time."""
REMEMBERED_MAX: Final = 20_000
"""Delayed requeues that outlive a restart: they are definitions, of which each segment of the journal begins with all."""
TURN_MAX: Final = 1000
"""Messages published, and rows read from the store, in one tick."""

_READ_BYTES: Final = 4 << 20


class _Held(NamedTuple):
    """A message that its queue holds back, by its place."""

    queue: Queue
    lane: Lane
    position: int


@final
class Bucket:
    """The delayed messages of one span of time in one vhost.

    `waiting` is a heap of (due in ms since 1970, position, message or None where only the store has it); rows of the lane from
    `unread_from` on are not in it yet.  Positions below `restored_before` come from before a restart.
    """

    __slots__ = (
        "count",
        "is_defined",
        "lane",
        "next",
        "restored_before",
        "unread_count",
        "unread_from",
        "waiting",
    )

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.next = 0
        self.count = 0
        self.is_defined = False
        self.restored_before = 0
        self.unread_from = 0
        self.unread_count = 0
        self.waiting: list[tuple[int, int, Message | None]] = []


@final
class Delays:
    """All that waits for its time in a broker."""

    __slots__ = (
        "_broker",
        "_buckets",
        "_damaged_lanes",
        "_keys",
        "_remembered_count",
        "_requeues",
        "_serial",
        "_window_bytes",
        "count",
    )

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._buckets: dict[tuple[int, str], Bucket] = {}
        self._keys: list[tuple[int, str]] = []
        self._requeues: list[tuple[int, int, Delivery | _Held]] = []
        self._serial = 0
        self._damaged_lanes: set[int] = set()
        self._remembered_count = 0
        self._window_bytes = 0
        self.count = 0

    def is_near(self, now_ms: int) -> bool:
        """Whether `tick` may have something to do now or soon."""
        keys = self._keys
        return bool(self._requeues or (keys and keys[0][0] * BUCKET_MS <= now_ms + NEAR_MS))

    # In

    def hold(self, vhost: Vhost, message: Message, due_ms: int) -> None:
        """Publish a message at `due_ms` (milliseconds since 1970) instead of now; raises ResourceLimit.

        What is persistent is durable with this turn's unit.  A relative expiration must have been counted from `due_ms` on.
        """
        now_ms = self._broker.now_ms
        if self.count >= HELD_MAX:
            raise ResourceLimit(f"{self.count} delayed messages are held, the bound")
        due_ms = min(max(due_ms, now_ms), now_ms + DELAY_MS_MAX)
        key = (due_ms // BUCKET_MS, vhost.name)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._add(key, Bucket(self._broker.new_lane()))
        position = bucket.next
        bucket.next = position + 1
        bucket.count += 1
        self.count += 1
        is_near = not bucket.unread_count and key[0] * BUCKET_MS <= now_ms + NEAR_MS
        held: Message | None = None
        if is_near and self._window_bytes + len(message.body) <= WINDOW_BYTES:
            held = _dated(message, due_ms)
            self._window_bytes += len(message.body)
        if message.is_persistent or held is None:
            self._store(key, bucket, position, held or _dated(message, due_ms))
        if is_near:
            heappush(bucket.waiting, (due_ms, position, held))
        else:
            if not bucket.unread_count:
                bucket.unread_from = position
            bucket.unread_count += 1

    def _add(self, key: tuple[int, str], bucket: Bucket) -> Bucket:
        self._buckets[key] = bucket
        insort(self._keys, key)
        return bucket

    def _store(self, key: tuple[int, str], bucket: Bucket, position: int, dated: Message) -> None:
        unit = self._broker.unit
        if not bucket.is_defined:
            bucket.is_defined = True
            unit.define(_name(key), {"lane": bucket.lane})
        unit.published.append((dated, bucket.lane, position))

    def requeue(self, deliveries: list[Delivery], due_ms: int) -> None:
        """Requeue deliveries at `due_ms` instead of now; their consumers get the credit back at once.

        A persistent message of a durable queue keeps its time over restarts; over REMEMBERED_MAX of them a restart requeues
        the others at once.  Over HELD_MAX they are requeued now.
        """
        broker = self._broker
        if len(self._requeues) + len(deliveries) > HELD_MAX:
            broker.requeue(deliveries)
            return
        for delivery in deliveries:
            if not broker.hand_back(delivery):
                continue
            is_kept = delivery.queue.is_durable and delivery.message.is_persistent
            if not is_kept or self._remembered_count >= REMEMBERED_MAX:
                self._add_requeue(due_ms, delivery)
                continue
            lane, position = delivery.lane, delivery.position
            del lane.unsettled[position]
            lane.held[position] = delivery.count
            made = {"due_ms": due_ms, "count": delivery.count}
            broker.unit.define(_requeue_name(lane, position), made)
            self._add_requeue(due_ms, _Held(delivery.queue, lane, position))
            self._remembered_count += 1

    def _add_requeue(self, due_ms: int, what: Delivery | _Held) -> None:
        self._serial += 1
        heappush(self._requeues, (due_ms, self._serial, what))

    def forget(self, lane: Lane) -> None:
        """The lane is gone, with what it held."""
        for position in lane.held:
            self._broker.unit.define(_requeue_name(lane, position), None)
        lane.held.clear()

    # Out

    def tick(self) -> None:
        """Publish and requeue what is due, a bounded number a call."""
        now_ms = self._broker.now_ms
        self._requeue_due(now_ms)
        left = TURN_MAX
        for key in list(self._keys):
            if key[0] * BUCKET_MS > now_ms + NEAR_MS or left <= 0:
                break
            bucket = self._buckets[key]
            left -= self._read(bucket, left)
            left -= self._publish_due(key, bucket, now_ms, left)
            if not bucket.count and (key[0] + 1) * BUCKET_MS <= now_ms:
                del self._buckets[key]
                self._keys.remove(key)
                # What could not be read stays in the store, for `gridmsg store salvage`.
                if bucket.is_defined and bucket.lane not in self._damaged_lanes:
                    self._broker.unit.drop_lane(bucket.lane)
                    self._broker.unit.define(_name(key), None)

    def _requeue_due(self, now_ms: int) -> None:
        requeues = self._requeues
        due: list[Delivery] = []
        returned: dict[Queue, list[Delivery]] = {}
        left = TURN_MAX
        while requeues and requeues[0][0] <= now_ms and left > 0:
            left -= 1
            what = heappop(requeues)[2]
            if isinstance(what, Delivery):
                due.append(what)
                continue
            self._remembered_count -= 1
            delivery = self._held_delivery(what)
            if delivery is not None:
                returned.setdefault(what.queue, []).append(delivery)
        if due:
            self._broker.requeue(due)
        for queue, deliveries in returned.items():
            self._broker.metrics.requeued_count += len(deliveries)
            queue.put_back(deliveries, is_counted=True)

    def _held_delivery(self, held: _Held) -> Delivery | None:
        """Read again what a queue held; None: the queue is gone."""
        queue, lane, position = held
        count = lane.held.pop(position, None)
        if count is None:
            return None
        self._broker.unit.define(_requeue_name(lane, position), None)
        message = self._stored(queue.vhost, lane.number, position)
        if message is None:
            log.error("queue %s lost its message at %d while it waited", queue.name, position)
            return None
        return Delivery(queue, lane, position, message, True, count)

    def _read(self, bucket: Bucket, count_max: int) -> int:
        """Take rows of the lane into memory; returns how many."""
        if not bucket.unread_count:
            return 0
        try:
            rows = self._broker.store.read(bucket.lane, bucket.unread_from, count_max, _READ_BYTES)
        except (StoreError, OSError) as error:
            self._broker.note_damage(f"delayed messages in lane {bucket.lane}", error)
            return 0
        if not rows:
            if not self._broker.unit:
                # Nothing there and nothing on its way: the count was wrong.
                bucket.count -= bucket.unread_count
                self.count -= bucket.unread_count
                bucket.unread_count = 0
            return 0
        for position, stored, _ in rows:
            if position < bucket.restored_before and not stored.is_persistent:
                # It was in the store for want of memory, and must not outlive the broker.
                self._broker.unit.acknowledged.append((bucket.lane, position, stored))
                bucket.count -= 1
                self.count -= 1
                continue
            heappush(bucket.waiting, (stored.published_at, position, None))
        bucket.unread_from = rows[-1][0] + 1
        bucket.unread_count = max(0, bucket.unread_count - len(rows))
        return len(rows)

    def _publish_due(self, key: tuple[int, str], bucket: Bucket, now_ms: int, left: int) -> int:
        waiting = bucket.waiting
        vhost = self._broker.vhost(key[1])
        count = 0
        while waiting and waiting[0][0] <= now_ms and count < left:
            _, position, held = waiting[0]
            message = held
            if message is None:
                message = self._stored(vhost, bucket.lane, position)
                is_damaged = bucket.lane in self._damaged_lanes
                if message is None and self._broker.unit and not is_damaged:
                    break  # It is being committed in this turn.
            heappop(waiting)
            bucket.count -= 1
            self.count -= 1
            count += 1
            if held is not None:
                self._window_bytes -= len(held.body)
            if message is None:
                continue
            if held is None or message.is_persistent:
                self._broker.unit.acknowledged.append((bucket.lane, position, message))
            self._publish(vhost, message)
        return count

    def _stored(self, vhost: Vhost, lane: int, position: int) -> Message | None:
        try:
            rows = self._broker.store.read(lane, position, 1, _READ_BYTES)
        except (StoreError, OSError) as error:
            self._broker.note_damage(f"a delayed message, lane {lane} position {position},", error)
            self._damaged_lanes.add(lane)
            return None
        if not rows or rows[0][0] != position:
            return None
        stored = rows[0][1]
        return Message.from_stored(
            stored, vhost.destination_of(stored.exchange, stored.routing_key)
        )

    def _publish(self, vhost: Vhost, held: Message) -> None:
        message = _dated(held, self._broker.now_ms)
        try:
            if vhost.publish(message) >= 0:
                return
            cause = "a queue was full when the delayed message was due"
        except BrokerError as error:
            cause = f"{error.text}, when the delayed message was due"
        vhost.keep_letter(message, "undeliverable", cause)

    # Start

    def restore(self, vhost: str, bucket_number: int, lane: int, state: LaneState | None) -> None:
        """Put a bucket back as the store had it."""
        bucket = Bucket(lane)
        bucket.is_defined = True
        if state is not None:
            bucket.next = bucket.restored_before = state.next
            bucket.unread_from = state.first
            bucket.count = bucket.unread_count = state.count
            self.count += state.count
        self._add((bucket_number, vhost), bucket)

    def restore_requeues(self, definitions: list[tuple[list[Any], dict[str, Any]]]) -> None:
        """Hold back again what the store's definitions say; call once all queues are there."""
        made = [(key[1], key[2], value) for key, value in definitions if key[0] == "requeue"]
        if not made:
            return
        vhosts = self._broker.vhosts.values()
        queues = [queue for vhost in vhosts for queue in vhost.queues.values()]
        homes = {lane.number: (queue, lane) for queue in queues for lane in queue.lanes}
        for number, position, value in made:
            queue, lane = homes[number]
            lane.held[position] = value["count"]
            lane.has_gaps = True
            lane.paged_count -= 1
            if not lane.paged_count:
                lane.paged_bytes = 0
            self._add_requeue(value["due_ms"], _Held(queue, lane, position))
            self._remembered_count += 1


def _name(key: tuple[int, str]) -> str:
    return json.dumps(["delay", key[1], key[0]])


def _requeue_name(lane: Lane, position: int) -> str:
    return json.dumps(["requeue", lane.number, position])


def _dated(message: Message, at_ms: int) -> Message:
    """The same message as published at another time."""
    return Message(
        message.destination,
        message.format,
        message.header,
        message.body,
        message.is_persistent,
        message.priority,
        at_ms,
        message.expires_at,
    )


def delay_of(value: Any) -> int | None:
    """The milliseconds that an `x-delay` header asks for; None: it is not a whole number from 1 up."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            return None
        value = int(value)
    return int(value) if isinstance(value, int) and value > 0 else None
