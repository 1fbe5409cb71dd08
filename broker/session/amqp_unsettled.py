"""The delivery tags of an AMQP channel, and what was handed out under them and is not settled yet.

Invariants: tags only grow, from 1; every tag that is not settled is a key of `deliveries`.
Tests: tests/unit/broker/session/test_amqp_unsettled.py, tests/unit/broker/session/test_amqp_channel.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from broker.errors import PreconditionFailed
from broker.session.amqp_patience import Patience

if TYPE_CHECKING:
    from broker.core.delivery import Delivery

Taken = list[tuple[int, "Delivery"]]
"""Deliveries with their tags, in the order of the tags."""


@final
class Unsettled:
    """What one channel has handed out; `last_tag`: the highest tag so far, settled or not."""

    __slots__ = ("_first", "_patience", "deliveries", "last_tag")

    def __init__(self) -> None:
        self.deliveries: dict[int, Delivery] = {}
        self.last_tag = 0
        # No tag below it is unsettled.
        self._first = 1
        self._patience = Patience()

    def hand_out(self, run: list[Delivery], *, is_acknowledged: bool) -> int:
        """Give deliveries their tags, and keep those that will be acknowledged; returns the tag before the first."""
        tag = self.last_tag
        if is_acknowledged:
            deliveries = self.deliveries
            for number, delivery in enumerate(run, tag + 1):
                deliveries[number] = delivery
        self.last_tag = tag + len(run)
        return tag

    def forget(self, tag: int) -> None:
        """The delivery under this tag was never sent."""
        self.deliveries.pop(tag, None)

    def take(self, tag: int, multiple: bool) -> Taken:
        """Remove what a tag names, or all up to it (0: all); raises PreconditionFailed."""
        deliveries = self.deliveries
        if not multiple:
            delivery = deliveries.pop(tag, None)
            if delivery is None:
                raise PreconditionFailed(f"unknown delivery tag {tag}")
            return [(tag, delivery)]
        if tag == 0:
            tag = self.last_tag
        elif tag not in deliveries:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        # Tags in a row, or where most of them are settled long since, those that are there: never by the age of the channel,
        # nor from the front of a dict that lost its front, which is slow to find.
        numbers: Iterable[int] = range(self._first, tag + 1)
        if tag - self._first > 2 * len(deliveries):
            numbers = sorted([number for number in deliveries if number <= tag])
        taken: Taken = []
        for number in numbers:
            delivery = deliveries.pop(number, None)
            if delivery is not None:
                taken.append((number, delivery))
        self._first = tag + 1
        return taken

    def take_all(self) -> list[Delivery]:
        """Remove everything, in the order of the tags."""
        deliveries = [self.deliveries[tag] for tag in sorted(self.deliveries)]
        self.deliveries.clear()
        self._first = self.last_tag + 1
        return deliveries

    def put_back(self, taken: Taken) -> None:
        """Undo `take`: a transaction was rolled back."""
        for tag, delivery in taken:
            self.deliveries[tag] = delivery
            self._first = min(self._first, tag)

    def consumed_count(self) -> int:
        """How many were handed to consumers; the others were fetched by basic.get, which no prefetch counts."""
        return sum(1 for one in self.deliveries.values() if one.subscription is not None)

    def is_overdue(self, now: float, timeout_seconds: float) -> bool:
        """Whether a delivery has waited too long for its acknowledgement."""
        return self._patience.is_over(self.deliveries, self.last_tag, now, timeout_seconds)
