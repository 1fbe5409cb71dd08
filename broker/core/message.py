"""A message: immutable headers and body, decoded only when somebody looks.

The header stays in the bytes of the protocol it came by (`format`); the other protocol's form and the neutral
properties are made on demand and kept.  Tests: tests/unit/broker/core/test_message.py.
"""

from __future__ import annotations

from typing import final

from broker.core.destination import Destination
from broker.wire import stomp
from broker.wire.amqp import values
from broker.wire.properties import AMQP, Properties
from store.interface import StoredMessage


@final
class Message(StoredMessage):
    """What was published: by convention never changed after it was made."""

    __slots__ = ("_other", "_properties", "destination")

    def __init__(
        self,
        destination: Destination,
        format: int,
        header: bytes,
        body: bytes,
        is_persistent: bool,
        priority: int,
        published_at: int,
        expires_at: int,
    ) -> None:
        # StoredMessage.__init__ is not called: one call less a message, and every slot is set here.
        self.destination = destination
        self.exchange = destination.exchange
        self.routing_key = destination.routing_key
        self.format = format
        self.header = header
        self.body = body
        self.is_persistent = is_persistent
        self.priority = priority
        self.published_at = published_at
        self.expires_at = expires_at
        self.size = 0
        self.trace = b""
        self._other: bytes | None = None
        self._properties: Properties | None = None

    @classmethod
    def from_stored(cls, stored: StoredMessage, destination: Destination) -> Message:
        """Make a message of what the store read; its header is taken over."""
        message = cls.__new__(cls)
        message.destination = destination
        message.exchange = stored.exchange
        message.routing_key = stored.routing_key
        message.format = stored.format
        message.header = stored.header
        message.body = stored.body
        message.is_persistent = stored.is_persistent
        message.priority = stored.priority
        message.published_at = stored.published_at
        message.expires_at = stored.expires_at
        message._other = None
        message._properties = None
        message.size = stored.size
        message.trace = stored.trace
        return message

    @property
    def properties(self) -> Properties:
        """The decoded properties; shared, so copy before you change them."""
        known = self._properties
        if known is None:
            decode = values.decode_properties if self.format == AMQP else stomp.decode_properties
            known = self._properties = decode(self.header)
        return known

    def header_as(self, format: int) -> bytes:
        """The header in the bytes of the given format, translated once and kept."""
        if format == self.format:
            return self.header
        other = self._other
        if other is None:
            encode = values.encode_properties if format == AMQP else stomp.encode_properties
            other = self._other = encode(self.properties)
        return other
