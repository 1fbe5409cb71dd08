"""One message in one queue: waiting there, or handed to a subscription and not yet settled.

Tests: tests/unit/broker/core/test_queue.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from broker.core.lane import Lane
    from broker.core.message import Message
    from broker.core.queue import Queue
    from broker.core.subscription import Subscription


@final
class Delivery:
    """A message at its position of a queue.

    `count` is how often it was handed out before (over 0: redelivered).  `subscription` is who has it now; None while it
    waits and for `basic.get`.
    """

    __slots__ = (
        "count",
        "is_stored",
        "lane",
        "message",
        "position",
        "queue",
        "subscription",
    )

    def __init__(
        self,
        queue: Queue,
        lane: Lane,
        position: int,
        message: Message,
        is_stored: bool,
        count: int,
    ) -> None:
        self.queue = queue
        self.lane = lane
        self.position = position
        self.message = message
        self.is_stored = is_stored
        self.count = count
        self.subscription: Subscription | None = None
