"""The bounds of a queue: `x-max-length`, `x-max-length-bytes`, and what happens beyond them (`x-overflow`).

Who waits takes first, as if each message were handed on when it comes; the bounds are exact, also for what lies in the store only.
Tests: tests/unit/broker/core/test_queue.py, tests/unit/broker/core/test_expiry.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.backlog import count_bytes, load

if TYPE_CHECKING:
    from broker.core.message import Message
    from broker.core.queue import Queue


def has_room(queue: Queue, message: Message) -> bool:
    """Whether one more message fits a queue that refuses what does not; by its policy it becomes a dead letter."""
    size_bytes = len(message.body)
    if not _is_over(queue, 1, size_bytes):
        return True
    if queue.subscriptions:
        queue.dispatch()
        if not _is_over(queue, 1, size_bytes):
            return True
    if queue.settings.overflow == "reject-publish-dlx":
        queue.vhost.dead_letter_message(queue, message, "maxlen", "queue is full")
    return False


def trim(queue: Queue) -> None:
    """Drop from the head what is over the bounds, after those who wait took theirs."""
    if queue.settings.overflow != "drop-head" or not _is_over(queue):
        return
    if queue.subscriptions:
        queue.dispatch()
    while _is_over(queue) and _drop_head(queue):
        pass


def _is_over(queue: Queue, more_count: int = 0, more_bytes: int = 0) -> bool:
    """Whether the queue is over its bounds, with so much more."""
    settings = queue.settings
    if settings.length_max is not None and queue.depth + more_count > settings.length_max:
        return True
    if settings.bytes_max is None or queue.ready_bytes + more_bytes <= settings.bytes_max:
        return False
    if all(lane.is_exact for lane in queue.lanes):
        return True
    for lane in queue.lanes:
        count_bytes(queue, lane)
    return queue.ready_bytes + more_bytes > settings.bytes_max


def _drop_head(queue: Queue) -> bool:
    for lane in queue.lanes:
        if lane.ready or load(queue, lane):
            delivery = lane.ready.popleft()
            lane.bytes -= len(delivery.message.body)
            queue.vhost.dead_letter(
                queue, delivery, "maxlen", "dropped from the head: queue is full"
            )
            return True
    return False
