"""What a dead letter carries: why, where and how often it died.

The layout is RabbitMQ's `x-death` (most recent first, one row for each queue and reason) plus `x-gridmsg-cause`, a text
for people.  Tests: tests/unit/broker/core/test_dead_letter.py.
"""

from __future__ import annotations

from typing import Any

from broker.core.destination import Destination
from broker.core.message import Message
from broker.wire.amqp import values
from broker.wire.properties import AMQP, Properties

CAUSE = "x-gridmsg-cause"
REASONS_THAT_MAY_CYCLE = ("rejected",)
DEATHS_MAX = 100
"""Rows of `x-death` kept; a chain of queues longer than this loses its oldest row."""


def copy_properties(properties: Properties) -> Properties:
    """A copy whose headers may be changed."""
    copy = Properties()
    for name in Properties.__slots__:
        setattr(copy, name, getattr(properties, name))
    copy.headers = dict(properties.headers or {})
    return copy


def deaths_of(headers: dict[str, Any]) -> list[dict[str, Any]]:
    """The `x-death` rows of a message; what a publisher made up in another form counts as none."""
    rows = headers.get("x-death")
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("count"), int)]


def circle_of(headers: dict[str, Any]) -> set[str]:
    """Queues that a dead letter would come back to without any consumer having rejected it: RabbitMQ's rule for cycles."""
    names: set[str] = set()
    rows = deaths_of(headers)
    for row in rows:
        if row.get("reason") in REASONS_THAT_MAY_CYCLE:
            return names
        names.add(str(row.get("queue")))
    return names


def copies_of(headers: dict[str, Any], name: str = "CC") -> list[str]:
    """The further routing keys of a message."""
    keys = headers.get(name)
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []


def letter(
    message: Message,
    destination: Destination,
    queue: str,
    reason: str,
    cause: str,
    now_ms: int,
    *,
    keeps_copies: bool,
) -> Message:
    """The message to publish in place of one that died in `queue` for `reason`.

    `keeps_copies` False: the routing key was replaced, so CC goes (RabbitMQ).
    """
    properties = copy_properties(message.properties)
    headers = properties.headers
    assert headers is not None, "copy_properties makes headers"
    keys = [message.routing_key, *copies_of(headers)]
    if not keeps_copies:
        headers.pop("CC", None)
    headers.pop("BCC", None)
    is_first = "x-death" not in headers
    rows = deaths_of(headers)
    known = next((r for r in rows if r.get("queue") == queue and r.get("reason") == reason), None)
    if known is not None:
        rows.remove(known)
        row = {**known, "count": values.Long(known["count"] + 1)}
    else:
        row = {
            "count": values.Long(1),
            "reason": reason,
            "queue": queue,
            "time": values.Timestamp(now_ms // 1000),
            "exchange": message.exchange,
            "routing-keys": keys,
        }
        if properties.expiration is not None:
            row["original-expiration"] = properties.expiration
    headers["x-death"] = [row, *rows][:DEATHS_MAX]
    if is_first:
        headers["x-first-death-reason"] = reason
        headers["x-first-death-queue"] = queue
        headers["x-first-death-exchange"] = message.exchange
    headers["x-last-death-reason"] = reason
    headers["x-last-death-queue"] = queue
    headers["x-last-death-exchange"] = message.exchange
    headers[CAUSE] = cause
    properties.expiration = None
    return _with(message, destination, properties, now_ms, 0)


def without_delay(message: Message, delay_ms: int) -> Message:
    """A delayed message as it is published when its time comes: `x-delay` negative, its expiry counted from then."""
    properties = copy_properties(message.properties)
    assert properties.headers is not None, "copy_properties makes headers"
    properties.headers["x-delay"] = -delay_ms
    expires_at = message.expires_at and message.expires_at + delay_ms
    return _changed(message, properties, expires_at)


def without_blind_copies(message: Message) -> Message:
    """A message as its receivers may see it: no BCC."""
    if "BCC" not in (message.properties.headers or {}):
        return message
    properties = copy_properties(message.properties)
    assert properties.headers is not None, "copy_properties makes headers"
    del properties.headers["BCC"]
    return _changed(message, properties, message.expires_at)


def _changed(message: Message, properties: Properties, expires_at: int) -> Message:
    """The same message with other properties: links know it by its trace."""
    made = _with(message, message.destination, properties, message.published_at, expires_at)
    made.trace = message.trace
    return made


def _with(
    message: Message,
    destination: Destination,
    properties: Properties,
    published_at: int,
    expires_at: int,
) -> Message:
    return Message(
        destination,
        AMQP,
        values.encode_properties(properties),
        message.body,
        message.is_persistent,
        message.priority,
        published_at,
        expires_at,
    )
