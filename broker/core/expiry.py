"""Time to live: what in a queue has expired, and when to look at it again.

A message expires when it is at the head of its lane, in bounded numbers a turn (RabbitMQ's rules; protocols.md 3.2, TTL).
Invariant: while anything in a queue may expire, `has_expiry` is set and the broker watches the queue.
Tests: tests/unit/broker/core/test_expiry.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.core.backlog import load, stored_head

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.lane import Lane
    from broker.core.message import Message
    from broker.core.queue import Queue

EXPIRE_MAX: Final = 250
"""The most messages that one queue lets expire in one turn, so that ten million at once delay nobody."""
LOOK_AGAIN_MS: Final = 100
"""How soon to look again at a head that lives, behind which something may expire."""


def has_expired(queue: Queue, message: Message) -> bool:
    """Whether a message of this queue is past its time to live."""
    # Strictly: with a time to live of 0 a message still reaches who waits in the same turn (RabbitMQ).
    now_ms = queue.broker.now_ms
    if 0 < message.expires_at < now_ms:
        return True
    ttl_ms = queue.settings.message_ttl_ms
    return ttl_ms is not None and message.published_at + ttl_ms < now_ms


def is_dead_on_arrival(queue: Queue, message: Message) -> bool:
    """Whether its time to live is 0: only who waits already can have it."""
    return 0 < message.expires_at <= queue.broker.now_ms or queue.settings.message_ttl_ms == 0


def due_ms(queue: Queue, message: Message) -> int:
    """When a message at the head expires; soon, if it never does, for the sake of those behind it."""
    at_ms = message.expires_at or 0
    ttl_ms = queue.settings.message_ttl_ms
    if ttl_ms is not None and (not at_ms or message.published_at + ttl_ms < at_ms):
        at_ms = message.published_at + ttl_ms
    return at_ms + 1 if at_ms else queue.broker.now_ms + LOOK_AGAIN_MS


def bury(queue: Queue, delivery: Delivery) -> None:
    """Dead-letter an expired message that was taken from its lane."""
    queue.broker.metrics.expired_count += 1
    queue.vhost.dead_letter(queue, delivery, "expired", "time to live passed")


def take_living(queue: Queue, lane: Lane, count: int) -> list[Delivery]:
    """Take so many from the head of a lane and return those that have not expired."""
    run: list[Delivery] = []
    for _ in range(count):
        delivery = lane.ready.popleft()
        lane.bytes -= len(delivery.message.body)
        if has_expired(queue, delivery.message):
            bury(queue, delivery)
        else:
            run.append(delivery)
    watch_head(queue, lane)
    return run


def watch_head(queue: Queue, lane: Lane) -> None:
    """A message became the head of its lane: only now its expiry acts."""
    if lane.ready:
        queue.broker.watch(queue, due_ms(queue, lane.ready[0].message))
    elif lane.paged_count:
        queue.broker.watch(queue, queue.broker.now_ms + LOOK_AGAIN_MS)


def expire(queue: Queue) -> None:
    """Let the heads of all lanes expire, a bounded number a turn, and say when to look again."""
    left = EXPIRE_MAX
    next_ms = 0
    queue.is_expiring = False
    for lane in queue.lanes:
        head = None if lane.ready else stored_head(queue, lane)
        if head is not None and not has_expired(queue, head):
            # It stays where it is: a window of each of ten thousand queues would be the whole backlog in memory.
            if head.expires_at or queue.settings.message_ttl_ms is not None:
                queue.has_expiry = True
                at_ms = due_ms(queue, head)
                next_ms = min(next_ms, at_ms) if next_ms else at_ms
            continue
        while lane.ready or load(queue, lane):
            if left <= 0:
                queue.is_expiring = True
                queue.broker.touch_again(queue)
                return
            message = lane.ready[0].message
            if not has_expired(queue, message):
                at_ms = due_ms(queue, message)
                next_ms = min(next_ms, at_ms) if next_ms else at_ms
                break
            left -= 1
            delivery = lane.ready.popleft()
            lane.bytes -= len(message.body)
            bury(queue, delivery)
    if next_ms and queue.has_expiry:
        queue.broker.watch(queue, next_ms)
    elif not next_ms:
        queue.has_expiry = queue.settings.message_ttl_ms is not None
