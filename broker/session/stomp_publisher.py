"""SEND: header blocks become plans, plans become messages.

A publisher repeats its headers, so the plans of the blocks it used are kept and a SEND costs a look-up.
Tests: tests/unit/broker/session/test_stomp.py, tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from broker.core.message import Message
from broker.errors import AccessRefused
from broker.session.stomp_destinations import Headers, parts_of, publish_to, write_name
from broker.session.stomp_errors import missing_header
from broker.session.stomp_plans import PlanTable
from broker.session.stomp_profile import Profile
from broker.session.stomp_send import SendPlan, check_send, kept_block, read_headers
from broker.wire.properties import STOMP
from broker.wire.stomp_headers import V12, escape, split_block
from broker.wire.stomp_properties import REPLY_QUEUE_PREFIX

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost
    from broker.session.auth import Identity
    from broker.session.stomp_subscriptions import SubscriptionTable

TEMP_QUEUE_PREFIX: Final = "/temp-queue/"


@final
class Publisher:
    """What one logged-in peer publishes with; `plans` maps header blocks."""

    __slots__ = (
        "_broker",
        "_identity",
        "_profile",
        "_subscriptions",
        "_table",
        "_version",
        "_vhost",
        "plans",
    )

    def __init__(
        self,
        broker: Broker,
        vhost: Vhost,
        identity: Identity,
        subscriptions: SubscriptionTable,
        version: int,
        profile: Profile,
        table: PlanTable,
    ) -> None:
        self._broker = broker
        self._vhost = vhost
        self._identity = identity
        self._subscriptions = subscriptions
        self._version = version
        self._profile = profile
        self._table = table
        self.plans = table.plans

    def publish(self, plan: SendPlan, body: bytes) -> int:
        """Hand a message to the core; returns what `Vhost.publish` does.  Raises BrokerError."""
        vhost = self._vhost
        if plan.version != vhost.version:
            self.renew(plan)
        if plan.is_special:
            return self._publish_special(plan, body)
        now_ms = self._broker.now_ms
        message = Message(
            plan.destination,
            STOMP,
            plan.header,
            body,
            plan.is_persistent,
            plan.priority,
            now_ms,
            plan.expires_at(now_ms) if plan.has_expiry else 0,
        )
        queue = plan.queue
        if queue is not None:
            self._broker.metrics.published_count += 1
            queue.publish(message)
            return 1
        if not plan.is_resolved:
            plan.is_resolved = True
            plan.queue = vhost.only_queue(plan.destination)
        return vhost.publish(message)

    def _publish_special(self, plan: SendPlan, body: bytes) -> int:
        """Publish to one or more destinations, now or later; what is refused by one counts before what reached none."""
        vhost = self._vhost
        now_ms = self._broker.now_ms
        results: list[int] = []
        if plan.also:
            # All or nothing: what one destination would refuse comes before anything is published.
            self.check(plan)
        for one in (plan, *plan.also):
            due_ms = one.due_at(now_ms)
            message = Message(
                one.destination,
                STOMP,
                one.header,
                body,
                one.is_persistent,
                one.priority,
                now_ms,
                one.expires_at(due_ms) if one.has_expiry else 0,
            )
            if one.has_group:
                vhost.keep_groups(message)
            if due_ms > now_ms:
                self._broker.delays.hold(vhost, message, due_ms)
                results.append(1)
                continue
            results.append(vhost.publish(message))
        return min(results) if min(results) <= 0 else sum(results)

    def renew(self, plan: SendPlan) -> None:
        """Make sure of a plan's destination again: the topology changed."""
        plan.destination = publish_to(
            plan.name, self._vhost, self._identity, plan.headers, self._subscriptions.owner
        )
        plan.version = self._vhost.version
        plan.is_resolved = False
        plan.queue = None

    def check(self, plan: SendPlan) -> None:
        """Raise whatever `publish` would raise, before anything was published."""
        for one in (plan, *plan.also):
            self.renew(one)
            exchange = self._vhost.exchange(one.destination.exchange)
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
        plan = self._plan(text, headers)
        reply_to = headers.get("reply-to", "")
        new_reply_to: bytes | None = None
        if reply_to.startswith(TEMP_QUEUE_PREFIX):
            queue = self._subscriptions.temp_queue(reply_to, is_implicit=True)
            new_reply_to = (REPLY_QUEUE_PREFIX + queue).encode()
        for one in (plan, *plan.also):
            original = one.name.text.encode() if self._profile.keeps_destination else None
            if original is not None and escape(original, V12) == self._shown(one):
                original = None
            one.header = kept_block(pairs, new_reply_to, original)
        if new_reply_to is None:
            self._table.keep(block, plan)
        return plan

    def forget(self) -> None:
        """Forget all plans: rights changed, or the peer is gone."""
        self._table.clear()

    def _shown(self, plan: SendPlan) -> bytes:
        """The destination as MESSAGE frames have it, made from exchange and key."""
        return plan.destination.stomp_name or write_name(plan.destination, self._vhost)

    def _plan(self, text: str, headers: Headers) -> SendPlan:
        """The plan for a destination, with those of a composite's other parts."""
        made: list[SendPlan] = []
        for part in reversed(parts_of(text, self._profile)):
            name = self._subscriptions.read_name(part, "SEND")
            destination = publish_to(
                name, self._vhost, self._identity, headers, self._subscriptions.owner
            )
            # An exchange that delays does so itself.
            delays = (
                self._profile.delays and not self._vhost.exchange(destination.exchange).is_delayed
            )
            plan = SendPlan(
                name, destination, headers, self._vhost.version, delays=delays, also=tuple(made)
            )
            if not self._profile.honors_mandatory:
                plan.is_mandatory = False
            made.insert(0, plan)
        return made[0]
