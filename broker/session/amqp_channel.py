"""A channel of an AMQP connection: content in, deliveries out, settling, confirms, transactions.

What declares and deletes is in `amqp_topology`; the table of methods that a channel takes is in `amqp_operations`; its delivery tags
are in `amqp_unsettled`, what it holds in tx mode is in `amqp_transaction`.  A channel is the core's Sink for its consumers.
Tests: tests/unit/broker/session/test_amqp_channel.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final, final

from broker.core.arguments import type_name
from broker.core.message import Message
from broker.core.subscription import UNLIMITED, Credit, Subscription
from broker.errors import (
    NotAllowed,
    NotFound,
    NotImplementedByBroker,
    PreconditionFailed,
    ResourceLimit,
)
from broker.session.amqp_consumer import Consumer
from broker.session.amqp_reply import REPLY_TO, add_queue, with_name
from broker.session.amqp_transaction import Transaction
from broker.session.amqp_unsettled import Unsettled
from broker.wire.amqp import methods
from broker.wire.amqp.frames import content_frames, content_pieces, method_frame
from broker.wire.properties import AMQP

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.session.amqp_connection import AmqpConnection

NO_ROUTE: Final = 312
_TAG: Final = Struct(">Q").pack
_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"


@final
class AmqpChannel:
    """One open channel; `is_open` is False once either side began to close it."""

    __slots__ = (
        "_named_count",
        "_prefetch",
        "_shared",
        "_shared_limit",
        "_transaction",
        "confirmed_seq",
        "connection",
        "consumers",
        "is_confirming",
        "is_open",
        "is_writable",
        "last_queue",
        "late",
        "number",
        "promised_seq",
        "published_seq",
        "reply_queue",
        "unsettled",
        "vhost",
    )

    def __init__(self, connection: AmqpConnection, number: int, *, is_writable: bool) -> None:
        assert connection.vhost is not None, "channels open after the vhost"
        self.connection = connection
        self.vhost = connection.vhost
        self.number = number
        self.is_open = True
        self.is_writable = is_writable
        self.last_queue: str | None = None
        self.late: list[bytes] | None = None
        """Where frames go that must come after the answer under way."""
        self.consumers: dict[str, Subscription] = {}
        self.is_confirming = False
        self.published_seq = 0
        self.promised_seq = 0
        self.confirmed_seq = 0
        self.unsettled = Unsettled()
        self._prefetch = 0
        self._shared: Credit | None = None
        self._shared_limit = 0
        self._transaction: Transaction | None = None
        self._named_count = 0
        self.reply_queue = ""

    # Out

    def reply(self, name: str, *values: Any) -> None:
        """Send a method."""
        self.connection.out.append(method_frame(self.number, methods.encode(name, *values)))

    def deliver(self, subscription: Subscription, run: list[Delivery]) -> None:
        """Encode a run of deliveries (the core calls it)."""
        connection = self.connection
        if not connection.is_awake:
            connection.rouse()
        consumer = subscription.context
        assert isinstance(consumer, Consumer), "subscriptions of a channel carry their consumer"
        tag = self.unsettled.hand_out(run, is_acknowledged=subscription.is_acknowledged)
        consumer.encode(run, tag, connection.out)
        if consumer.unfit:
            for number, _ in consumer.unfit:
                self.unsettled.forget(number)
            connection.unfit.append(
                ([delivery for _, delivery in consumer.unfit], subscription.is_acknowledged)
            )
            consumer.unfit = []

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        """The queue is gone: tell the peer if it wants to know (the core calls it)."""
        self.consumers.pop(subscription.tag, None)
        self.connection.rouse()
        if self.is_open and self.connection.wants_cancel:
            frame = method_frame(
                self.number, methods.encode("basic.cancel", subscription.tag, True)
            )
            (self.connection.out if self.late is None else self.late).append(frame)

    # Publishing

    def publish(self, method: bytes, header: bytes, bodies: list[bytes]) -> None:
        """Publish a run of messages that differ only in their bodies."""
        connection = self.connection
        publishing = connection.publishing
        assert publishing is not None, "channels open after the vhost"
        route = publishing.routes.get(method)
        if route is None:
            route = publishing.find_route(method)
        destination, is_mandatory = route
        traits = publishing.traits.get(header)
        if traits is None:
            traits = publishing.find_traits(header)
        is_persistent, priority, expiration_ms, extras = traits
        copies: tuple[str, ...] = ()
        if extras is not None:
            copies = extras.copies
            if extras.wants_reply:
                header = with_name(self, header)
            if extras.has_group:
                # Of a run all have the same properties, and go the same ways.
                first = Message(destination, AMQP, header, b"", False, 0, 0, 0)
                self.vhost.keep_groups(first, copies)
        now_ms = connection.broker.now_ms
        expires_at = 0 if expiration_ms is None else now_ms + expiration_ms
        if self._transaction is not None:
            for body in bodies:
                message = Message(
                    destination, AMQP, header, body, is_persistent, priority, now_ms, expires_at
                )
                self._transaction.hold(message, is_mandatory, copies, connection.limits)
            return
        is_confirming = self.is_confirming
        if is_confirming:
            connection.promises.confirming[self] = None
        if extras is None and (queue := self.vhost.only_queue(destination)) is not None:
            connection.broker.metrics.published_count += len(bodies)
            publish = queue.publish
            for body in bodies:
                publish(
                    Message(
                        destination, AMQP, header, body, is_persistent, priority, now_ms, expires_at
                    )
                )
            if is_confirming:
                self.published_seq += len(bodies)
                self.promised_seq = self.published_seq
            return
        for body in bodies:
            message = Message(
                destination, AMQP, header, body, is_persistent, priority, now_ms, expires_at
            )
            reached = (
                self.vhost.publish(message)
                if extras is None or not extras.is_copied
                else self.vhost.publish_copied(message, (message.routing_key, *copies))
            )
            if reached < 1:
                self._not_taken(message, reached, is_mandatory)
            elif is_confirming:
                self.published_seq += 1
                self.promised_seq = self.published_seq

    def _not_taken(self, message: Message, reached: int, is_mandatory: bool) -> None:
        """A message that no queue took, or that a full one refused."""
        if reached == 0 and is_mandatory:
            self._return(message)
        if not self.is_confirming:
            return
        self.published_seq += 1
        if reached == 0:
            self.promised_seq = self.published_seq
        else:
            payload = _NACK + _TAG(self.published_seq) + b"\x00"
            self.connection.out.append(method_frame(self.number, payload))

    def _return(self, message: Message) -> None:
        method = methods.encode(
            "basic.return", NO_ROUTE, "NO_ROUTE", message.exchange, message.routing_key
        )
        frames = content_frames(
            self.number,
            method,
            message.header_as(AMQP),
            message.body,
            self.connection.frame_bytes_max,
        )
        self.connection.out.append(frames)

    def confirm(self, seq: int) -> None:
        """Tell the publisher that everything up to `seq` is safe."""
        count = seq - self.confirmed_seq
        if count > 0 and self.is_open:
            self.confirmed_seq = seq
            payload = _ACK + _TAG(seq) + (b"\x01" if count > 1 else b"\x00")
            self.connection.out.append(method_frame(self.number, payload))

    def confirm_select(self, nowait: bool) -> None:
        """Begin to confirm publishes."""
        if self._transaction is not None:
            raise PreconditionFailed("cannot switch from tx to confirm mode")
        self.is_confirming = True
        if not nowait:
            self.reply("confirm.select-ok")

    # Consuming

    def qos(self, size_bytes: int, count: int, is_global: bool) -> None:
        """Limit what may be unsettled: of each new consumer, or of the whole channel."""
        if size_bytes:
            raise NotImplementedByBroker(f"prefetch_size!=0 ({size_bytes})")
        if not is_global:
            self._prefetch = count
        else:
            self._shared_limit = count
            if self._shared is None:
                self._shared = Credit(0)
            self._shared.left = (count or UNLIMITED) - self.unsettled.consumed_count()
            for subscription in self.consumers.values():
                if subscription.is_acknowledged:
                    subscription.shared = self._shared
            self.connection.broker.resume(self)
        self.reply("basic.qos-ok")

    def consume(
        self, queue: str, tag: str, no_ack: bool, exclusive: bool, nowait: bool, arguments: Any
    ) -> None:
        """Start a consumer."""
        connection = self.connection
        queue = self.queue_name(queue)
        if queue != REPLY_TO:
            connection.check("read", "queue", queue)
        if tag in self.consumers:
            raise NotAllowed(f"attempt to reuse consumer tag '{tag}'")
        if len(self.consumers) >= connection.limits.channel_consumers_max:
            raise ResourceLimit(
                f"more than {connection.limits.channel_consumers_max} consumers on a channel"
            )
        while not tag or tag in self.consumers:
            self._named_count += 1
            tag = f"amq.ctag-{connection.broker.random_name()}-{self._named_count}"
        if queue == REPLY_TO:
            queue = add_queue(self, no_ack)
        subscription = Subscription(
            self,
            tag,
            is_acknowledged=not no_ack,
            credit=UNLIMITED if no_ack else self._prefetch or UNLIMITED,
            shared=None if no_ack else self._shared,
            is_exclusive=exclusive,
            priority=_priority(arguments, queue, self.vhost.name),
            context=Consumer(tag, self.number, connection.frame_bytes_max),
        )
        self.vhost.subscribe(queue, subscription, owner=connection)
        self.consumers[tag] = subscription
        if not nowait:
            self.reply("basic.consume-ok", tag)
            connection.gap.begin(len(connection.out))

    def cancel(self, tag: str, nowait: bool) -> None:
        """End a consumer; what it has not settled stays on the channel."""
        subscription = self.consumers.pop(tag, None)
        if subscription is not None:
            self.vhost.unsubscribe(subscription)
        if not nowait:
            self.reply("basic.cancel-ok", tag)

    def get(self, queue: str, no_ack: bool) -> None:
        """Fetch one message."""
        connection = self.connection
        queue = self.queue_name(queue)
        connection.check("read", "queue", queue)
        while True:
            found = self.vhost.get(queue, not no_ack, owner=connection)
            if found is None:
                self.reply("basic.get-empty", "")
                return
            delivery, left_count = found
            if len(delivery.message.header_as(AMQP)) <= connection.header_bytes_max:
                break
            connection.refuse_unfit([delivery], is_acknowledged=not no_ack)
        tag = self.unsettled.hand_out([delivery], is_acknowledged=not no_ack) + 1
        message = delivery.message
        method = methods.encode(
            "basic.get-ok",
            tag,
            delivery.count > 0,
            message.exchange,
            message.routing_key,
            left_count,
        )
        connection.out += content_pieces(
            self.number, method, message.header_as(AMQP), message.body, connection.frame_bytes_max
        )

    def queue_name(self, name: str) -> str:
        """The name, or for "" the queue declared last on this channel."""
        if name:
            return name
        if self.last_queue is None:
            raise NotFound("no previously declared queue")
        return self.last_queue

    # Settling

    def acknowledge(self, tag: int, multiple: bool) -> None:
        """Settle one delivery, or all up to it, for good."""
        taken = self.unsettled.take(tag, multiple)
        if self._transaction is not None:
            self._transaction.acknowledged += taken
        else:
            self.connection.acknowledged += [delivery for _, delivery in taken]

    def nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        """Refuse one delivery, or all up to it: back to the queue, or dead."""
        taken = self.unsettled.take(tag, multiple)
        transaction = self._transaction
        if transaction is not None:
            (transaction.requeued if requeue else transaction.rejected).extend(taken)
            return
        deliveries = [delivery for _, delivery in taken]
        broker = self.connection.broker
        if requeue:
            broker.requeue(deliveries)
        else:
            broker.reject(deliveries)

    def recover(self, requeue: bool, *, is_answered: bool) -> None:
        """Put everything unsettled back into its queue."""
        if not requeue:
            raise NotImplementedByBroker("requeue=false")
        self.connection.broker.requeue(self.unsettled.take_all())
        if is_answered:
            self.reply("basic.recover-ok")

    # Transactions

    def tx_select(self) -> None:
        """Begin transactions."""
        if self.is_confirming:
            raise PreconditionFailed("cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = Transaction()
        self.reply("tx.select-ok")

    def tx_commit(self) -> None:
        """Do what was held, all in this turn's unit."""
        transaction = self._require_transaction()
        transaction.check(self.vhost)
        transaction.begin_lives(self.connection.broker.now_ms)
        self._transaction = Transaction()
        is_whole = True
        for message, is_mandatory, copies in transaction.published:
            reached = (
                self.vhost.publish_copied(message, (message.routing_key, *copies))
                if copies
                else self.vhost.publish(message)
            )
            if reached == 0 and is_mandatory:
                self._return(message)
            is_whole = is_whole and reached >= 0
        broker = self.connection.broker
        broker.acknowledge([delivery for _, delivery in transaction.acknowledged])
        broker.requeue([delivery for _, delivery in transaction.requeued])
        broker.reject([delivery for _, delivery in transaction.rejected])
        if not is_whole:
            raise PreconditionFailed("partial tx completion")
        self.connection.reply_when_durable(self, "tx.commit-ok")

    def tx_rollback(self) -> None:
        """Forget what was held; its deliveries are unsettled again."""
        transaction = self._require_transaction()
        self.unsettled.put_back(transaction.settled())
        self._transaction = Transaction()
        self.reply("tx.rollback-ok")

    def _require_transaction(self) -> Transaction:
        if self._transaction is None:
            raise PreconditionFailed("channel is not transactional")
        return self._transaction

    # The end

    def close(self) -> list[Delivery]:
        """End all consumers and return what is unsettled, for the caller to requeue.  Twice is once."""
        self.is_open = False
        for subscription in self.consumers.values():
            self.vhost.unsubscribe(subscription)
        self.consumers.clear()
        if self._transaction is not None:
            self.unsettled.put_back(self._transaction.settled())
            self._transaction = None
        return self.unsettled.take_all()


def _priority(arguments: dict[str, Any], queue: str, vhost: str) -> int:
    priority = arguments.get("x-priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise PreconditionFailed(
            f"invalid arg 'x-priority' for queue '{queue}' in vhost '{vhost}': "
            f'"expected integer, got {type_name(priority)}"'
        )
    return priority
