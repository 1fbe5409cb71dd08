"""What an AMQP channel in tx mode holds back until commit.  Tests: tests/unit/broker/session/test_amqp_channel.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.message import Message


@final
class Transaction:
    """What a channel in tx mode has done since the last commit.

    `published`: message, mandatory flag, further routing keys.
    """

    __slots__ = ("acknowledged", "held_bytes", "published", "rejected", "requeued")

    def __init__(self) -> None:
        self.published: list[tuple[Message, bool, tuple[str, ...]]] = []
        self.acknowledged: list[tuple[int, Delivery]] = []
        self.rejected: list[tuple[int, Delivery]] = []
        self.requeued: list[tuple[int, Delivery]] = []
        self.held_bytes = 0

    def settled(self) -> list[tuple[int, Delivery]]:
        """All deliveries it would settle, by tag."""
        return sorted([*self.acknowledged, *self.rejected, *self.requeued], key=_first)


def _first(pair: tuple[int, Delivery]) -> int:
    return pair[0]
