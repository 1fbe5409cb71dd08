"""What an AMQP channel in tx mode holds back until commit.  Tests: tests/unit/broker/session/test_amqp_channel.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from broker.errors import AccessRefused, ResourceLimit

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.message import Message
    from broker.core.vhost import Vhost
    from broker.session.amqp_limits import AmqpLimits
    from broker.session.amqp_unsettled import Taken


@final
class Transaction:
    """What a channel in tx mode has done since the last commit.

    `published`: message, mandatory flag, further routing keys.
    """

    __slots__ = ("acknowledged", "held_bytes", "published", "rejected", "requeued")

    def __init__(self) -> None:
        self.published: list[tuple[Message, bool, tuple[str, ...]]] = []
        self.acknowledged: Taken = []
        self.rejected: Taken = []
        self.requeued: Taken = []
        self.held_bytes = 0

    def hold(
        self, message: Message, is_mandatory: bool, copies: tuple[str, ...], limits: AmqpLimits
    ) -> None:
        """Keep a publish until commit; raises ResourceLimit."""
        self.held_bytes += len(message.body) + len(message.header)
        if (
            self.held_bytes > limits.transaction_bytes_max
            or len(self.published) >= limits.transaction_count_max
        ):
            raise ResourceLimit(
                f"transaction holds more than {limits.transaction_bytes_max} bytes or "
                f"{limits.transaction_count_max} messages"
            )
        self.published.append((message, is_mandatory, copies))

    def check(self, vhost: Vhost) -> None:
        """Ask before anything is done, so that what fails leaves nothing half done; raises NotFound, AccessRefused."""
        for message, _, _ in self.published:
            if vhost.exchange(message.exchange).is_internal:
                raise AccessRefused(
                    f"cannot publish to internal exchange '{message.exchange}' in vhost "
                    f"'{vhost.name}'"
                )

    def begin_lives(self, now_ms: int) -> None:
        """Count times to live from the commit (RabbitMQ): nobody has these messages before."""
        for message, _, _ in self.published:
            if message.expires_at:
                message.expires_at += now_ms - message.published_at
            message.published_at = now_ms

    def settled(self) -> list[tuple[int, Delivery]]:
        """All deliveries it would settle, by tag."""
        return sorted([*self.acknowledged, *self.rejected, *self.requeued], key=_first)


def _first(pair: tuple[int, Delivery]) -> int:
    return pair[0]
