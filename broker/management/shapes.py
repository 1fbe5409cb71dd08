"""The core's objects as JSON in RabbitMQ's shapes, with the keys that its users' scripts read.

Pure functions: they look and change nothing.  Tests: tests/unit/broker/management/test_shapes.py.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from broker.core.broker import Broker
from broker.core.exchange import Binding, Exchange
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.vhost import Vhost
from broker.wire.properties import Properties

PAYLOAD_BYTES_MAX = 1 << 20
"""The most of one body that is shown."""
CLIENT_TEXTS = ("connection_name", "product", "version", "platform")
CLIENT_TEXT_MAX = 255
"""Characters of a text that a client says of itself."""


def plain(value: Any) -> Any:
    """A header or argument value as JSON can carry it."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        return int(value)
    return str(value)


def queue(one: Queue) -> dict[str, Any]:
    """A queue, as /api/queues lists it."""
    ready = one.depth
    unsettled = one.unsettled_count
    return {
        "name": one.name,
        "vhost": one.vhost.name,
        "type": "classic",
        "state": "running",
        "durable": one.is_durable,
        "auto_delete": one.is_auto_delete,
        "exclusive": one.is_exclusive,
        "arguments": plain(one.arguments),
        "messages": ready + unsettled,
        "messages_ready": ready,
        "messages_unacknowledged": unsettled,
        "message_bytes_ram": one.ready_bytes,
        "consumers": one.consumer_count,
    }


def queue_with_consumers(one: Queue) -> dict[str, Any]:
    """A queue, as /api/queues/VHOST/NAME shows it."""
    return {
        **queue(one),
        "consumer_details": [
            {
                "consumer_tag": subscription.tag,
                "ack_required": subscription.is_acknowledged,
                "exclusive": subscription.is_exclusive,
                "unacknowledged": subscription.unsettled,
                "is_writable": subscription.sink.is_writable,
            }
            for subscription in one.subscriptions
        ],
    }


def exchange(vhost: Vhost, one: Exchange) -> dict[str, Any]:
    """An exchange, as /api/exchanges lists it."""
    return {
        "name": one.name,
        "vhost": vhost.name,
        "type": one.kind,
        "durable": one.is_durable,
        "auto_delete": one.is_auto_delete,
        "internal": one.is_internal,
        "arguments": plain(one.arguments),
    }


def binding(vhost: Vhost, one: Binding) -> dict[str, Any]:
    """A binding, as /api/bindings lists it."""
    kind, target, routing_key, _ = one.identity()
    return {
        "source": one.source.name,
        "vhost": vhost.name,
        "destination": target,
        "destination_type": kind,
        "routing_key": routing_key,
        "arguments": plain(one.arguments),
        "properties_key": properties_key(one),
    }


def properties_key(one: Binding) -> str:
    """What names a binding among those between the same two ends (RabbitMQ's `properties_key`)."""
    _, _, routing_key, arguments = one.identity()
    key = routing_key or "~"
    if one.arguments:
        import zlib

        key += f"~{zlib.crc32(arguments.encode()):08x}"
    return key


def properties(found: Properties) -> dict[str, Any]:
    """Those properties of a message that are set."""
    return {
        name: plain(getattr(found, name))
        for name in Properties.__slots__
        if getattr(found, name) is not None
    }


def message(
    one: Message, position: int, count: int, left: int, truncate_bytes: int = PAYLOAD_BYTES_MAX
) -> dict[str, Any]:
    """A message, as POST /api/queues/VHOST/NAME/get shows it, with its position in the queue."""
    body = one.body[: min(truncate_bytes, PAYLOAD_BYTES_MAX)]
    try:
        payload, encoding = body.decode("utf-8"), "string"
    except UnicodeDecodeError:
        payload, encoding = base64.b64encode(body).decode(), "base64"
    return {
        "position": position,
        "exchange": one.exchange,
        "routing_key": one.routing_key,
        "redelivered": count > 0,
        "delivery_count": count,
        "message_count": left,
        "published_at_ms": one.published_at,
        "properties": properties(one.properties),
        "payload_bytes": len(one.body),
        "payload": payload,
        "payload_encoding": encoding,
    }


def overview(broker: Broker, described: dict[str, Any], version: str) -> dict[str, Any]:
    """/api/overview; what is ours alone is under `gridmsg`."""
    vhosts = broker.vhosts.values()
    queues = [one for vhost in vhosts for one in vhost.queues.values()]
    ready = sum(one.depth for one in queues)
    unsettled = sum(one.unsettled_count for one in queues)
    counters = broker.metrics.as_dict()
    own = {
        key: value for key, value in described.items() if key not in ("connections", "listeners")
    }
    return {
        "product_name": "gridmsg",
        "product_version": version,
        "management_version": version,
        "node": described.get("name", "gridmsg"),
        "listeners": [
            {
                "node": described.get("name", "gridmsg"),
                "protocol": one.get("protocol"),
                "ip_address": one.get("host"),
                "port": one.get("port"),
            }
            for one in described.get("listeners", [])
        ],
        "object_totals": {
            "connections": len(described.get("connections", [])),
            "queues": len(queues),
            "exchanges": sum(len(vhost.exchanges) for vhost in vhosts),
            "consumers": sum(one.consumer_count for one in queues),
        },
        "queue_totals": {
            "messages": ready + unsettled,
            "messages_ready": ready,
            "messages_unacknowledged": unsettled,
        },
        "message_stats": {
            "publish": counters["published_count"],
            "deliver_get": counters["delivered_count"],
            "ack": counters["acknowledged_count"],
            "redeliver": counters["requeued_count"],
            "drop_unroutable": counters["unroutable_count"],
        },
        "gridmsg": {**own, "counters": counters},
    }


def connection(one: dict[str, Any]) -> dict[str, Any]:
    """A connection, as /api/connections lists it; of what an AMQP client says of itself the texts, cut."""
    peer = str(one.get("peer", ""))
    told = one.get("client_properties", {})
    texts = {
        name: told[name][:CLIENT_TEXT_MAX]
        for name in CLIENT_TEXTS
        if isinstance(told.get(name), str)
    }
    host, _, port = peer.rpartition(":")
    return {
        "name": peer,
        "peer_host": host or peer,
        "peer_port": int(port) if port.isdecimal() else None,
        "connected_at": one.get("opened_at_ms"),
        "state": "running",
        "type": "network",
        **one,
        "client_properties": texts,
        "user_provided_name": texts.get("connection_name", ""),
    }


def definitions(broker: Broker, version: str, may_see: Callable[[str], bool]) -> dict[str, Any]:
    """/api/definitions: all durable topology, in the form that RabbitMQ imports."""
    vhosts = [one for one in broker.vhosts.values() if may_see(one.name)]
    return {
        "product_name": "gridmsg",
        "product_version": version,
        "vhosts": [{"name": one.name} for one in vhosts],
        "queues": [
            {
                "name": one.name,
                "vhost": vhost.name,
                "durable": True,
                "auto_delete": one.is_auto_delete,
                "arguments": plain(one.arguments),
            }
            for vhost in vhosts
            for one in vhost.queues.values()
            if one.is_durable and not one.is_exclusive
        ],
        "exchanges": [
            exchange(vhost, one)
            for vhost in vhosts
            for one in vhost.exchanges.values()
            if one.is_durable and one.name and not re.match(r"amq\.", one.name)
        ],
        "bindings": [
            {key: value for key, value in binding(vhost, one).items() if key != "properties_key"}
            for vhost in vhosts
            for one in vhost.bindings()
            if one.is_durable
        ],
    }
