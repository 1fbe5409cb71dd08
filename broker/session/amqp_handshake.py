"""The handshake of an AMQP connection: start, login, tune, open; and what an open connection takes on channel 0.

Functions take the connection and the method's fields in the order of `wire.amqp.methods`; `TRANSITIONS` says which methods
count in which state.  Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from broker.errors import AccessRefused, CommandInvalid, NotAllowed
from broker.session import sasl
from broker.session.auth import Login, shown

if TYPE_CHECKING:
    from broker.session.amqp_connection import AmqpConnection

log = logging.getLogger(__name__)

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
PROTOCOL_HEADERS: Final = (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
"""What a peer may begin with; the second is that of 0-9 clients, which RabbitMQ takes too."""
FRAME_BYTES_MIN: Final = 4096
"""The specification's least frame size (section 4.2.3)."""


class State(Enum):
    """How far a connection is; the value is the word for it in texts."""

    AWAITING_HEADER = "pre-init"
    STARTING = "starting"
    TUNING = "tuning"
    OPENING = "opening"
    OPEN = "running"
    CLOSING = "closing"
    CLOSED = "closed"


CAPABILITIES: Final = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "consumer_priorities": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "direct_reply_to": True,
}
SERVER_PROPERTIES: Final[dict[str, Any]] = {
    "capabilities": CAPABILITIES,
    "cluster_name": "gridmsg",
    "copyright": "The gridmsg authors",
    "information": "Licensed under the Apache License 2.0",
    "platform": "Python",
    "product": "gridmsg",
    # Clients (the Java client's suite among them) parse this to know what they may use.
    "version": "4.3.0",
}


def begin(connection: AmqpConnection, header: bytes) -> None:
    """Answer the protocol header: offer the version, what the broker can do, and how to log in; or say what is spoken here."""
    if header not in PROTOCOL_HEADERS:
        connection.out.append(PROTOCOL_HEADER)
        connection.finish()
        return
    connection.state = State.STARTING
    mechanisms = " ".join(sasl.offered(connection.certificate)).encode()
    connection.send("connection.start", 0, 9, SERVER_PROPERTIES, mechanisms, b"en_US")


def _start_ok(
    connection: AmqpConnection,
    client_properties: dict[str, Any],
    mechanism: str,
    response: bytes,
    _locale: str,
) -> None:
    if mechanism not in sasl.offered(connection.certificate):
        raise CommandInvalid(f"unknown authentication mechanism '{shown(mechanism)}'")
    connection.client_properties = client_properties
    capabilities = client_properties.get("capabilities")
    if isinstance(capabilities, dict):
        connection.capabilities = capabilities
        connection.wants_cancel = capabilities.get("consumer_cancel_notify") is True
    try:
        credentials = sasl.read(mechanism, response, connection.certificate)
    except AccessRefused as refused:
        _refuse_login(connection, mechanism, refused)
        return
    login = connection.accounts.authenticate(credentials, connection.is_loopback, connection.peer)
    connection.await_login(login, lambda: _logged_in(connection, mechanism, login))


def _refuse_login(connection: AmqpConnection, mechanism: str, refused: AccessRefused) -> None:
    log.warning("AMQP login from %s refused: %s", connection.peer, refused)
    if connection.capabilities.get("authentication_failure_close") is True:
        connection.refuse_with(
            refused.amqp_code,
            f"{refused.name} - Login was refused using authentication mechanism {mechanism}. "
            "For details see the broker logfile.",
        )
    else:
        connection.refuse_later()


def _logged_in(connection: AmqpConnection, mechanism: str, login: Login) -> None:
    try:
        connection.identity = login.identity()
    except AccessRefused as refused:
        _refuse_login(connection, mechanism, refused)
        return
    limits = connection.limits
    connection.state = State.TUNING
    connection.send(
        "connection.tune", limits.channels_max, limits.frame_bytes_max, limits.heartbeat_seconds
    )


def _tune_ok(
    connection: AmqpConnection, channels_max: int, frame_bytes_max: int, heartbeat_seconds: int
) -> None:
    limits = connection.limits
    _check_negotiated("channel_max", channels_max, 1, limits.channels_max)
    _check_negotiated("frame_max", frame_bytes_max, FRAME_BYTES_MIN, limits.frame_bytes_max)
    connection.tune(channels_max, frame_bytes_max, heartbeat_seconds)
    connection.state = State.OPENING


def _check_negotiated(name: str, value: int, least: int, most: int) -> None:
    """Refuse a value out of bounds; 0 means boundless, which is over ours."""
    if value and value < least:
        raise NotAllowed(
            f"negotiated {name} = {value} is lower than the minimum allowed value ({least})"
        )
    if not value or value > most:
        raise NotAllowed(
            f"negotiated {name} = {value} is higher than the maximum allowed value ({most})"
        )


def _open(connection: AmqpConnection, vhost: str, _capabilities: str, _insist: bool) -> None:
    identity = connection.identity
    assert identity is not None, "opening follows the login"
    found = connection.broker.vhosts.get(vhost)
    if found is None:
        raise NotAllowed(f"vhost {vhost} not found")
    if not identity.may_enter(vhost):
        raise NotAllowed(f"access to vhost '{vhost}' refused for user '{identity.name}'")
    connection.vhost = found
    connection.opened()
    connection.send("connection.open-ok", "")


def _close(
    connection: AmqpConnection, _code: int, _text: str, _class_id: int, _method_id: int
) -> None:
    connection.close()


def _update_secret(connection: AmqpConnection, new_secret: bytes, _reason: str) -> None:
    """Log in again with the new secret; rights are asked anew from then on."""
    identity = connection.identity
    assert identity is not None, "an open connection has logged in"
    credentials = sasl.PasswordLogin(identity.name, new_secret.decode(errors="replace"))
    login = connection.accounts.authenticate(credentials, connection.is_loopback, connection.peer)
    connection.await_login(login, lambda: _secret_updated(connection, login))


def _secret_updated(connection: AmqpConnection, login: Login) -> None:
    vhost = connection.vhost
    assert vhost is not None, "an open connection has a vhost"
    identity = connection.identity
    assert identity is not None, "an open connection has logged in"
    try:
        fresh = login.identity()
    except AccessRefused as refused:
        # RabbitMQ takes any secret where the login was by password: only tokens run out.  Who is logged in stays so.
        log.warning("new secret from %s is not the password: %s", connection.peer, refused)
        fresh = identity
    if not fresh.is_valid:
        raise NotAllowed("New secret was refused by one of the backends")
    if not fresh.may_enter(vhost.name):
        raise NotAllowed(f"access to vhost '{vhost.name}' refused for user '{fresh.name}'")
    connection.identity = fresh
    connection.renew_rights()
    connection.send("connection.update-secret-ok")


TRANSITIONS: Final[dict[tuple[State, str], Callable[..., None]]] = {
    (State.STARTING, "connection.start-ok"): _start_ok,
    (State.TUNING, "connection.tune-ok"): _tune_ok,
    (State.OPENING, "connection.open"): _open,
    (State.OPEN, "connection.update-secret"): _update_secret,
    (State.STARTING, "connection.close"): _close,
    (State.TUNING, "connection.close"): _close,
    (State.OPENING, "connection.close"): _close,
    (State.OPEN, "connection.close"): _close,
}
"""What counts on channel 0 by state; CLOSING is the connection's own affair, anything else is 503."""
