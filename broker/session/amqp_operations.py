"""The table of methods that an open AMQP channel takes; what is not in it, it refuses.

channel.open, close and close-ok are the connection's, since they decide whether there is a channel.
Tests: tests/unit/broker/session/test_amqp_channel.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from broker.errors import NotImplementedByBroker
from broker.session import amqp_topology
from broker.session.amqp_channel import AmqpChannel


def _flow(channel: AmqpChannel, active: bool) -> None:
    if not active:
        raise NotImplementedByBroker("active=false")
    channel.reply("channel.flow-ok", True)


def _access(channel: AmqpChannel, *_rights: object) -> None:
    channel.reply("access.request-ok", 1)


def _consume(
    channel: AmqpChannel,
    _ticket: int,
    queue: str,
    tag: str,
    _no_local: bool,
    no_ack: bool,
    exclusive: bool,
    nowait: bool,
    arguments: dict[str, Any],
) -> None:
    channel.consume(queue, tag, no_ack, exclusive, nowait, arguments)


def _get(channel: AmqpChannel, _ticket: int, queue: str, no_ack: bool) -> None:
    channel.get(queue, no_ack)


def _reject(channel: AmqpChannel, tag: int, requeue: bool) -> None:
    channel.nack(tag, False, requeue)


def _recover(channel: AmqpChannel, requeue: bool) -> None:
    channel.recover(requeue, is_answered=True)


def _recover_unanswered(channel: AmqpChannel, requeue: bool) -> None:
    channel.recover(requeue, is_answered=False)


OPERATIONS: Final[dict[str, Callable[..., None]]] = {
    "channel.flow": _flow,
    "access.request": _access,
    "exchange.declare": amqp_topology.declare_exchange,
    "exchange.delete": amqp_topology.delete_exchange,
    "exchange.bind": amqp_topology.bind_exchange,
    "exchange.unbind": amqp_topology.unbind_exchange,
    "queue.declare": amqp_topology.declare_queue,
    "queue.bind": amqp_topology.bind_queue,
    "queue.unbind": amqp_topology.unbind_queue,
    "queue.purge": amqp_topology.purge_queue,
    "queue.delete": amqp_topology.delete_queue,
    "basic.qos": AmqpChannel.qos,
    "basic.consume": _consume,
    "basic.cancel": AmqpChannel.cancel,
    "basic.get": _get,
    "basic.ack": AmqpChannel.acknowledge,
    "basic.nack": AmqpChannel.nack,
    "basic.reject": _reject,
    "basic.recover": _recover,
    "basic.recover-async": _recover_unanswered,
    "confirm.select": AmqpChannel.confirm_select,
    "tx.select": AmqpChannel.tx_select,
    "tx.commit": AmqpChannel.tx_commit,
    "tx.rollback": AmqpChannel.tx_rollback,
}
"""What to call, with the channel and the method's fields in order."""
