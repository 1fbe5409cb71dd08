"""What of a queue lies in the store only: read back a window at a time, looked at, counted.

The store answers with rows as of the last commit it was handed: what this turn's unit changes is looked up there.
Invariant (store.md, promise 4): whatever the depth, a read costs no more than a window.
Tests: tests/unit/broker/core/test_queue.py, tests/property/test_queue_model.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.core.delivery import Delivery
from broker.core.lane import LOAD_FIRST
from broker.core.message import Message
from store.interface import CHANGE_REQUEUE, StoreError

if TYPE_CHECKING:
    from broker.core.lane import Lane
    from broker.core.queue import Queue
    from store.interface import StoredMessage

LOOK_BYTES: Final = 8 << 20
"""Bodies read at once to be looked at or counted, not kept."""
LOAD_MIN: Final = 2
"""Messages read at once at the least."""
LOAD_MAX: Final = 1 << 20
LOAD_GROWTH: Final = 4
"""By how much each read of a backlog is larger than the one before, up to the window's share."""

Row = tuple[int, "StoredMessage", int]
"""What the store has at a position: the position, the message, how often it was delivered."""


def read(queue: Queue, lane: Lane, first: int, count_max: int, bytes_max: int) -> list[Row] | None:
    """Read of a lane what the store has; None when that is damaged, which is logged once: the queue stands still there."""
    try:
        return queue.broker.store.read(lane.number, first, count_max, bytes_max)
    except (StoreError, OSError) as error:
        queue.broker.note_damage(f"queue {queue.name}", error)
        return None


def load(queue: Queue, lane: Lane) -> bool:
    """Read the next window of the backlog from the store; False: nothing can be had now."""
    if not lane.paged_count:
        return False
    broker = queue.broker
    broker.memory.resident[queue] = None
    window = broker.memory.window_of(queue)
    # A window of messages that lie one by one on a slow disk takes long: the first message should not wait for it.
    count_max = min(lane.load_count, max(LOAD_MIN, window.count // 4))
    bytes_max = window.bytes // 4
    lane.load_count = min(lane.load_count * LOAD_GROWTH, LOAD_MAX)
    rows: list[Row] | None = []
    while not rows:
        rows = read(queue, lane, lane.paged_from, count_max, bytes_max)
        if rows is None:
            return False
        if not rows:
            if not broker.unit:
                # Nothing on disk and nothing on its way there: the count was wrong (transient leftovers of a restart).
                lane.paged_count = lane.paged_bytes = 0
            else:
                broker.touch_again(queue)
            return False
        lane.paged_from = rows[-1][0] + 1
        rows = waiting(queue, lane, rows)
    vhost, append, from_stored = queue.vhost, lane.ready.append, Message.from_stored
    redelivered_before = lane.redelivered_before
    destination = vhost.destination_of(rows[0][1].exchange, rows[0][1].routing_key)
    for position, stored, count in rows:
        if stored.routing_key != destination.routing_key or stored.exchange != destination.exchange:
            destination = vhost.destination_of(stored.exchange, stored.routing_key)
        message = from_stored(stored, destination)
        if not count and position < redelivered_before:
            count = 1  # handed out before the restart, as far as can be known
        append(Delivery(queue, lane, position, message, True, count))
        if message.expires_at and not queue.has_expiry:
            queue.note_expiry(message)
    body_bytes = sum([len(row[1].body) for row in rows])
    lane.bytes += body_bytes
    read_bytes = body_bytes if lane.is_exact else sum([row[1].size for row in rows])
    lane.paged_count = max(0, lane.paged_count - len(rows))
    lane.paged_bytes = max(0, lane.paged_bytes - read_bytes) if lane.paged_count else 0
    if not lane.paged_count:
        lane.has_gaps = False
        lane.load_count = LOAD_FIRST
    return True


def leave(queue: Queue, lane: Lane, returned: list[Delivery]) -> list[Delivery]:
    """Leave to the store what came back (in order) to places beyond the window; returns what belongs in memory."""
    if not lane.paged_count:
        return returned
    kept: list[Delivery] = []
    for delivery in returned:
        if delivery.position < lane.paged_from:
            kept.append(delivery)
        else:
            lane.paged_count += 1
            lane.paged_bytes += len(delivery.message.body)
            queue.broker.unit.requeue(lane.number, delivery.position, delivery.count)
    return kept


def waiting(queue: Queue, lane: Lane, rows: list[Row]) -> list[Row]:
    """Of rows as the store has them, those that wait to be delivered, with this turn's changes.

    Without a choice and gaps nothing from `paged_from` on was ever handed out.
    """
    if queue.choice is None and not lane.has_gaps:
        return rows
    unit = queue.broker.unit
    number = lane.number
    gone = {position for lane_number, position, _ in unit.acknowledged if lane_number == number}
    gone.update(lane.unsettled, lane.held)
    counts = {
        change[2]: change[3]
        for change in unit.changes
        if change[0] == CHANGE_REQUEUE and change[1] == number
    }
    return [
        (position, stored, counts.get(position, count))
        for position, stored, count in rows
        if position not in gone
    ]


def peek(queue: Queue, count_max: int) -> list[tuple[int, Message, int]]:
    """Look at the first messages without taking them: (position, message, delivery count)."""
    found: list[tuple[int, Message, int]] = []
    for lane in reversed(queue.lanes):
        for delivery in lane.ready:
            if len(found) >= count_max:
                return found
            found.append((delivery.position, delivery.message, delivery.count))
        if lane.paged_count and len(found) < count_max:
            rows = read(queue, lane, lane.paged_from, count_max - len(found), LOOK_BYTES)
            for position, stored, count in waiting(queue, lane, rows or []):
                destination = queue.vhost.destination_of(stored.exchange, stored.routing_key)
                found.append((position, Message.from_stored(stored, destination), count))
    return found


def stored_head(queue: Queue, lane: Lane) -> Message | None:
    """Look at the first message that lies in the store; None if that cannot be said without reading a window."""
    if not lane.paged_count:
        return None
    rows = waiting(queue, lane, read(queue, lane, lane.paged_from, 1, 1) or [])
    if not rows:
        return None
    stored = rows[0][1]
    return Message.from_stored(
        stored, queue.vhost.destination_of(stored.exchange, stored.routing_key)
    )


def count_bytes(queue: Queue, lane: Lane) -> None:
    """Count the bodies in the store: once after a restart, and only when the queue's bound may be reached."""
    total_bytes, at, left = 0, lane.paged_from, lane.paged_count
    while left > 0:
        rows = read(queue, lane, at, left, LOOK_BYTES)
        if not rows:
            break
        at = rows[-1][0] + 1
        rows = waiting(queue, lane, rows)
        total_bytes += sum([len(stored.body) for _, stored, _ in rows])
        left -= len(rows)
    lane.paged_bytes = total_bytes
    lane.is_exact = True
