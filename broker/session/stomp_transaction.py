"""What a STOMP client did since BEGIN: kept until COMMIT does all of it in one turn, or ABORT undoes it.

Nothing of it is seen by the core before COMMIT; acknowledged messages stay in the client's hands meanwhile.
Tests: tests/unit/broker/session/test_stomp.py, tests/conformance/stomp*.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from broker.core.delivery import Delivery
from broker.session.stomp_connect import StompLimits
from broker.session.stomp_destinations import Headers
from broker.session.stomp_errors import StompError, missing_header
from broker.session.stomp_send import SendPlan, refused
from broker.session.stomp_subscription import StompSubscription

if TYPE_CHECKING:
    from broker.session.stomp_publisher import Publisher
    from broker.session.stomp_subscriptions import SubscriptionTable

SettleKind = Literal["acknowledge", "requeue", "reject"]


@final
class Settlement:
    """One ACK or NACK of a transaction, with the deliveries it took out of its subscription."""

    __slots__ = ("cause", "delay_ms", "deliveries", "kind", "numbers", "subscription")

    def __init__(
        self,
        kind: SettleKind,
        subscription: StompSubscription,
        number: int,
        cause: str,
        delay_ms: int,
    ) -> None:
        self.kind: SettleKind = kind
        self.subscription = subscription
        self.cause = cause
        self.delay_ms = delay_ms
        self.numbers = subscription.numbers(number)
        self.deliveries = subscription.take(number)


@final
class Transaction:
    """An open transaction; `size_bytes` counts bodies and headers of its messages."""

    __slots__ = ("sends", "settlements", "size_bytes")

    def __init__(self) -> None:
        self.sends: list[tuple[SendPlan, bytes]] = []
        self.settlements: list[Settlement] = []
        self.size_bytes = 0

    @property
    def frame_count(self) -> int:
        """Frames that it keeps."""
        return len(self.sends) + len(self.settlements)

    def send(self, plan: SendPlan, body: bytes) -> None:
        """Keep a message."""
        self.sends.append((plan, body))
        self.size_bytes += len(body) + len(plan.header)

    def settle(self, settlement: Settlement) -> None:
        """Keep an ACK or NACK."""
        self.settlements.append(settlement)

    def deliveries(self) -> list[Delivery]:
        """Everything it took out of subscriptions."""
        return [one for settlement in self.settlements for one in settlement.deliveries]


@final
class TransactionTable:
    """The open transactions of one session, within its limits; all methods raise StompError."""

    __slots__ = ("_limits", "_open")

    def __init__(self, limits: StompLimits) -> None:
        self._limits = limits
        self._open: dict[str, Transaction] = {}

    def begin(self, headers: Headers) -> None:
        """Take a BEGIN frame."""
        name = _name("BEGIN", headers)
        if name in self._open:
            raise StompError("Bad transaction", f"Transaction '{name[:200]}' has begun already\n")
        if len(self._open) >= self._limits.transactions_max:
            raise StompError("Bad transaction", f"{len(self._open)} transactions are open\n")
        self._open[name] = Transaction()

    def send(self, name: str, plan: SendPlan, body: bytes) -> None:
        """Keep a message for COMMIT."""
        transaction = self._named(name)
        transaction.send(plan, body)
        self._check(transaction)

    def settle(
        self,
        name: str,
        kind: SettleKind,
        subscription: StompSubscription,
        number: int,
        cause: str,
        delay_ms: int,
    ) -> None:
        """Keep an ACK or NACK for COMMIT; what it means leaves its subscription at once."""
        transaction = self._named(name)
        transaction.settle(Settlement(kind, subscription, number, cause, delay_ms))
        self._check(transaction)

    def commit(
        self, headers: Headers, publisher: Publisher, subscriptions: SubscriptionTable
    ) -> None:
        """Take a COMMIT frame: publish and settle, all in this turn; raises BrokerError before anything was done."""
        name = _name("COMMIT", headers)
        transaction = self._named(name)
        for plan, _ in transaction.sends:
            publisher.check(plan)
        del self._open[name]
        error: StompError | None = None
        for plan, body in transaction.sends:
            reached = publisher.publish(plan, body)
            if reached <= 0 and (plan.is_mandatory or reached < 0) and error is None:
                error = refused(plan, reached)
                error.body += "The rest of the transaction was committed.\n"
        for settlement in transaction.settlements:
            subscriptions.apply(
                settlement.kind, settlement.deliveries, settlement.cause, settlement.delay_ms
            )
        subscriptions.flush()
        if error is not None:
            raise error

    def abort(self, headers: Headers, subscriptions: SubscriptionTable) -> None:
        """Take an ABORT frame: what was acknowledged is in the client's hands again."""
        name = _name("ABORT", headers)
        transaction = self._named(name)
        del self._open[name]
        for settlement in transaction.settlements:
            subscriptions.undo(settlement)

    def drop(self) -> list[Delivery]:
        """Abort all, at the end of a connection; returns what they took out of subscriptions."""
        held = [one for transaction in self._open.values() for one in transaction.deliveries()]
        self._open.clear()
        return held

    def _named(self, name: str) -> Transaction:
        transaction = self._open.get(name)
        if transaction is None:
            raise StompError("Bad transaction", f'Invalid transaction identifier: "{name[:200]}"\n')
        return transaction

    def _check(self, transaction: Transaction) -> None:
        limits = self._limits
        if (
            transaction.frame_count > limits.transaction_frames_max
            or transaction.size_bytes > limits.transaction_bytes_max
        ):
            raise StompError(
                "Bad transaction",
                f"A transaction holds at most {limits.transaction_frames_max} frames and "
                f"{limits.transaction_bytes_max} bytes\n",
            )


def _name(command: str, headers: Headers) -> str:
    name = headers.get("transaction")
    if name is None:
        raise missing_header(command, "transaction")
    return name
