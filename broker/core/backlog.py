"""What of a queue lies in the store only: read back a window at a time, looked at, counted.

The store answers with rows as of the last commit it was handed; what this turn's unit changes is `Choice.waiting`'s concern.
Invariant (store.md, promise 4): whatever the depth, a read costs no more than a window.
Tests: tests/unit/broker/core/test_queue.py, tests/property/test_queue_model.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.delivery import Delivery
from broker.core.message import Message

if TYPE_CHECKING:
    from broker.core.lane import Lane
    from broker.core.queue import Queue


def load(queue: Queue, lane: Lane) -> bool:
    """Read the next window of the backlog from the store; False: nothing can be had now."""
    if not lane.paged_count:
        return False
    broker = queue.broker
    rows = broker.store.read(
        lane.number, lane.paged_from, queue.window_count // 4, queue.window_bytes // 4
    )
    broker.memory.resident[queue] = None
    if not rows:
        if not broker.unit:
            # Nothing on disk and nothing on its way there: the count was wrong (transient leftovers of a restart).
            lane.paged_count = lane.paged_bytes = 0
        else:
            broker.touch_again(queue)
        return False
    lane.paged_from = rows[-1][0] + 1
    if queue.choice is not None:
        rows = queue.choice.waiting(lane, rows)
        if not rows:
            return load(queue, lane)
    read_bytes = 0
    for position, stored, count in rows:
        destination = queue.vhost.destination_of(stored.exchange, stored.routing_key)
        message = Message.from_stored(stored, destination)
        if position < lane.redelivered_before and count == 0:
            count = 1  # handed out before the restart, as far as can be known
        lane.ready.append(Delivery(queue, lane, position, message, True, count))
        lane.bytes += len(message.body)
        read_bytes += len(message.body) if lane.is_exact else message.size
        if message.expires_at and not queue.has_expiry:
            queue.note_expiry(message)
    lane.paged_count = max(0, lane.paged_count - len(rows))
    lane.paged_bytes = max(0, lane.paged_bytes - read_bytes) if lane.paged_count else 0
    return True


def peek(queue: Queue, count_max: int) -> list[tuple[int, Message, int]]:
    """Look at the first messages without taking them: (position, message, delivery count)."""
    found: list[tuple[int, Message, int]] = []
    for lane in reversed(queue.lanes):
        for delivery in lane.ready:
            if len(found) >= count_max:
                return found
            found.append((delivery.position, delivery.message, delivery.count))
        if lane.paged_count and len(found) < count_max:
            rows = queue.broker.store.read(
                lane.number, lane.paged_from, count_max - len(found), queue.window_bytes
            )
            if queue.choice is not None:
                rows = queue.choice.waiting(lane, rows)
            for position, stored, count in rows:
                destination = queue.vhost.destination_of(stored.exchange, stored.routing_key)
                found.append((position, Message.from_stored(stored, destination), count))
    return found


def count_bytes(queue: Queue, lane: Lane) -> None:
    """Count the bodies in the store: once after a restart, and only when the queue's bound may be reached."""
    total_bytes, at, left = 0, lane.paged_from, lane.paged_count
    while left > 0:
        rows = queue.broker.store.read(lane.number, at, left, queue.window_bytes)
        if not rows:
            break
        total_bytes += sum([len(stored.body) for _, stored, _ in rows])
        at = rows[-1][0] + 1
        left -= len(rows)
    lane.paged_bytes = total_bytes
    lane.is_exact = True
