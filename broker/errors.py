"""The catalogue of what the broker refuses, as meanings; sessions give them their codes.

Lies below every room of `broker`.  Core raises these; `session.stomp` and `session.amqp_*` turn them into
ERROR frames and close methods.  Tests: tests/unit/broker/.
"""

from __future__ import annotations


class BrokerError(Exception):
    """Something refused, with a text for the peer.

    `amqp_code` is the reply code of AMQP 0-9-1 (1.2 and errata, as RabbitMQ uses it), `name` its name; `is_hard` errors
    close the connection, the others the channel.
    """

    amqp_code = 541
    name = "INTERNAL_ERROR"
    is_hard = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NotFound(BrokerError):
    """A vhost, exchange, queue or binding that does not exist."""

    amqp_code = 404
    name = "NOT_FOUND"
    is_hard = False


class AccessRefused(BrokerError):
    """A login, or an operation without the right to it."""

    amqp_code = 403
    name = "ACCESS_REFUSED"
    is_hard = False


class ResourceLocked(BrokerError):
    """An exclusive queue of another connection."""

    amqp_code = 405
    name = "RESOURCE_LOCKED"
    is_hard = False


class PreconditionFailed(BrokerError):
    """A declaration that differs, an unknown delivery tag, an argument out of range."""

    amqp_code = 406
    name = "PRECONDITION_FAILED"
    is_hard = False


class ResourceLimit(BrokerError):
    """A bound of the broker was reached."""

    amqp_code = 506
    name = "RESOURCE_ERROR"
    is_hard = True


class NotAllowed(BrokerError):
    """Something the peer may never do on this connection."""

    amqp_code = 530
    name = "NOT_ALLOWED"
    is_hard = True


class NotImplementedByBroker(BrokerError):
    """A part of the protocol that this broker does not have."""

    amqp_code = 540
    name = "NOT_IMPLEMENTED"
    is_hard = True


class CommandInvalid(BrokerError):
    """A method or value that makes no sense where it came."""

    amqp_code = 503
    name = "COMMAND_INVALID"
    is_hard = True


class ProtocolViolation(BrokerError):
    """Bytes that are not the protocol.  `amqp_code` and `name` may be given per instance."""

    amqp_code = 501
    name = "FRAME_ERROR"
    is_hard = True

    def __init__(self, text: str, amqp_code: int = 501, name: str = "FRAME_ERROR") -> None:
        super().__init__(text)
        self.amqp_code = amqp_code
        self.name = name


class ConfigError(Exception):
    """A configuration that cannot be taken, with file, line, key and what is allowed in the text."""
