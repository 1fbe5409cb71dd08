"""The subscriptions of one STOMP peer: SUBSCRIBE, UNSUBSCRIBE, ACK, NACK and temporary queues.

Invariants: what a client has not settled is in exactly one `StompSubscription` (or in an open transaction); ACK frames of
one read are settled together (`flush`).  Tests: tests/unit/broker/session/test_stomp.py, tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from broker.core.selective import BrowseSink
from broker.core.subscription import UNLIMITED, Credit, Subscription
from broker.errors import BrokerError
from broker.session.stomp_consume import (
    DURABLE_NAME_HEADERS,
    GENERATED_PREFIX,
    SubscribeRequest,
    durable_name,
    queue_to_consume,
)
from broker.session.stomp_destinations import Headers, Name, is_true, parts_of, read_name
from broker.session.stomp_errors import StompError, bad_command, missing_header
from broker.session.stomp_profile import Profile
from broker.session.stomp_subscription import StompSubscription
from broker.session.stomp_transaction import SettleKind, Settlement
from broker.wire.stomp_headers import V10, V11, V12

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.delivery import Delivery
    from broker.core.vhost import Vhost
    from broker.session.auth import Identity
    from broker.session.stomp_connect import ConnectRequest, StompLimits

_DIGITS_MAX: Final = 18
_ZERO: Final = ord("0")
"""No id begins its number with it: ids are compared as they were sent."""


@final
class SubscriptionTable:
    """What one logged-in peer consumes; `owner` is its session."""

    __slots__ = (
        "_acknowledged",
        "_broker",
        "_by_key",
        "_by_prefix",
        "_client_id",
        "_count",
        "_identity",
        "_limits",
        "_temp_queues",
        "_token",
        "_version",
        "_vhost",
        "owner",
    )

    def __init__(
        self,
        broker: Broker,
        vhost: Vhost,
        identity: Identity,
        limits: StompLimits,
        owner: BrowseSink,
        request: ConnectRequest,
        token: bytes,
    ) -> None:
        self._broker = broker
        self._vhost = vhost
        self._identity = identity
        self._limits = limits
        self.owner = owner
        self._client_id = request.client_id
        self._version = request.version
        self._token = token
        self._by_key: dict[str, StompSubscription] = {}
        self._by_prefix: dict[bytes, StompSubscription] = {}
        self._count = 0
        self._temp_queues: dict[str, str] = {}
        self._acknowledged: list[Delivery] = []

    def subscribe(self, headers: Headers) -> None:
        """Take a SUBSCRIBE frame; raises StompError, BrokerError."""
        text = headers.get("destination")
        if not text:
            raise missing_header("SUBSCRIBE", "destination")
        id = headers.get("id")
        profile = self._limits.profile
        if id is None and self._version != V10 and profile.needs_ids:
            raise missing_header("SUBSCRIBE", "id")
        key = text if id is None else id
        if key in self._by_key:
            prefix = profile.id_prefixes[id is None]
            raise StompError(
                "Duplicated subscription identifier",
                f"A subscription identified by '{prefix}{key[:200]}' already exists.",
            )
        request = SubscribeRequest(headers, self._limits)
        queues: list[str] = []
        durable: list[str] = []
        filters = False
        for part in parts_of(text, profile):
            name = self.read_name(part, "SUBSCRIBE")
            queue, is_durable = queue_to_consume(
                name, self._vhost, self._identity, headers, self._client_id, self.owner, profile
            )
            queues.append(queue)
            if is_durable:
                durable.append(queue)
            filters = filters or name.kind in ("topic", "exchange")
        added = self._add_subscription(key, id, request, queues, filters=filters)
        added.durable_queues = durable
        added.destination = text

    def _add_subscription(
        self,
        key: str,
        id: str | None,
        request: SubscribeRequest,
        queues: list[str],
        *,
        filters: bool = False,
    ) -> StompSubscription:
        if len(self._by_prefix) >= self._limits.subscriptions_max:
            raise StompError(
                "Too many subscriptions", f"{len(self._by_prefix)} are open on this connection\n"
            )
        self._count += 1
        prefix = b"%b-%d" % (self._token, self._count)
        mode = "auto" if request.is_browser else request.ack_mode
        added = StompSubscription(
            self._vhost,
            id,
            key,
            prefix,
            mode,
            self._version,
            keeps_destination=self._limits.profile.keeps_destination,
        )
        is_acknowledged = mode != "auto"
        shared = Credit(request.prefetch) if is_acknowledged and len(queues) > 1 else None
        try:
            for queue in queues:
                subscription = Subscription(
                    self.owner,
                    key,
                    is_acknowledged=is_acknowledged,
                    credit=request.prefetch if is_acknowledged else UNLIMITED,
                    shared=shared,
                    priority=request.priority,
                    context=added,
                    selector=request.selector,
                    is_preferred=request.is_preferred,
                    drops_rest=filters,
                )
                if request.is_browser:
                    self._vhost.browse(queue, subscription, self.owner, self.owner)
                else:
                    self._vhost.subscribe(queue, subscription, self.owner)
                added.queue_names.append(queue)
                added.subscriptions.append(subscription)
        except BrokerError:
            self._close(added)
            raise
        self._by_key[key] = self._by_prefix[prefix] = added
        return added

    def _close(self, ended: StompSubscription) -> None:
        """Take a subscription out of the core; what it holds stays in its hands."""
        subscriptions, ended.subscriptions = ended.subscriptions, []
        for subscription in subscriptions:
            self._vhost.end_browsing(subscription)
            self._vhost.unsubscribe(subscription)

    def forget(self, ended: StompSubscription) -> None:
        """The core has ended a subscription: its id is free again."""
        self._close(ended)
        if self._by_key.get(ended.key) is ended:
            del self._by_key[ended.key]
        if not ended.unsettled:
            self._by_prefix.pop(ended.prefix, None)

    def browsed(self, subscription: Subscription, context: StompSubscription) -> bool:
        """A browser has seen all of one queue; True: it was the last one."""
        if subscription in context.subscriptions:
            context.subscriptions.remove(subscription)
        return not context.subscriptions

    def unsubscribe(self, headers: Headers) -> None:
        """Take an UNSUBSCRIBE frame; raises StompError, BrokerError."""
        key = headers.get("id", headers.get("destination"))
        durable = next((headers[h] for h in DURABLE_NAME_HEADERS if headers.get(h)), "")
        if not key and not durable:
            raise missing_header("UNSUBSCRIBE", "id")
        wants_delete = bool(durable) or any(
            is_true(headers, name, default=False) for name in ("durable", "persistent")
        )
        ended = self._by_key.pop(key or "", None)
        if ended is None:
            queues = [durable_name(headers, "", self._client_id)] if durable else []
            if not queues or queues[0] not in self._vhost.queues:
                kind = "id" if "id" in headers else "destination"
                raise StompError(
                    "No subscription found",
                    "UNSUBSCRIBE must refer to an existing subscription.\n"
                    f"Subscription to \"{kind}='{(key or '')[:200]}'\" not found.\n",
                )
        else:
            self._close(ended)
            queues = ended.durable_queues
            if not ended.unsettled:
                # Otherwise late ACKs are still welcome; what is never acknowledged goes back at the end.
                del self._by_prefix[ended.prefix]
        for queue in queues if wants_delete else ():
            self._identity.check(self._vhost.name, "configure", "queue", queue)
            self._vhost.delete_queue(queue, owner=self.owner)

    def read_name(self, text: str, command: str) -> Name:
        """Take a destination apart, temporary queues of this connection resolved."""
        name = read_name(text, self._vhost, self._limits.profile)
        if name.kind != "temp-queue":
            return name
        if command == "SUBSCRIBE":
            return Name(text, "amq/queue", self.temp_queue(text, is_implicit=False))
        queue = self._temp_queues.get(text)
        if queue is None:
            raise StompError(
                "Invalid destination",
                f"'{text[:300]}' is a temporary queue that this connection does not have\n",
            )
        return Name(text, "reply-queue", queue)

    def temp_queue(self, text: str, *, is_implicit: bool) -> str:
        """The queue behind /temp-queue/…, made at first use; an implicit one is subscribed to by its own name."""
        queue = self._temp_queues.get(text)
        if queue is not None and queue in self._vhost.queues:
            return queue
        read_name(text, self._vhost)
        if len(self._temp_queues) >= self._limits.subscriptions_max:
            raise StompError("Too many subscriptions", "Too many temporary queues\n")
        identity = self._identity
        identity.check(self._vhost.name, "configure", "queue", GENERATED_PREFIX)
        made = self._vhost.declare_queue("", exclusive=True, auto_delete=True, owner=self.owner)
        self._temp_queues[text] = made.name
        if is_implicit:
            identity.check(self._vhost.name, "read", "queue", made.name)
            request = SubscribeRequest({}, self._limits)
            self._add_subscription(text, text, request, [made.name])
        return made.name

    def ack(self, block: bytes) -> bool:
        """Settle by an ACK that has nothing but `id`, as most have; False: it needs to be read in full."""
        if self._version != V12 or not block.startswith(b"id:") or block.count(b"\n") != 1:
            return False
        prefix, _, digits = block[3:-1].rpartition(b"-")
        subscription = self._by_prefix.get(prefix)
        if (
            subscription is None
            or subscription.ack_mode == "auto"
            or not digits.isdigit()
            or digits[0] == _ZERO
            or len(digits) > _DIGITS_MAX
        ):
            return False
        taken = subscription.take(int(digits))
        if not taken:
            return False
        self._acknowledged += taken
        if not subscription.subscriptions and not subscription.unsettled:
            del self._by_prefix[prefix]
        return True

    def settle(
        self,
        kind: SettleKind,
        subscription: StompSubscription,
        number: int,
        cause: str,
        delay_ms: int,
    ) -> None:
        """Settle what an ACK or NACK of this message means; `find` has found it."""
        self.apply(kind, subscription.take(number), cause, delay_ms)
        if not subscription.subscriptions and not subscription.unsettled:
            self._by_prefix.pop(subscription.prefix, None)

    def apply(
        self, kind: SettleKind, deliveries: list[Delivery], cause: str, delay_ms: int
    ) -> None:
        """Settle deliveries that were taken out of their subscription."""
        if kind == "acknowledge":
            self._acknowledged += deliveries
            return
        self.flush()
        if kind == "requeue" and delay_ms:
            self._broker.delays.requeue(deliveries, self._broker.now_ms + delay_ms)
        elif kind == "requeue":
            self._broker.requeue(deliveries)
        else:
            self._broker.reject(deliveries, cause)

    def undo(self, settlement: Settlement) -> None:
        """Take back what an aborted transaction acknowledged."""
        subscription = settlement.subscription
        subscription.put_back(settlement.numbers, settlement.deliveries)
        self._by_prefix[subscription.prefix] = subscription

    def find(self, command: str, headers: Headers) -> tuple[StompSubscription, int] | None:
        """The message that an ACK or NACK names; None for one that needed none and is let pass.  Raises StompError."""
        profile = self._limits.profile
        if command == "NACK" and self._version == V10 and not profile.needs_message_only:
            raise bad_command(command)
        name = "id" if self._version == V12 else "message-id"
        value = headers.get(name)
        if value is None:
            raise missing_header(command, name)
        prefix, _, digits = value.encode().rpartition(b"-")
        subscription = self._by_prefix.get(prefix)
        is_number = digits.isdigit() and digits[0] != _ZERO and len(digits) <= _DIGITS_MAX
        if subscription is None or not is_number:
            raise _unknown_message(command, headers, profile)
        if self._version == V11 and not profile.needs_message_only:
            told = headers.get("subscription")
            if told is not None and told != subscription.id:
                raise StompError(
                    "Subscription not found",
                    f"There is no current subscription with tag '{told[:200]}'\n",
                )
        number = int(digits)
        if subscription.ack_mode == "auto":
            if profile.passes_auto_acks and subscription.was_sent(number):
                return None
            raise _unknown_message(command, headers, profile)
        if number not in subscription.unsettled:
            raise _unknown_message(command, headers, profile)
        return subscription, number

    def flush(self) -> None:
        """Settle what the ACK frames of this read named, in one call."""
        if self._acknowledged:
            acknowledged = self._acknowledged
            self._acknowledged = []
            self._broker.acknowledge(acknowledged)

    def release(self, also: list[Delivery]) -> None:
        """Give everything back to the core: subscriptions, what they (and `also`) hold, exclusive queues."""
        self.flush()
        held = list(also)
        for subscription in self._by_prefix.values():
            self._close(subscription)
            held.extend(subscription.unsettled.values())
            subscription.unsettled = {}
        self._by_prefix.clear()
        self._by_key.clear()
        if held:
            self._broker.release(held)
        self._broker.forget_owner(self.owner)


def _unknown_message(command: str, headers: Headers, profile: Profile) -> StompError:
    shown = headers.get("id", headers.get("message-id", ""))[:200]
    if profile.name == "activemq":
        text = f"Unexpected {command} received for message-id [{shown}]"
        return StompError(text, text + "\n")
    return StompError("Message not found", f"No message '{shown}' waits for an ACK or NACK here\n")
