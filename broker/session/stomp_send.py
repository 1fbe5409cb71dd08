"""What a SEND frame's headers ask for, read once for each distinct block.

A publisher repeats its headers, so a session keeps the plans of the blocks it saw and a SEND costs a look-up.  Tests: tests/unit/broker/session/test_stomp_send.py.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final, final

from broker.core.delay import DELAY_MS_MAX
from broker.core.destination import Destination
from broker.core.selective import GROUP_HEADER
from broker.errors import PreconditionFailed
from broker.session.auth import Identity
from broker.session.stomp_destinations import Headers, Name, is_true
from broker.session.stomp_errors import StompError, invalid_header
from broker.wire.stomp_headers import V10, V12, Pairs, join_block, unescape
from broker.wire.stomp_properties import HOP_HEADERS, SHORT_STRING_BYTES_MAX

if TYPE_CHECKING:
    from broker.core.queue import Queue

EXPIRATION_MS_MAX: Final = 0xFFFFFFFF
"""RabbitMQ's bound of a message's time to live, 49 days."""
ORIGINAL_DESTINATION: Final = b"original-destination"
DELAY_HEADERS: Final = ("x-delay", "AMQ_SCHEDULED_DELAY")
UNSUPPORTED_HEADERS: Final = ("AMQ_SCHEDULED_CRON", "AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT")


@final
class SendPlan:
    """What is to be done with the messages of one header block.

    `version` is that of the vhost's topology for which the destination was last made sure of.  `expiration_ms` is relative
    (-1: none), `expires_at_ms` absolute (0: never).  `delay_ms` is relative, `due_ms` absolute (0: now).  `also`: plans of a
    composite's further destinations.  `is_special`: it has any of these, or a message group.  `queue`: the only one reached, where
    `Vhost.only_queue` knows it; asked once, when the plan `is_resolved`.
    """

    __slots__ = (
        "also",
        "delay_ms",
        "destination",
        "due_ms",
        "expiration_ms",
        "expires_at_ms",
        "has_expiry",
        "has_group",
        "header",
        "headers",
        "is_mandatory",
        "is_persistent",
        "is_resolved",
        "is_special",
        "name",
        "priority",
        "queue",
        "transaction",
        "version",
    )

    def __init__(
        self,
        name: Name,
        destination: Destination,
        headers: Headers,
        version: int,
        *,
        delays: bool = False,
        also: tuple[SendPlan, ...] = (),
    ) -> None:
        self.name = name
        self.destination = destination
        self.version = version
        self.headers = headers
        self.header = b""
        self.is_persistent = is_true(headers, "persistent", default=False)
        self.is_mandatory = is_true(headers, "mandatory", default=False)
        self.priority = _number(headers, "priority", 255, 0)
        self.expiration_ms = _number(headers, "expiration", EXPIRATION_MS_MAX, -1)
        self.expires_at_ms = _number(headers, "expires", (1 << 63) - 1, 0)
        self.has_expiry = self.expiration_ms >= 0 or self.expires_at_ms > 0
        self.transaction = headers.get("transaction")
        self.also = also
        self.has_group = bool(headers.get(GROUP_HEADER))
        self.delay_ms = self.due_ms = 0
        if delays:
            self._read_delay(headers)
        self.is_resolved = False
        self.queue: Queue | None = None
        self.is_special = bool(also or self.has_group or self.delay_ms or self.due_ms)

    def _read_delay(self, headers: Headers) -> None:
        for name in UNSUPPORTED_HEADERS:
            if headers.get(name, "0").strip() not in ("", "0"):
                # Ignored, it would be sent once where the client asked for more.
                raise StompError("Not supported", f"This broker has no '{name}'\n")
        for name in DELAY_HEADERS:
            self.delay_ms = max(self.delay_ms, _number(headers, name, DELAY_MS_MAX, 0))
        self.due_ms = _number(headers, "AMQ_SCHEDULED_TIME", (1 << 63) - 1, 0)

    def due_at(self, now_ms: int) -> int:
        """When a message is to be published, in milliseconds since 1970; not after `now_ms`: at once."""
        return max(now_ms + self.delay_ms, self.due_ms)

    def expires_at(self, now_ms: int) -> int:
        """When a message published now expires, in milliseconds since 1970; 0: never."""
        if self.expiration_ms < 0:
            return self.expires_at_ms
        at = now_ms + self.expiration_ms
        return min(at, self.expires_at_ms) if self.expires_at_ms else at


def read_headers(pairs: Pairs) -> Headers:
    """Decode the headers of a frame; raises StompError for one that is not UTF-8."""
    try:
        return {intern(name.decode()): value.decode() for name, value in pairs}
    except UnicodeDecodeError:
        raise StompError("Malformed frame", "A header is not UTF-8\n") from None


def check_send(pairs: Pairs, headers: Headers, identity: Identity) -> None:
    """Refuse headers that SEND must not have; raises StompError, BrokerError."""
    if "message-id" in headers:
        raise StompError("Invalid header", "'message-id' is not allowed on 'SEND'.\n")
    user = headers.get("user-id")
    if user is not None and not identity.may_send_as(user):
        raise PreconditionFailed(
            f"user_id property set to '{user[:200]}' but authenticated user was '{identity.name}'"
        )
    for name, _ in pairs:
        if len(name) > SHORT_STRING_BYTES_MAX:
            raise StompError("Invalid header", "A header's name is longer than 255 bytes\n")


def kept_block(pairs: Pairs, reply_to: bytes | None, original: bytes | None = None) -> bytes:
    """The canonical block that travels with the message, without the headers of this hop.

    `original` is the destination as its sender wrote it, where that is kept.
    """
    kept: Pairs = [] if original is None else [(ORIGINAL_DESTINATION, original)]
    for name, value in pairs:
        if name in HOP_HEADERS or (name == ORIGINAL_DESTINATION and original is not None):
            continue
        kept.append((name, reply_to if name == b"reply-to" and reply_to is not None else value))
    return join_block(kept, V12)


def checked_receipt(receipt: bytes, version: int) -> bytes:
    """A receipt's value as it may be sent back; raises ProtocolViolation for a bad escape."""
    if version == V10:
        return receipt.lstrip(b" \t")
    if b"\\" in receipt:
        unescape(receipt, version)
    return receipt


def nack_delay(headers: Headers) -> int:
    """Milliseconds after which a NACKed message is to come back; 0: at once.  Raises StompError."""
    return _number(headers, "x-delay", DELAY_MS_MAX, 0)


def _number(headers: Headers, name: str, most: int, default: int) -> int:
    text = headers.get(name)
    if text is None:
        return default
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 19) or int(text) > most:
        raise invalid_header(name, text, f"a whole number up to {most}")
    return int(text)


def refused(plan: SendPlan, reached: int) -> StompError:
    """Make the error for a message that no queue took and that its publisher wants to know of."""
    if reached < 0:
        return StompError("Message refused", f"A queue of '{plan.name.text}' is full\n")
    return StompError(
        "Unroutable",
        f"No queue takes messages for '{plan.name.text}'\n",
        [(b"destination", plan.name.text.encode("utf-8", "replace"))],
    )
