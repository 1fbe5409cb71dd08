"""What a STOMP client did since BEGIN: kept until COMMIT does all of it in one turn, or ABORT undoes it.

Nothing of it is seen by the core before COMMIT; acknowledged messages stay in the client's hands meanwhile.
Tests: tests/unit/broker/session/test_stomp_transaction.py.
"""

from __future__ import annotations

from typing import Literal, final

from broker.core.delivery import Delivery
from broker.session.stomp_send import SendPlan
from broker.session.stomp_subscription import StompSubscription

SettleKind = Literal["acknowledge", "requeue", "reject"]


@final
class Settlement:
    """One ACK or NACK of a transaction, with the deliveries it took out of its subscription."""

    __slots__ = ("cause", "deliveries", "kind", "numbers", "subscription")

    def __init__(
        self, kind: SettleKind, subscription: StompSubscription, number: int, cause: str
    ) -> None:
        self.kind: SettleKind = kind
        self.subscription = subscription
        self.cause = cause
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

    def undo(self) -> None:
        """Give what was acknowledged back to its subscriptions."""
        for settlement in self.settlements:
            settlement.subscription.put_back(settlement.numbers, settlement.deliveries)

    def deliveries(self) -> list[Delivery]:
        """Everything it took out of subscriptions."""
        return [one for settlement in self.settlements for one in settlement.deliveries]
