"""Which part of an AMQP connection a method is for: the connection itself, an open channel, or one that closes.

Functions take the connection; what a channel does is in `amqp_operations`, what channel 0 takes in `amqp_handshake`.
Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.errors import CommandInvalid, NotAllowed, ProtocolViolation
from broker.session import amqp_handshake
from broker.session.amqp_channel import AmqpChannel
from broker.session.amqp_handshake import State
from broker.session.amqp_operations import OPERATIONS
from broker.wire.amqp import methods

if TYPE_CHECKING:
    from broker.session.amqp_connection import AmqpConnection

_ACK: Final = b"\x00\x3c\x00\x50"
_ACK_BYTES: Final = 13


def execute(connection: AmqpConnection, number: int, payload: bytes) -> None:
    """Do one method that has no content; raises BrokerError, which closes the channel or the connection."""
    code = payload[:4]
    if code == _ACK and len(payload) == _ACK_BYTES:
        channel = connection.channels.get(number)
        if channel is not None and channel.is_open:
            tag = int.from_bytes(payload[4:12], "big")
            channel.acknowledge(tag, bool(payload[12] & 1))
            return
    if connection.acknowledged:
        connection.settle()
    if connection.state is State.CLOSING:
        _execute_closing(connection, number, code)
    elif number == 0:
        method = methods.find_method(payload)
        transition = amqp_handshake.TRANSITIONS.get((connection.state, method.name))
        if transition is None:
            text = f"unexpected method in connection state {connection.state.value}"
            if connection.state is State.OPEN:
                raise ProtocolViolation(text, 504, "CHANNEL_ERROR")
            raise CommandInvalid(text)
        transition(connection, *method.decode(payload))
    elif connection.state is State.OPEN:
        _execute_on_channel(connection, number, payload)
    else:
        refuse_unopened(connection)


def refuse_unopened(connection: AmqpConnection) -> None:
    """Raise for what came on a channel that isn't open; while the connection closes it is let pass."""
    if connection.state is State.OPEN:
        raise ProtocolViolation("expected 'channel.open'", 504, "CHANNEL_ERROR")
    if connection.state is not State.CLOSING:
        text = f"unexpected frame in connection state {connection.state.value}"
        raise ProtocolViolation(text, 505, "UNEXPECTED_FRAME")


def _execute_closing(connection: AmqpConnection, number: int, code: bytes) -> None:
    """connection.close was sent: only its answer, or the peer's own close, counts."""
    if number == 0 and code == methods.METHODS["connection.close"].code:
        connection.close()
    elif number == 0 and code == methods.METHODS["connection.close-ok"].code:
        connection.finish()


def _execute_on_channel(connection: AmqpConnection, number: int, payload: bytes) -> None:
    channel = connection.channels.get(number)
    if channel is not None and not channel.is_open:
        _execute_on_closing_channel(connection, number, payload[:4])
        return
    method = methods.find_method(payload)
    name = method.name
    if name == "channel.open":
        _open_channel(connection, number)
    elif channel is None:
        # Both sides closed at once: the peer's answer finds the channel forgotten.
        if name != "channel.close-ok":
            refuse_unopened(connection)
    elif name == "channel.close":
        connection.close_channel(channel)
        del connection.channels[number]
        channel.reply("channel.close-ok")
    else:
        operation = OPERATIONS.get(name)
        if operation is None:
            raise CommandInvalid("unimplemented method")
        operation(channel, *method.decode(payload))


def _execute_on_closing_channel(connection: AmqpConnection, number: int, code: bytes) -> None:
    """channel.close was sent: only its answer, or the peer's own close, counts."""
    if code == methods.METHODS["channel.close"].code:
        channel = connection.channels.pop(number)
        channel.reply("channel.close-ok")
    elif code == methods.METHODS["channel.close-ok"].code:
        del connection.channels[number]


def _open_channel(connection: AmqpConnection, number: int) -> None:
    if number in connection.channels:
        raise ProtocolViolation("second 'channel.open' seen", 504, "CHANNEL_ERROR")
    count, count_max = len(connection.channels), connection.channels_max
    if count >= count_max:
        # Their count is bounded, not their numbers, and the culprit is not named (RabbitMQ).
        text = f"number of channels opened ({count}) has reached the negotiated channel_max ({count_max})"
        connection.refuse_connection(NotAllowed(text), b"")
        return
    channel = AmqpChannel(connection, number, is_writable=connection.is_writable)
    connection.channels[number] = channel
    channel.reply("channel.open-ok", b"")
