"""What the management API does: each function answers one kind of call with something for JSON.

Changes go through the core as a session's would and share its turn; the API answers once they are on stable
storage.  Tests: tests/unit/broker/management/test_operations.py.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.vhost import Vhost
from broker.errors import NotFound
from broker.management import shapes
from broker.management.call import MADE, BadCall, Call
from broker.wire.amqp import values
from broker.wire.properties import AMQP, Properties

PEEK_COUNT_MAX = 1000
MOVE_COUNT_MAX = 1000
"""Messages moved by one call, in one unit of work."""
PUBLISH_BYTES_MAX = 8 << 20


def overview(call: Call) -> Any:
    """GET /api/overview."""
    return shapes.overview(call.broker, call.describe(), call.version)


def whoami(call: Call) -> Any:
    """GET /api/whoami."""
    tags = list(call.identity.tags) or ["management"]
    return {"name": call.identity.name, "tags": tags}


def vhosts(call: Call) -> Any:
    """GET /api/vhosts."""
    return [{"name": one.name} for one in call.vhosts()]


def connections(call: Call) -> Any:
    """GET /api/connections."""
    call.administrator()
    return [shapes.connection(one) for one in call.describe().get("connections", [])]


def delete_connection(call: Call) -> Any:
    """DELETE /api/connections/NAME, where the peer hears `reason`."""
    call.administrator()
    name = call.path[0]
    close = call.close_connection
    if close is None or not close(name, call.query.get("reason", "Closed via management plugin")):
        raise NotFound(f"no connection '{name}'")
    return None


def definitions(call: Call) -> Any:
    """GET /api/definitions: durable topology, importable by RabbitMQ."""
    call.administrator()
    return shapes.definitions(call.broker, call.version, call.identity.may_enter)


# Queues


def queues(call: Call) -> Any:
    """GET /api/queues and /api/queues/VHOST."""
    return [shapes.queue(one) for vhost in call.vhosts() for one in vhost.queues.values()]


def queue(call: Call) -> Any:
    """GET /api/queues/VHOST/NAME."""
    return shapes.queue_with_consumers(_queue(call))


def declare_queue(call: Call) -> Any:
    """PUT /api/queues/VHOST/NAME."""
    vhost, name = call.vhost(), call.path[1]
    call.check(vhost, "configure", "queue", name)
    is_new = name not in vhost.queues
    vhost.declare_queue(
        name,
        durable=call.flag("durable"),
        auto_delete=call.flag("auto_delete"),
        arguments=call.arguments(),
    )
    return MADE if is_new else None


def delete_queue(call: Call) -> Any:
    """DELETE /api/queues/VHOST/NAME?if-empty=true&if-unused=true."""
    vhost, one = call.vhost(), _queue(call)
    call.check(vhost, "configure", "queue", one.name)
    deleted = vhost.delete_queue(
        one.name,
        if_unused=call.asked("if-unused"),
        if_empty=call.asked("if-empty"),
        owner=one.owner,
    )
    return {"deleted": deleted}


def purge_queue(call: Call) -> Any:
    """DELETE /api/queues/VHOST/NAME/contents."""
    vhost, one = call.vhost(), _queue(call)
    call.check(vhost, "read", "queue", one.name)
    return {"purged": vhost.purge_queue(one.name, one.owner)}


def get_messages(call: Call) -> Any:
    """POST /api/queues/VHOST/NAME/get: look at messages (default), or take them with `ack_requeue_false`."""
    vhost, one = call.vhost(), _queue(call)
    call.check(vhost, "read", "queue", one.name)
    count = call.count("count", 1, PEEK_COUNT_MAX)
    truncate = call.count("truncate", shapes.PAYLOAD_BYTES_MAX, shapes.PAYLOAD_BYTES_MAX)
    mode = call.text("ackmode", "ack_requeue_true")
    if mode == "ack_requeue_true":
        found = one.peek(count)
        depth = one.depth
        return [
            shapes.message(message, position, delivered, depth - index - 1, truncate)
            for index, (position, message, delivered) in enumerate(found)
        ]
    if mode != "ack_requeue_false":
        raise BadCall("'ackmode': ack_requeue_true (look) or ack_requeue_false (take) expected")
    taken = []
    for _ in range(count):
        delivery = one.take(is_acknowledged=False)
        if delivery is None:
            break
        taken.append(
            shapes.message(delivery.message, delivery.position, delivery.count, one.depth, truncate)
        )
    return taken


def move_messages(call: Call) -> Any:
    """POST /api/queues/VHOST/NAME/move: from the head of a queue to `to` (a queue), at most `count`."""
    vhost, source = call.vhost(), _queue(call)
    target = vhost.queue(call.text("to"))
    call.check(vhost, "read", "queue", source.name)
    call.check(vhost, "write", "exchange", "")
    if target is source:
        raise BadCall(f"'to': queue '{source.name}' is the source itself")
    count = call.count("count", MOVE_COUNT_MAX, MOVE_COUNT_MAX)
    destination = vhost.destination("", target.name)
    moved = 0
    while moved < count:
        delivery = source.take(is_acknowledged=True)
        if delivery is None:
            break
        copy = copy_to(delivery.message, destination)
        if target.admit is not None and not target.admit(copy):
            put_back_uncounted(call, [delivery])
            raise BadCall(
                f"queue '{target.name}' leads to a broker where the next message has been already, or by too many hops; "
                f"{moved} messages were moved"
            )
        if vhost.publish(copy) < 1:
            put_back_uncounted(call, [delivery])
            raise BadCall(f"queue '{target.name}' takes no more; {moved} messages were moved")
        call.broker.acknowledge([delivery])
        moved += 1
    return {"moved": moved, "left": source.depth}


def copy_to(message: Message, destination: Destination) -> Message:
    """The same message for another destination: with its origin and way, so that links know it when they see it again."""
    copy = Message(
        destination,
        message.format,
        message.header,
        message.body,
        message.is_persistent,
        message.priority,
        message.published_at,
        message.expires_at,
    )
    copy.trace = message.trace
    return copy


def put_back_uncounted(call: Call, deliveries: list[Any]) -> None:
    """Return messages that an operator only looked at: it must not count as a delivery."""
    for delivery in deliveries:
        delivery.count -= 1  # `requeue` adds one
    call.broker.requeue(deliveries)


def _queue(call: Call) -> Queue:
    vhost = call.vhost()
    found = vhost.queues.get(call.path[1])
    if found is None:
        raise NotFound(f"no queue '{call.path[1]}' in vhost '{vhost.name}'")
    return found


# Exchanges and bindings


def exchanges(call: Call) -> Any:
    """GET /api/exchanges and /api/exchanges/VHOST."""
    return [
        shapes.exchange(vhost, one) for vhost in call.vhosts() for one in vhost.exchanges.values()
    ]


def exchange(call: Call) -> Any:
    """GET /api/exchanges/VHOST/NAME."""
    vhost = call.vhost()
    return shapes.exchange(vhost, vhost.exchange(_exchange_name(call.path[1])))


def declare_exchange(call: Call) -> Any:
    """PUT /api/exchanges/VHOST/NAME."""
    vhost, name = call.vhost(), call.path[1]
    call.check(vhost, "configure", "exchange", name)
    is_new = name not in vhost.exchanges
    vhost.declare_exchange(
        name,
        call.text("type", "direct"),
        durable=call.flag("durable"),
        auto_delete=call.flag("auto_delete"),
        internal=call.flag("internal"),
        arguments=call.arguments(),
    )
    return MADE if is_new else None


def delete_exchange(call: Call) -> Any:
    """DELETE /api/exchanges/VHOST/NAME?if-unused=true."""
    vhost, name = call.vhost(), call.path[1]
    call.check(vhost, "configure", "exchange", name)
    vhost.exchange(name)
    vhost.delete_exchange(name, if_unused=call.asked("if-unused"))
    return None


def publish(call: Call) -> Any:
    """POST /api/exchanges/VHOST/NAME/publish: `payload`, `payload_encoding`, `routing_key`, `properties`."""
    vhost, name = call.vhost(), _exchange_name(call.path[1])
    call.check(vhost, "write", "exchange", name)
    call.check_topic(vhost, "write", name, call.text("routing_key", ""))
    payload = call.text("payload")
    if call.text("payload_encoding", "string") == "base64":
        try:
            body = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError):
            raise BadCall("'payload': not base64") from None
    else:
        body = payload.encode()
    asked = call.body.get("properties", {})
    if not isinstance(asked, dict) or not set(asked) <= set(Properties.__slots__):
        raise BadCall(f"'properties': an object of {', '.join(Properties.__slots__)} expected")
    found = Properties(**asked)
    expires_at = 0
    if isinstance(found.expiration, str) and found.expiration.isdecimal():
        expires_at = call.broker.now_ms + int(found.expiration)
    try:
        header = values.encode_properties(found)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadCall(f"'properties': {error}") from None
    message = Message(
        vhost.destination(name, call.text("routing_key", "")),
        AMQP,
        header,
        body,
        found.delivery_mode == 2,
        found.priority or 0,
        call.broker.now_ms,
        expires_at,
    )
    return {"routed": vhost.publish(message) > 0}


def bindings(call: Call) -> Any:
    """GET /api/bindings and /api/bindings/VHOST."""
    return [shapes.binding(vhost, one) for vhost in call.vhosts() for one in vhost.bindings()]


def queue_bindings(call: Call) -> Any:
    """GET /api/queues/VHOST/NAME/bindings."""
    one = _queue(call)
    return [
        shapes.binding(one.vhost, found) for found in one.vhost.bindings() if found.target is one
    ]


def bind(call: Call) -> Any:
    """POST /api/bindings/VHOST/e/SOURCE/q|e/DESTINATION: `routing_key`, `arguments`."""
    vhost, source, kind, target = _binding_ends(call)
    key, arguments = call.text("routing_key", ""), call.arguments()
    call.check_topic(vhost, "read", source, key)
    if kind == "q":
        vhost.bind_queue(target, source, key, arguments)
    else:
        vhost.bind_exchange(target, source, key, arguments)
    return MADE


def unbind(call: Call) -> Any:
    """DELETE /api/bindings/VHOST/e/SOURCE/q|e/DESTINATION/PROPERTIES_KEY."""
    vhost, source, kind, target = _binding_ends(call)
    full_kind = "queue" if kind == "q" else "exchange"
    for one in vhost.bindings():
        found_kind, found_target, routing_key, _ = one.identity()
        if (
            one.source.name == source
            and (found_kind, found_target) == (full_kind, target)
            and shapes.properties_key(one) == call.path[4]
        ):
            if kind == "q":
                vhost.unbind_queue(target, source, routing_key, one.arguments)
            else:
                vhost.unbind_exchange(target, source, routing_key, one.arguments)
            return None
    raise NotFound(f"no such binding from exchange '{source}' to {full_kind} '{target}'")


def _binding_ends(call: Call) -> tuple[Vhost, str, str, str]:
    vhost = call.vhost()
    source, kind, target = _exchange_name(call.path[1]), call.path[2], call.path[3]
    if kind not in ("q", "e"):
        raise BadCall(f"'{kind}': q or e expected")
    call.check(vhost, "write", "queue" if kind == "q" else "exchange", target)
    call.check(vhost, "read", "exchange", source)
    return vhost, source, kind, target


def _exchange_name(shown: str) -> str:
    return "" if shown == "amq.default" else shown
