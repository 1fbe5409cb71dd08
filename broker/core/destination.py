"""Names that clients publish and subscribe to.

A `Destination` is an exchange with a routing key, interned by its vhost, and carries the cached result of
routing; an `AddressTable` says what names without a type mean (interface.md, "Destinations").
Tests: tests/unit/broker/core/test_destination.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from broker.core.queue import Queue


@final
class Destination:
    """An exchange and a routing key, with the queues they reach as of topology `version`.

    `queues` is None where each message must be routed by itself (headers exchanges, CC).  `amqp_names` and `stomp_name` are
    slots for the sessions to keep the encoded forms in (empty until one did).
    """

    __slots__ = ("amqp_names", "exchange", "queues", "routing_key", "stomp_name", "version")

    def __init__(self, exchange: str, routing_key: str) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.queues: tuple[Queue, ...] | None = None
        self.version = -1
        self.amqp_names = b""
        self.stomp_name = b""


@final
class Address:
    """What a bare name that matches `pattern` (shell wildcards, with its leading slash) means.

    `unroutable` says what becomes of a message that reaches no queue.
    """

    __slots__ = ("exchange_kind", "is_durable", "kind", "pattern", "unroutable")

    def __init__(
        self,
        pattern: str,
        kind: Literal["exchange", "queue"],
        unroutable: Literal["drop", "dead-letter"] = "drop",
        exchange_kind: str = "fanout",
        is_durable: bool = True,
    ) -> None:
        self.pattern = pattern
        self.kind = kind
        self.unroutable = unroutable
        self.exchange_kind = exchange_kind
        self.is_durable = is_durable


DEFAULT_ADDRESSES = (
    Address("/gracc.*.raw", "exchange", "dead-letter"),
    Address("/gracc.*.summary", "exchange", "dead-letter"),
    Address("/grace.*.raw", "queue"),
    Address("/grace.*.summary", "queue"),
    Address("/grace.*.requests", "queue"),
)


@final
class AddressTable:
    """Addresses in order; the first that matches counts."""

    def __init__(self, addresses: Sequence[Address] = DEFAULT_ADDRESSES) -> None:
        self.addresses = tuple(addresses)

    def match(self, name: str) -> Address | None:
        """The address for a bare name, whose leading slash may be missing; None if no pattern matches."""
        slashed = name if name.startswith("/") else "/" + name
        for address in self.addresses:
            if fnmatchcase(slashed, address.pattern):
                return address
        return None

    def match_exchange(self, name: str) -> Address | None:
        """The address that makes `name` an exchange, or None."""
        address = self.match(name)
        return address if address is not None and address.kind == "exchange" else None

    def patterns(self) -> list[str]:
        """All patterns, for error texts."""
        return [address.pattern for address in self.addresses]
