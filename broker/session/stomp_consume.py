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

from broker.core.selector import Selector
from broker.core.vhost import Vhost
from broker.errors import AccessRefused, PreconditionFailed
from broker.session.auth import Identity
from broker.session.stomp_connect import StompLimits
from broker.session.stomp_destinations import (
    TOPIC_EXCHANGE,
    Headers,
    Name,
    binding_key,
    ensure_exchange,
    ensure_queue,
    is_true,
    queue_arguments,
    virtual_topic,
)
from broker.session.stomp_errors import StompError, invalid_header
from broker.session.stomp_profile import Profile
from broker.session.stomp_subscription import AckMode

ACK_MODES: Final = ("auto", "client", "client-individual")
PREFETCH_HEADERS: Final = ("prefetch-count", "activemq.prefetchSize", "prefetch")
DURABLE_NAME_HEADERS: Final = (
    "activemq.subscriptionName",
    "durable-subscription-name",
    "durable-subscriber-name",
)
GENERATED_PREFIX: Final = "amq.gen-"
DURABLE_PREFIX: Final = "stomp-subscription-"


@final
class SubscribeRequest:
    """The headers of a SUBSCRIBE frame, read; raises StompError for what makes no sense."""

    __slots__ = (
        "ack_mode",
        "headers",
        "is_browser",
        "is_preferred",
        "prefetch",
        "priority",
        "selector",
    )

    def __init__(self, headers: Headers, limits: StompLimits) -> None:
        mode = headers.get("ack", "auto").strip()
        if mode not in ACK_MODES:
            raise invalid_header("ack", mode, ", ".join(ACK_MODES))
        self.ack_mode = cast("AckMode", mode)
        self.headers = headers
        self.prefetch = _prefetch(headers, limits)
        self.priority = _priority(headers)
        self.is_preferred = is_true(headers, "activemq.exclusive", default=False)
        self.is_browser = is_true(headers, "browser", default=False)
        self.selector = _selector(headers)


def durable_name(headers: Headers, destination: str, client_id: str) -> str:
    """The queue of a durable subscription, the same each time it is asked for; empty if it is not to be durable.

    Raises StompError.
    """
    for header in DURABLE_NAME_HEADERS:
        if headers.get(header):
            return _named("name", client_id, headers[header])
    is_durable = is_true(headers, "durable", default=False) or is_true(
        headers, "persistent", default=False
    )
    if not is_durable:
        return ""
    id = headers.get("id")
    if id is None:
        # Only in 1.0: without it all such subscriptions to a topic would share one queue.
        raise StompError("Missing Header", "Header 'id' is required for durable subscriptions")
    return _named("id", destination, id)


def queue_to_consume(
    name: Name,
    vhost: Vhost,
    identity: Identity,
    headers: Headers,
    client_id: str,
    owner: object,
    profile: Profile,
) -> tuple[str, bool]:
    """Make sure of the queue behind a destination; returns its name and whether it is a durable subscription's.

    Raises BrokerError, StompError.
    """
    if name.kind == "queue":
        queue = ensure_queue(name, vhost, identity, headers, owner)
        is_durable = False
        topic = virtual_topic(queue, profile)
        if topic:
            _check_binding(vhost, identity, queue, TOPIC_EXCHANGE, topic)
            vhost.bind_queue(queue, TOPIC_EXCHANGE, topic, owner=owner)
    elif name.kind in ("exchange", "topic"):
        queue, is_durable = _bound_queue(name, vhost, identity, headers, client_id, owner, profile)
    else:
        queue, is_durable = name.name, False
    identity.check(vhost.name, "read", "queue", queue)
    return queue, is_durable


def _bound_queue(
    name: Name,
    vhost: Vhost,
    identity: Identity,
    headers: Headers,
    client_id: str,
    owner: object,
    profile: Profile,
) -> tuple[str, bool]:
    ensure_exchange(name, vhost, identity)
    vhost.exchange(name.name)
    durable = durable_name(headers, name.text, client_id)
    asked = headers.get("x-queue-name", "") or durable
    is_durable = bool(durable)
    identity.check(vhost.name, "configure", "queue", asked or GENERATED_PREFIX)
    if name.name == "":
        raise AccessRefused("operation not permitted on the default exchange")
    key = binding_key(name.key, profile) if name.kind == "topic" else name.key
    _check_binding(vhost, identity, asked or GENERATED_PREFIX, name.name, key)
    made = vhost.declare_queue(
        asked,
        durable=is_durable,
        exclusive=is_true(headers, "exclusive", default=not asked),
        auto_delete=is_true(headers, "auto-delete", default=not is_durable),
        arguments=queue_arguments(headers),
        owner=owner,
    )
    vhost.bind_queue(made.name, name.name, key, owner=owner)
    if is_durable and any(headers.get(one) for one in DURABLE_NAME_HEADERS):
        # A name has one topic: subscribing to another ends the old one (JMS 2.0, 6.11.1).
        for binding in vhost.bindings_to(made):
            if (binding.source.name, binding.routing_key) != (name.name, key):
                vhost.unbind_queue(
                    made.name,
                    binding.source.name,
                    binding.routing_key,
                    binding.arguments,
                    owner=owner,
                )
    return made.name, is_durable


def _check_binding(vhost: Vhost, identity: Identity, queue: str, exchange: str, key: str) -> None:
    identity.check(vhost.name, "write", "queue", queue)
    identity.check(vhost.name, "read", "exchange", exchange)
    if vhost.exchange(exchange).kind == "topic":
        identity.check_topic(vhost.name, "read", exchange, key)


def _selector(headers: Headers) -> Selector | None:
    text = headers.get("selector", "")
    if not text.strip():
        return None
    try:
        return Selector(text)
    except PreconditionFailed as error:
        raise StompError("Invalid selector", error.text + "\n") from None


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
