"""Who consumes: a subscription with its credit, and the sink it delivers to.

Credit is kept by the core alone: taken when a run is delivered, given back when its deliveries are settled.
Tests: tests/unit/broker/core/test_subscription.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.queue import Queue
    from broker.core.selector import Selector

UNLIMITED = 1 << 40
"""Credit of a subscription that has no limit of its own."""


class Sink(Protocol):
    """Where deliveries go: a session, or a channel of one."""

    is_writable: bool
    """False: the peer reads too slowly, nothing is delivered.  Set it True again through `Broker.resume`."""

    def deliver(self, subscription: Subscription, run: list[Delivery]) -> None:
        """Encode a run of messages, in order; it must not call back into the core."""
        ...

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        """The queue is gone (or the broker ended the subscription); it has been taken out already."""
        ...


@final
class Credit:
    """Credit shared by several subscriptions (AMQP's channel-wide prefetch)."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


@final
class Subscription:
    """One consumer of one queue.

    `is_acknowledged` False: a delivery is settled by being sent.  `priority`: higher ones are served first while they have
    credit (RabbitMQ's `x-priority`).  `selector` says which messages it wants; None is all.  `is_preferred`: while it is
    there, the others of its queue get nothing (ActiveMQ's exclusive consumer).  `drops_rest`: alone at
    its queue, what the selector does not want is dropped (a topic's subscriber), not left for others.  `tag` and `context` are the session's own.
    """

    __slots__ = (
        "context",
        "credit",
        "drops_rest",
        "is_acknowledged",
        "is_exclusive",
        "is_preferred",
        "priority",
        "queue",
        "selector",
        "shared",
        "sink",
        "tag",
        "unsettled",
    )

    def __init__(
        self,
        sink: Sink,
        tag: str,
        *,
        is_acknowledged: bool,
        credit: int = UNLIMITED,
        shared: Credit | None = None,
        is_exclusive: bool = False,
        priority: int = 0,
        context: object = None,
        selector: Selector | None = None,
        is_preferred: bool = False,
        drops_rest: bool = False,
    ) -> None:
        self.sink = sink
        self.tag = tag
        self.is_acknowledged = is_acknowledged
        self.credit = credit
        self.shared = shared
        self.is_exclusive = is_exclusive
        self.priority = priority
        self.context = context
        self.selector = selector
        self.is_preferred = is_preferred
        self.drops_rest = drops_rest
        self.queue: Queue | None = None
        self.unsettled = 0

    def room(self) -> int:
        """How many messages it may take now."""
        if not self.sink.is_writable:
            return 0
        if self.shared is not None and self.shared.left < self.credit:
            return self.shared.left
        return self.credit
