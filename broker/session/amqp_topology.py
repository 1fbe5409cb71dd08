"""AMQP's exchange and queue methods: rights, defaults of names, replies; the rules themselves are the core's.

Each function takes the channel and the method's fields in the order of `wire.amqp.methods`.  A reply to a durable change waits
until the change is on disk.  Tests: tests/unit/broker/session/test_amqp_topology.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from broker.errors import AccessRefused
from broker.session.amqp_reply import check_declared, is_reply_name

if TYPE_CHECKING:
    from broker.session.amqp_channel import AmqpChannel

Arguments = dict[str, Any]


def _check_not_default(*names: str) -> None:
    if "" in names:
        raise AccessRefused("operation not permitted on the default exchange")


def _storable(value: Any) -> Any:
    """Arguments as the store can keep them: it has no decimals, so they become floats (equal to the header values they match)."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _storable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_storable(one) for one in value]
    return value


def declare_exchange(
    channel: AmqpChannel,
    _ticket: int,
    name: str,
    kind: str,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    nowait: bool,
    arguments: Arguments,
) -> None:
    """exchange.declare."""
    _check_not_default(name)
    vhost = channel.vhost
    if passive:
        vhost.exchange(name)
    else:
        connection = channel.connection
        connection.check("configure", "exchange", name)
        alternate = arguments.get("alternate-exchange")
        if isinstance(alternate, str):
            connection.check("read", "exchange", name)
            connection.check("write", "exchange", alternate)
        vhost.declare_exchange(
            name,
            kind,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=_storable(arguments),
        )
    _answer(channel, nowait, durable and not passive, "exchange.declare-ok")


def delete_exchange(
    channel: AmqpChannel, _ticket: int, name: str, if_unused: bool, nowait: bool
) -> None:
    """exchange.delete."""
    _check_not_default(name)
    channel.connection.check("configure", "exchange", name)
    channel.vhost.delete_exchange(name, if_unused=if_unused)
    _answer(channel, nowait, True, "exchange.delete-ok")


def bind_exchange(
    channel: AmqpChannel,
    _ticket: int,
    destination: str,
    source: str,
    routing_key: str,
    nowait: bool,
    arguments: Arguments,
) -> None:
    """exchange.bind."""
    _check_not_default(destination, source)
    channel.connection.check("write", "exchange", destination)
    channel.connection.check("read", "exchange", source)
    channel.connection.check_topic("read", source, routing_key)
    channel.vhost.bind_exchange(destination, source, routing_key, _storable(arguments))
    _answer(channel, nowait, True, "exchange.bind-ok")


def unbind_exchange(
    channel: AmqpChannel,
    _ticket: int,
    destination: str,
    source: str,
    routing_key: str,
    nowait: bool,
    arguments: Arguments,
) -> None:
    """exchange.unbind."""
    _check_not_default(destination, source)
    channel.connection.check("write", "exchange", destination)
    channel.connection.check("read", "exchange", source)
    channel.connection.check_topic("read", source, routing_key)
    channel.vhost.unbind_exchange(destination, source, routing_key, _storable(arguments))
    _answer(channel, nowait, True, "exchange.unbind-ok")


def declare_queue(
    channel: AmqpChannel,
    _ticket: int,
    name: str,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    nowait: bool,
    arguments: Arguments,
) -> None:
    """queue.declare."""
    connection = channel.connection
    vhost = channel.vhost
    if is_reply_name(name):
        check_declared(channel, name)
        _answer(channel, nowait, False, "queue.declare-ok", name, 0, 1)
        return
    if passive:
        queue = vhost.queue(channel.queue_name(name), connection)
    else:
        if not name:
            name = "amq.gen-" + connection.broker.random_name()
            connection.check("configure", "queue", name)
            name = ""
        else:
            connection.check("configure", "queue", name)
        dead_letters = arguments.get("x-dead-letter-exchange")
        if isinstance(dead_letters, str):
            connection.check("read", "queue", name)
            connection.check("write", "exchange", dead_letters)
        queue = vhost.declare_queue(
            name,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=_storable(arguments),
            owner=connection,
        )
    channel.last_queue = queue.name
    connection.broker.serve(queue)
    _answer(
        channel,
        nowait,
        durable and not passive,
        "queue.declare-ok",
        queue.name,
        min(queue.depth, 0xFFFFFFFF),
        queue.consumer_count,
    )


def bind_queue(
    channel: AmqpChannel,
    _ticket: int,
    name: str,
    exchange: str,
    routing_key: str,
    nowait: bool,
    arguments: Arguments,
) -> None:
    """queue.bind."""
    name, routing_key = _expand(channel, name, routing_key)
    _check_not_default(exchange)
    channel.connection.check("write", "queue", name)
    channel.connection.check("read", "exchange", exchange)
    channel.connection.check_topic("read", exchange, routing_key)
    channel.vhost.bind_queue(
        name, exchange, routing_key, _storable(arguments), owner=channel.connection
    )
    _answer(channel, nowait, True, "queue.bind-ok")


def unbind_queue(
    channel: AmqpChannel,
    _ticket: int,
    name: str,
    exchange: str,
    routing_key: str,
    arguments: Arguments,
) -> None:
    """queue.unbind."""
    name, routing_key = _expand(channel, name, routing_key)
    _check_not_default(exchange)
    channel.connection.check("write", "queue", name)
    channel.connection.check("read", "exchange", exchange)
    channel.connection.check_topic("read", exchange, routing_key)
    channel.vhost.unbind_queue(
        name, exchange, routing_key, _storable(arguments), owner=channel.connection
    )
    _answer(channel, False, True, "queue.unbind-ok")


def purge_queue(channel: AmqpChannel, _ticket: int, name: str, nowait: bool) -> None:
    """queue.purge."""
    name = channel.queue_name(name)
    channel.connection.check("read", "queue", name)
    count = channel.vhost.purge_queue(name, owner=channel.connection)
    _answer(channel, nowait, True, "queue.purge-ok", count)


def delete_queue(
    channel: AmqpChannel, _ticket: int, name: str, if_unused: bool, if_empty: bool, nowait: bool
) -> None:
    """queue.delete."""
    name = channel.queue_name(name)
    channel.connection.check("configure", "queue", name)
    # What the channel's own consumers hear of it comes after the answer, as from RabbitMQ: kombu 5.7 fails otherwise.
    late: list[bytes] = []
    channel.late = late
    try:
        count = channel.vhost.delete_queue(
            name, if_unused=if_unused, if_empty=if_empty, owner=channel.connection
        )
    finally:
        channel.late = None
    _answer(channel, nowait, True, "queue.delete-ok", count)
    channel.connection.follow(late)


def _expand(channel: AmqpChannel, name: str, routing_key: str) -> tuple[str, str]:
    """Names of a binding, where "" is the last queue, and with it as key its name."""
    queue = channel.queue_name(name)
    return queue, queue if not name and not routing_key else routing_key


def _answer(
    channel: AmqpChannel, nowait: bool, is_durable: bool, name: str, *values: object
) -> None:
    if nowait:
        return
    if is_durable:
        channel.connection.reply_when_durable(channel, name, *values)
    else:
        channel.reply(name, *values)
