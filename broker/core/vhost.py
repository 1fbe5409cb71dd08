"""A vhost: a namespace of exchanges and queues, routing between them, dead letters and consumers.

Tests: tests/unit/broker/core/test_vhost.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from broker.core import dead_letter
from broker.core.delay import delay_of
from broker.core.destination import AddressTable, Destination
from broker.core.queue import Queue
from broker.core.selective import Browser, BrowseSink
from broker.core.topology import Topology
from broker.errors import AccessRefused, ResourceLocked

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.delivery import Delivery
    from broker.core.exchange import Exchange
    from broker.core.message import Message
    from broker.core.subscription import Subscription

log = logging.getLogger(__name__)

DESTINATIONS_MAX: Final = 10_000
"""Interned destinations kept; at the bound all are forgotten and made anew as they come."""
DEAD_LETTER_QUEUE: Final = "dead-letter"
"""Where dead letters go when nothing else was said."""
HOPS_MAX: Final = 1000
"""Exchanges visited while routing one message."""


@final
class Vhost(Topology):
    """One namespace of a broker."""

    def __init__(self, broker: Broker, name: str, addresses: AddressTable) -> None:
        super().__init__(broker, name, addresses)
        self._destinations: dict[tuple[str, str], Destination] = {}

    def _as_vhost(self) -> Vhost:
        return self

    # Publishing

    def destination(self, exchange: str, routing_key: str) -> Destination:
        """The interned destination; raises NotFound if there is no such exchange."""
        if exchange not in self.exchanges:
            self.exchange(exchange)
        return self.destination_of(exchange, routing_key)

    def destination_of(self, exchange: str, routing_key: str) -> Destination:
        """The interned destination, whether the exchange is (still) there or not."""
        key = (exchange, routing_key)
        found = self._destinations.get(key)
        if found is None:
            if len(self._destinations) >= DESTINATIONS_MAX:
                self._destinations.clear()
            found = self._destinations[key] = Destination(exchange, routing_key)
        return found

    def publish(self, message: Message) -> int:
        """Route a message to its queues.

        Returns how many took it: 0 is unroutable, -1 refused by a full queue.  Raises NotFound if the exchange is
        gone, AccessRefused if it is internal.
        """
        destination = message.destination
        queues = destination.queues
        if destination.version != self.version:
            queues = self._resolve(destination)
        if queues is None:
            if self.exchanges[destination.exchange].is_delayed:
                return self._publish_delayed(message)
            keys = (destination.routing_key,)
            queues = self._route(destination.exchange, keys, message) or ()
        self.broker.metrics.published_count += 1
        if len(queues) == 1:
            return 1 if queues[0].publish(message) else -1
        return self._put(message, queues)

    def only_queue(self, destination: Destination) -> Queue | None:
        """The queue that takes every message of a destination, whatever happens meanwhile; None: ask `publish` for each.

        For runs: who publishes to it counts the messages himself.  Raises as `publish` does.
        """
        queues = destination.queues
        if destination.version != self.version:
            queues = self._resolve(destination)
        if queues is None or len(queues) != 1 or queues[0].is_bounded:
            return None
        return queues[0]

    def publish_copied(self, message: Message, keys: tuple[str, ...]) -> int:
        """Route a message by several keys at once (CC, BCC), each queue once; else as `publish`."""
        exchange = self._open_exchange(message.exchange)
        if exchange.is_delayed:
            return self._publish_delayed(message)
        self.broker.metrics.published_count += 1
        queues = self._route(message.exchange, keys, message) or ()
        return self._put(dead_letter.without_blind_copies(message), queues)

    def _publish_delayed(self, message: Message) -> int:
        """Hold back a message of a delayed exchange; one that asks for no delay, or has had it, goes on."""
        headers = message.properties.headers or {}
        delay_ms = delay_of(headers.get("x-delay"))
        if delay_ms is not None:
            delays = self.broker.delays
            held = dead_letter.without_delay(message, delay_ms)
            delays.hold(self, held, self.broker.now_ms + delay_ms)
            return 1
        self.broker.metrics.published_count += 1
        copies = dead_letter.copies_of(headers)
        keys = (message.routing_key, *copies, *dead_letter.copies_of(headers, "BCC"))
        queues = self._route(message.exchange, keys, message) or ()
        return self._put(dead_letter.without_blind_copies(message), queues)

    def _put(self, message: Message, queues: Sequence[Queue]) -> int:
        if not queues:
            return self._unroutable(message)
        refused = 0
        for queue in queues:
            if not queue.publish(message):
                refused += 1
        return -1 if refused else len(queues)

    def _resolve(self, destination: Destination) -> tuple[Queue, ...] | None:
        exchange = self._open_exchange(destination.exchange)
        destination.queues = (
            None
            if exchange.is_delayed
            else self._route(exchange.name, (destination.routing_key,), None)
        )
        destination.version = self.version
        return destination.queues

    def _open_exchange(self, name: str) -> Exchange:
        """The exchange, if it may be published to."""
        exchange = self.exchange(name)
        if exchange.is_internal:
            raise AccessRefused(
                f"cannot publish to internal exchange '{exchange.name}' in vhost '{self.name}'"
            )
        return exchange

    def _route(
        self, exchange_name: str, keys: tuple[str, ...], message: Message | None
    ) -> tuple[Queue, ...] | None:
        """Queues reached by an exchange and keys; None if headers decide and there is no message to ask."""
        found: dict[Queue, None] = {}
        seen: set[str] = set()
        pending = [exchange_name]
        while pending and len(seen) < HOPS_MAX:
            name = pending.pop()
            exchange = self.exchanges.get(name)
            if exchange is None or name in seen:
                continue
            seen.add(name)
            if not name:
                found.update(dict.fromkeys(self.queues[key] for key in keys if key in self.queues))
                continue
            if exchange.router.needs_headers and message is None:
                return None
            headers = message.properties.headers if message is not None else None
            is_matched = False
            for key in keys:
                for target in exchange.router.match(key, headers):
                    is_matched = True
                    if isinstance(target, Queue):
                        found[target] = None
                    else:
                        pending.append(target.name)
            if not is_matched and exchange.alternate:
                pending.append(exchange.alternate)
        return tuple(found)

    def _unroutable(self, message: Message) -> int:
        exchange = self.exchanges[message.exchange]
        if not exchange.keeps_unroutable:
            self.broker.metrics.unroutable_count += 1
            return 0
        cause = (
            f"no queue is bound to exchange '{message.exchange}' for key '{message.routing_key}'"
        )
        self._publish_letter(message, "", "unroutable", cause)
        return 1

    # Dead letters

    def dead_letter(
        self, queue: Queue, delivery: Delivery, reason: str, cause: str, *, keep: bool = False
    ) -> None:
        """End a message's stay in a queue: republish it as the queue's arguments say, and forget it there.

        Without a dead-letter exchange it is dropped as RabbitMQ does, except what was delivered too often and what a
        client rejected with a cause (`keep`): that goes to the queue `dead-letter`.
        """
        self.dead_letter_message(
            queue, delivery.message, reason, cause, keep=keep or reason == "delivery_limit"
        )
        queue.forget(delivery)

    def dead_letter_message(
        self, queue: Queue, message: Message, reason: str, cause: str, *, keep: bool = False
    ) -> None:
        """Republish a message that dies in a queue, if there is anywhere to send it."""
        exchange = queue.settings.dead_letter_exchange
        if exchange is None:
            if keep and queue.name != DEAD_LETTER_QUEUE:
                self._publish_letter(message, queue.name, reason, cause)
            return
        if exchange not in self.exchanges:
            return
        key = queue.settings.dead_letter_key
        destination = self.destination_of(exchange, message.routing_key if key is None else key)
        self.broker.metrics.dead_lettered_count += 1
        self.broker.letters.append(
            (
                self,
                dead_letter.letter(
                    message,
                    destination,
                    queue.name,
                    reason,
                    cause,
                    self.broker.now_ms,
                    keeps_copies=key is None,
                ),
            )
        )

    def post(self, letter: Message) -> None:
        """Publish a dead letter, but not into queues that it would circle through for ever."""
        exchange = self.exchanges.get(letter.exchange)
        if exchange is None:
            return
        headers = letter.properties.headers or {}
        keys = (letter.routing_key, *dead_letter.copies_of(headers))
        queues = self._route(exchange.name, keys, letter) or ()
        circle = dead_letter.circle_of(headers)
        if len(circle) >= dead_letter.DEATHS_MAX:
            log.warning("dead letter dropped: it died in %d queues already", len(circle))
            return
        if any(queue.name in circle for queue in queues):
            log.warning(
                "dead letter dropped: it would circle through %s in vhost %s without end",
                ", ".join(sorted(queue.name for queue in queues if queue.name in circle)),
                self.name,
            )
            queues = tuple(queue for queue in queues if queue.name not in circle)
        self.broker.metrics.published_count += 1
        for queue in queues:
            queue.publish(letter)

    def keep_letter(self, message: Message, reason: str, cause: str) -> None:
        """Keep a message that belongs to no queue in `dead-letter`."""
        self._publish_letter(message, "", reason, cause)

    def _publish_letter(self, message: Message, queue: str, reason: str, cause: str) -> None:
        if DEAD_LETTER_QUEUE not in self.queues:
            self.declare_queue(DEAD_LETTER_QUEUE, durable=True)
        destination = self.destination_of("", DEAD_LETTER_QUEUE)
        self.broker.metrics.dead_lettered_count += 1
        self.broker.letters.append(
            (
                self,
                dead_letter.letter(
                    message,
                    destination,
                    queue,
                    reason,
                    cause,
                    self.broker.now_ms,
                    keeps_copies=False,
                ),
            )
        )

    # Consuming

    def subscribe(self, queue: str, subscription: Subscription, owner: object = None) -> None:
        """Add a consumer; raises NotFound, ResourceLocked, AccessRefused (exclusive use)."""
        target = self.queue(queue, owner)
        if (
            target.subscriptions
            and (subscription.is_exclusive or target.subscriptions[0].is_exclusive)
        ) or (subscription.is_exclusive and target.settings.is_single_active):
            raise AccessRefused(f"queue '{queue}' in vhost '{self.name}' in exclusive use")
        subscription.queue = target
        target.subscriptions.append(subscription)
        if subscription.selector is not None or subscription.is_preferred:
            target.choose()
        if target.choice is not None:
            target.choice.review()
        target.was_consumed = True
        self.broker.attach(subscription)
        target.touch()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a consumer; what it holds stays in its hands.  Twice is once."""
        queue = subscription.queue
        if queue is None:
            return
        subscription.queue = None
        self.broker.detach(subscription)
        was_active = queue.subscriptions[0] is subscription
        queue.subscriptions.remove(subscription)
        if queue.choice is not None:
            queue.choice.review()
        queue.unused_since_ms = self.broker.now_ms
        if queue.settings.expires_ms is not None:
            self.broker.watch(queue, self.broker.now_ms + queue.settings.expires_ms)
        if was_active and queue.settings.is_single_active and queue.subscriptions:
            # The next one: the first of those with the highest priority.
            following = max(queue.subscriptions, key=_priority_of)
            queue.subscriptions.remove(following)
            queue.subscriptions.insert(0, following)
        if queue.is_auto_delete and not queue.subscriptions:
            self.drop_queue(queue)
        else:
            queue.touch()

    def browse(
        self, queue: str, subscription: Subscription, sink: BrowseSink, owner: object = None
    ) -> None:
        """Show everything that waits in a queue to a subscription's sink, taking nothing; raises NotFound, ResourceLocked."""
        target = self.queue(queue, owner)
        subscription.queue = target
        self.broker.attach(subscription)
        target.choose().browse(Browser(target, subscription, sink))
        target.touch()

    def end_browsing(self, subscription: Subscription) -> None:
        """Stop showing.  Twice is once."""
        queue = subscription.queue
        if queue is not None and queue.choice is not None:
            queue.choice.end_browsing(subscription)

    def group(self, queue: Queue) -> None:
        """Keep the messages of each message group with one consumer, from now on."""
        choice = queue.choose()
        if not choice.is_grouped:
            choice.is_grouped = True
            choice.review()
            if queue.is_durable:
                self.broker.unit.define(self._key("queue", queue.name), queue.definition())

    def keep_groups(self, message: Message, copies: tuple[str, ...] = ()) -> None:
        """Keep message groups in every queue that a message (and its copies) is routed to now."""
        for queue in self._route(message.exchange, (message.routing_key, *copies), message) or ():
            self.group(queue)

    def get(
        self, queue: str, is_acknowledged: bool, owner: object = None
    ) -> tuple[Delivery, int] | None:
        """Take one message and say how many are left; None if there is none."""
        target = self.queue(queue, owner)
        if target.settings.is_single_active:
            raise ResourceLocked(
                f"cannot obtain access to locked queue '{queue}' in vhost '{self.name}'. basic.get operations are not "
                "supported by classic queues with single active consumer"
            )
        self.broker.serve(target)
        delivery = target.take(is_acknowledged)
        return None if delivery is None else (delivery, target.depth)


def _priority_of(subscription: Subscription) -> int:
    return subscription.priority
