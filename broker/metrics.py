"""Plain counters of one broker: integers that are added to, read by status, API and metrics.

Lies below every room of `broker`.  Names are what `/metrics` shows, with the prefix `gridmsg_`.
"""

from __future__ import annotations

from typing import final


@final
class Metrics:
    """Counts since the process started."""

    __slots__ = (
        "acknowledged_count",
        "connections_opened_count",
        "dead_lettered_count",
        "delivered_count",
        "expired_count",
        "published_count",
        "refused_count",
        "requeued_count",
        "unroutable_count",
    )

    def __init__(self) -> None:
        self.published_count = 0
        self.delivered_count = 0
        self.acknowledged_count = 0
        self.requeued_count = 0
        self.unroutable_count = 0
        self.dead_lettered_count = 0
        self.expired_count = 0
        self.refused_count = 0
        self.connections_opened_count = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}
