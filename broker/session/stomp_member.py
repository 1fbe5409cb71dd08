"""A STOMP peer that has logged in: as whom, where, and what its frames do besides SEND, CONNECT and DISCONNECT.

Each frame is a function that takes the member and the frame's headers; `COMMANDS` is their table.
Tests: tests/conformance/stomp*.json, tests/unit/broker/session/test_stomp.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from broker.session.stomp_destinations import Headers, is_true
from broker.session.stomp_send import nack_delay
from broker.session.stomp_transaction import SettleKind, TransactionTable

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost
    from broker.session.auth import Identity
    from broker.session.stomp_connect import StompLimits
    from broker.session.stomp_publisher import Publisher
    from broker.session.stomp_subscriptions import SubscriptionTable


@final
class Member:
    """What one logged-in peer has."""

    __slots__ = ("identity", "profile", "publisher", "subscriptions", "transactions", "vhost")

    def __init__(
        self,
        vhost: Vhost,
        identity: Identity,
        subscriptions: SubscriptionTable,
        publisher: Publisher,
        limits: StompLimits,
    ) -> None:
        self.vhost = vhost
        self.identity = identity
        self.subscriptions = subscriptions
        self.publisher = publisher
        self.transactions = TransactionTable(limits)
        self.profile = limits.profile

    def objection(self, broker: Broker) -> str:
        """Why the peer may not be here any more, after accounts or vhosts changed; empty if it may."""
        identity, name = self.identity, self.vhost.name
        if not identity.is_valid:
            return f"User '{identity.name}' was deleted"
        if broker.vhosts.get(name) is not self.vhost:
            return f"Virtual host '{name}' was deleted"
        if not identity.may_enter(name):
            return f"Virtual host '{name}' access denied"
        return ""

    def release(self) -> None:
        """Give everything back to the core.  Twice is once."""
        self.publisher.forget()
        self.subscriptions.release(self.transactions.drop())


def _ack(member: Member, headers: Headers) -> None:
    _settle(member, "ACK", "acknowledge", headers)


def _nack(member: Member, headers: Headers) -> None:
    is_back = is_true(headers, "requeue", default=member.profile.requeues_nacks)
    _settle(member, "NACK", "requeue" if is_back else "reject", headers)


def _settle(member: Member, command: str, kind: SettleKind, headers: Headers) -> None:
    """Settle what an ACK or NACK names: now, or with its transaction."""
    found = member.subscriptions.find(command, headers)
    if found is None:
        return
    name = headers.get("transaction")
    cause = headers.get("cause", "")
    if kind == "reject" and not cause and "requeue" not in headers:
        cause = "NACK"  # ActiveMQ's way: what is not consumed is kept as a dead letter.
    delay_ms = nack_delay(headers) if kind == "requeue" else 0
    if name is not None:
        member.transactions.settle(name, kind, *found, cause, delay_ms)
    else:
        member.subscriptions.settle(kind, *found, cause, delay_ms)


def _subscribe(member: Member, headers: Headers) -> None:
    member.subscriptions.subscribe(headers)


def _unsubscribe(member: Member, headers: Headers) -> None:
    member.subscriptions.unsubscribe(headers)


def _begin(member: Member, headers: Headers) -> None:
    member.transactions.begin(headers)


def _commit(member: Member, headers: Headers) -> None:
    member.transactions.commit(headers, member.publisher, member.subscriptions)


def _abort(member: Member, headers: Headers) -> None:
    member.transactions.abort(headers, member.subscriptions)


COMMANDS: Final[dict[bytes, Callable[[Member, Headers], None]]] = {
    b"SUBSCRIBE": _subscribe,
    b"UNSUBSCRIBE": _unsubscribe,
    b"ACK": _ack,
    b"NACK": _nack,
    b"BEGIN": _begin,
    b"COMMIT": _commit,
    b"ABORT": _abort,
}
"""What to call, with the member and the frame's headers; raises StompError, BrokerError."""
