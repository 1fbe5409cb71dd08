"""SUBSCRIBE: what its headers ask for, and the queue behind its destination.

Queues of exchanges and topics belong to the connection unless the client names them (`x-queue-name`) or asks for a
durable subscription, by RabbitMQ's headers (`durable` or `persistent`, with `id`) or ActiveMQ's
(`activemq.subscriptionName` and its kin, with `client-id` on CONNECT).
Tests: tests/unit/broker/session/test_stomp_consume.py.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final, cast, final

from broker.core.vhost import Vhost
from broker.errors import AccessRefused
from broker.session.auth import Identity
from broker.session.stomp_connect import StompLimits
from broker.session.stomp_destinations import (
    Headers,
    Name,
    ensure_exchange,
    ensure_queue,
    is_true,
    queue_arguments,
)
from broker.session.stomp_errors import StompError, invalid_header
from broker.session.stomp_subscription import AckMode

ACK_MODES: Final = ("auto", "client", "client-individual")
PREFETCH_HEADERS: Final = ("prefetch-count", "activemq.prefetchSize", "prefetch")
DURABLE_NAME_HEADERS: Final = (
    "activemq.subscriptionName",
    "durable-subscription-name",
    "durable-subscriber-name",
)
UNSUPPORTED_HEADERS: Final = ("selector", "browser")
GENERATED_PREFIX: Final = "amq.gen-"
DURABLE_PREFIX: Final = "stomp-subscription-"


@final
class SubscribeRequest:
    """The headers of a SUBSCRIBE frame, read; raises StompError for what makes no sense or is not supported."""

    __slots__ = ("ack_mode", "headers", "is_exclusive", "prefetch", "priority")

    def __init__(self, headers: Headers, limits: StompLimits) -> None:
        for name in UNSUPPORTED_HEADERS:
            if headers.get(name, "false") not in ("", "false"):
                # Ignored, it would deliver messages that the client did not ask for.
                raise StompError("Not supported", f"This broker has no '{name}' on SUBSCRIBE\n")
        mode = headers.get("ack", "auto").strip()
        if mode not in ACK_MODES:
            raise invalid_header("ack", mode, ", ".join(ACK_MODES))
        self.ack_mode = cast("AckMode", mode)
        self.headers = headers
        self.prefetch = _prefetch(headers, limits)
        self.priority = _priority(headers)
        self.is_exclusive = is_true(headers, "activemq.exclusive", default=False)


def durable_name(headers: Headers, destination: str, client_id: str) -> str:
    """The queue of a durable subscription, the same each time it is asked for; empty if it is not to be durable."""
    for header in DURABLE_NAME_HEADERS:
        if headers.get(header):
            return _named("name", client_id, headers[header])
    is_durable = is_true(headers, "durable", default=False) or is_true(
        headers, "persistent", default=False
    )
    if not is_durable:
        return ""
    return _named("id", destination, headers.get("id", ""))


def queue_to_consume(
    name: Name,
    vhost: Vhost,
    identity: Identity,
    headers: Headers,
    client_id: str,
    owner: object,
) -> tuple[str, bool]:
    """Make sure of the queue behind a destination; returns its name and whether it is a durable subscription's.

    Raises BrokerError, StompError.
    """
    if name.kind == "queue":
        queue = ensure_queue(name, vhost, identity, headers, owner)
        is_durable = False
    elif name.kind in ("exchange", "topic"):
        queue, is_durable = _bound_queue(name, vhost, identity, headers, client_id, owner)
    else:
        queue, is_durable = name.name, False
    identity.check(vhost.name, "read", "queue", queue)
    return queue, is_durable


def _bound_queue(
    name: Name, vhost: Vhost, identity: Identity, headers: Headers, client_id: str, owner: object
) -> tuple[str, bool]:
    ensure_exchange(name, vhost, identity)
    vhost.exchange(name.name)
    durable = durable_name(headers, name.text, client_id)
    asked = headers.get("x-queue-name", "") or durable
    is_durable = bool(durable)
    identity.check(vhost.name, "configure", "queue", asked or GENERATED_PREFIX)
    identity.check(vhost.name, "write", "queue", asked or GENERATED_PREFIX)
    identity.check(vhost.name, "read", "exchange", name.name)
    if vhost.exchanges[name.name].kind == "topic":
        identity.check_topic(vhost.name, "read", name.name, name.key)
    if name.name == "":
        raise AccessRefused("operation not permitted on the default exchange")
    queue = vhost.declare_queue(
        asked,
        durable=is_durable,
        exclusive=is_true(headers, "exclusive", default=not asked),
        auto_delete=is_true(headers, "auto-delete", default=not is_durable),
        arguments=queue_arguments(headers),
        owner=owner,
    )
    vhost.bind_queue(queue.name, name.name, name.key, owner=owner)
    return queue.name, is_durable


def _named(*parts: str) -> str:
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).digest()
    return DURABLE_PREFIX + base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def _prefetch(headers: Headers, limits: StompLimits) -> int:
    for name in PREFETCH_HEADERS:
        text = headers.get(name)
        if text is None:
            continue
        text = text.strip()
        if not (text.isascii() and text.isdigit() and len(text) <= 10):
            raise invalid_header(name, text, "a whole number")
        return min(int(text), limits.prefetch_max) or limits.prefetch_max
    return limits.prefetch_default


def _priority(headers: Headers) -> int:
    for name in ("x-priority", "activemq.priority"):
        text = headers.get(name)
        if text is None:
            continue
        digits = text.strip().removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
            raise invalid_header(name, text, "a whole number")
        return int(text)
    return 0
