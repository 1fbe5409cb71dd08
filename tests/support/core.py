"""A broker core for tests: a clock that is told the time, a store in memory, sinks that remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.core.broker import Broker, CoreLimits
from broker.core.delivery import Delivery
from broker.core.message import Message
from broker.core.subscription import UNLIMITED, Subscription
from broker.core.vhost import Vhost
from broker.wire.properties import AMQP, Properties
from store.memory import MemoryStore


class FakeClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int((self.seconds - 1000.0) * 1000)


class RecordingSink:
    """Takes deliveries and keeps them."""

    def __init__(self) -> None:
        self.is_writable = True
        self.taken: list[Delivery] = []
        self.cancelled_tags: list[str] = []

    def deliver(self, subscription: Subscription, run: list[Delivery]) -> None:
        self.taken.extend(run)

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        self.cancelled_tags.append(subscription.tag)

    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.taken]


class Core:
    """A broker with a vhost at hand and turns that end when told."""

    def __init__(self, limits: CoreLimits | None = None) -> None:
        self.clock = FakeClock()
        self.store: Any = MemoryStore()
        self._pending: list[Callable[[], None]] = []
        self.durable: list[int] = []
        recovered = self.store.open(
            self._pending.append, self.durable.append, lambda error: None, lambda is_blocked: None
        )
        names = iter(range(1_000_000))
        self.broker = Broker(self.store, self.clock, lambda: f"n{next(names)}", limits=limits)
        self.broker.restore(recovered)
        self.vhost: Vhost = self.broker.vhosts["/"]

    def publish(self, exchange: str, key: str, body: bytes, **properties: Any) -> int:
        from broker.wire.amqp import values

        made = Properties(**properties)
        destination = self.vhost.destination(exchange, key)
        expires_at = self.broker.now_ms + int(made.expiration) if made.expiration is not None else 0
        return self.vhost.publish(
            Message(
                destination,
                AMQP,
                values.encode_properties(made),
                body,
                made.delivery_mode == 2,
                made.priority or 0,
                self.broker.now_ms,
                expires_at,
            )
        )

    def subscribe(
        self,
        queue: str,
        *,
        credit: int = UNLIMITED,
        is_acknowledged: bool = True,
        sink: RecordingSink | None = None,
        **options: Any,
    ) -> tuple[Subscription, RecordingSink]:
        sink = sink or RecordingSink()
        subscription = Subscription(
            sink, "t", is_acknowledged=is_acknowledged, credit=credit, **options
        )
        self.vhost.subscribe(queue, subscription)
        return subscription, sink

    def turn(self) -> None:
        """End turns until nothing is left to do."""
        while True:
            self.broker.now_ms = self.clock.wall_ms()
            self.broker.dispatch()
            self.store.commit(self.broker.take_unit())
            pending, self._pending[:] = list(self._pending), []
            for call in pending:
                call()
            if not (self.broker.touched or self.broker.has_changes):
                return
