"""Direct reply-to: RabbitMQ's pseudo queue for answers, without a declared queue.

A channel that consumes from `amq.rabbitmq.reply-to` gets a queue of its own under a name that nobody can guess; its publishes with that
`reply-to` carry the name, and whoever publishes to it by the default exchange answers.  The queue goes with its consumer.
Tests: tests/unit/broker/session/test_amqp_reply.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.core.dead_letter import copy_properties
from broker.errors import NotFound, PreconditionFailed
from broker.wire.amqp.values import decode_properties, encode_properties

if TYPE_CHECKING:
    from broker.session.amqp_channel import AmqpChannel

REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""What a client consumes from, and names in `reply-to`."""
_PREFIX: Final = REPLY_TO + "."


def is_reply_name(name: str) -> bool:
    """Whether a queue name is the pseudo queue, or the name of somebody's answers."""
    return name == REPLY_TO or name.startswith(_PREFIX)


def add_queue(channel: AmqpChannel, no_ack: bool) -> str:
    """Make the channel's queue for answers and return its name; raises PreconditionFailed."""
    if not no_ack:
        raise PreconditionFailed("reply consumer cannot acknowledge")
    if channel.reply_queue and channel.reply_queue in channel.vhost.queues:
        raise PreconditionFailed("reply consumer already set")
    name = _PREFIX + channel.connection.broker.random_name()
    channel.vhost.add_reply_queue(name, channel.connection)
    channel.reply_queue = name
    return name


def check_declared(channel: AmqpChannel, name: str) -> None:
    """Answer a declaration: it asks whether somebody still waits for answers; raises NotFound."""
    if name != REPLY_TO and name not in channel.vhost.queues:
        raise NotFound(f"no queue '{name}' in vhost '{channel.vhost.name}'")


def with_name(channel: AmqpChannel, header: bytes) -> bytes:
    """Properties whose `reply-to` names the channel's own queue; raises PreconditionFailed."""
    if not channel.reply_queue or channel.reply_queue not in channel.vhost.queues:
        raise PreconditionFailed("fast reply consumer does not exist")
    properties = decode_properties(header)
    had_headers = properties.headers is not None
    properties = copy_properties(properties)
    properties.reply_to = channel.reply_queue
    if not had_headers:
        properties.headers = None
    return encode_properties(properties)
