"""SEND: header blocks become plans, plans become messages.

A publisher repeats its headers, so the plans of the blocks it used are kept and a SEND costs a look-up.
Tests: tests/unit/broker/session/test_stomp.py, tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from broker.core.message import Message
from broker.errors import AccessRefused
from broker.session.stomp_destinations import publish_to
from broker.session.stomp_errors import missing_header
from broker.session.stomp_send import SendPlan, check_send, kept_block, read_headers
from broker.wire.properties import STOMP
from broker.wire.stomp_headers import split_block
from broker.wire.stomp_properties import REPLY_QUEUE_PREFIX

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost
    from broker.session.auth import Identity
    from broker.session.stomp_subscriptions import SubscriptionTable

TEMP_QUEUE_PREFIX: Final = "/temp-queue/"
_PLANS_MAX: Final = 64
_PLAN_BYTES_MAX: Final = 1024


@final
class Publisher:
    """What one logged-in peer publishes with; `plans` maps header blocks."""

    __slots__ = ("_broker", "_identity", "_subscriptions", "_version", "_vhost", "plans")

    def __init__(
        self,
        broker: Broker,
        vhost: Vhost,
        identity: Identity,
        subscriptions: SubscriptionTable,
        version: int,
    ) -> None:
        self._broker = broker
        self._vhost = vhost
        self._identity = identity
        self._subscriptions = subscriptions
        self._version = version
        self.plans: dict[bytes, SendPlan] = {}

    def publish(self, plan: SendPlan, body: bytes) -> int:
        """Hand a message to the core; returns what `Vhost.publish` does.  Raises BrokerError."""
        vhost = self._vhost
        if plan.version != vhost.version:
            self.renew(plan)
        now_ms = self._broker.now_ms
        return vhost.publish(
            Message(
                plan.destination,
                STOMP,
                plan.header,
                body,
                plan.is_persistent,
                plan.priority,
                now_ms,
                plan.expires_at(now_ms) if plan.has_expiry else 0,
            )
        )

    def renew(self, plan: SendPlan) -> None:
        """Make sure of a plan's destination again: the topology changed."""
        plan.destination = publish_to(
            plan.name, self._vhost, self._identity, plan.headers, self._subscriptions.owner
        )
        plan.version = self._vhost.version

    def check(self, plan: SendPlan) -> None:
        """Raise whatever `publish` would raise, before anything was published."""
        self.renew(plan)
        exchange = self._vhost.exchange(plan.destination.exchange)
        if exchange.is_internal:
            raise AccessRefused(
                f"cannot publish to internal exchange '{exchange.name}' in vhost '{self._vhost.name}'"
            )

    def make_plan(self, block: bytes) -> SendPlan:
        """Read a block; raises StompError, BrokerError."""
        pairs = split_block(block, self._version)
        headers = read_headers(pairs)
        identity = self._identity
        check_send(pairs, headers, identity)
        text = headers.get("destination")
        if not text:
            raise missing_header("SEND", "destination")
        name = self._subscriptions.read_name(text, "SEND")
        destination = publish_to(name, self._vhost, identity, headers, self._subscriptions.owner)
        plan = SendPlan(name, destination, headers, self._vhost.version)
        reply_to = headers.get("reply-to", "")
        new_reply_to: bytes | None = None
        if reply_to.startswith(TEMP_QUEUE_PREFIX):
            queue = self._subscriptions.temp_queue(reply_to, is_implicit=True)
            new_reply_to = (REPLY_QUEUE_PREFIX + queue).encode()
        plan.header = kept_block(pairs, new_reply_to)
        if len(block) <= _PLAN_BYTES_MAX and new_reply_to is None:
            if len(self.plans) >= _PLANS_MAX:
                self.plans.clear()
            self.plans[block] = plan
        return plan
