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


def has_cycled(message: Message, queue: str) -> bool:
    """Whether the message died in this queue before and was never rejected since: it would circle for ever."""
    rows = deaths_of(message.properties.headers or {})
    return any(row.get("queue") == queue for row in rows) and not any(
        row.get("reason") in REASONS_THAT_MAY_CYCLE for row in rows
    )


def letter(
    message: Message, destination: Destination, queue: str, reason: str, cause: str, now_ms: int
) -> Message:
    """The message to publish in place of one that died in `queue` for `reason`."""
    properties = copy_properties(message.properties)
    headers = properties.headers
    assert headers is not None, "copy_properties makes headers"
    rows = deaths_of(headers)
    known = next((r for r in rows if r.get("queue") == queue and r.get("reason") == reason), None)
    if known is not None:
        rows.remove(known)
        row = {**known, "count": known["count"] + 1}
    else:
        row = {
            "count": 1,
            "reason": reason,
            "queue": queue,
            "time": values.Timestamp(now_ms // 1000),
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        if properties.expiration is not None:
            row["original-expiration"] = properties.expiration
    headers["x-death"] = [row, *rows][:DEATHS_MAX]
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-exchange", message.exchange)
    headers["x-last-death-reason"] = reason
    headers["x-last-death-queue"] = queue
    headers["x-last-death-exchange"] = message.exchange
    headers[CAUSE] = cause
    properties.expiration = None
    return Message(
        destination,
        AMQP,
        values.encode_properties(properties),
        message.body,
        message.is_persistent,
        message.priority,
        now_ms,
        0,
    )
