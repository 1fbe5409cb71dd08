"""The properties of a message, neutral between protocols.

The names and types are those of the AMQP 0-9-1 basic class (section 1.8.3 of its XML); the codecs are
`wire.amqp.values` (content header) and `wire.stomp` (header block).  Absent is None.
"""

from __future__ import annotations

from typing import Any, Final, final

AMQP: Final = 0
"""`Message.format`: the header is the property flags and list of a basic content header."""
STOMP: Final = 1
"""`Message.format`: the header is a block of `name:value` lines, each ended by LF, in STOMP 1.2 escaping."""


@final
class Properties:
    """Decoded properties; `headers` maps names to field values (Python types as `wire.amqp.values` makes them).

    `timestamp` is seconds since 1970, `expiration` milliseconds as text, `delivery_mode` 1 or 2.
    """

    __slots__ = (
        "app_id",
        "cluster_id",
        "content_encoding",
        "content_type",
        "correlation_id",
        "delivery_mode",
        "expiration",
        "headers",
        "message_id",
        "priority",
        "reply_to",
        "timestamp",
        "type",
        "user_id",
    )

    def __init__(
        self,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        delivery_mode: int | None = None,
        priority: int | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: str | None = None,
        message_id: str | None = None,
        timestamp: int | None = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
        cluster_id: str | None = None,
    ) -> None:
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = headers
        self.delivery_mode = delivery_mode
        self.priority = priority
        self.correlation_id = correlation_id
        self.reply_to = reply_to
        self.expiration = expiration
        self.message_id = message_id
        self.timestamp = timestamp
        self.type = type
        self.user_id = user_id
        self.app_id = app_id
        self.cluster_id = cluster_id
