"""What publishes have in common: destinations by method bytes and traits by property bytes, checked once and kept.

A cached destination stays right when the topology changes, since the core resolves it anew by its version; rights are those
of the login, so a new one gets a new cache.  Both caches are bounded and begin anew when full.
Tests: tests/unit/broker/session/test_amqp_connection.py, tests/conformance/amqp.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from broker.core.arguments import type_name
from broker.core.selective import GROUP_HEADER
from broker.errors import NotImplementedByBroker, PreconditionFailed
from broker.session.amqp_reply import REPLY_TO
from broker.wire.amqp import methods
from broker.wire.amqp.values import decode_properties

if TYPE_CHECKING:
    from broker.core.destination import Destination
    from broker.core.vhost import Vhost
    from broker.session.amqp_limits import AmqpLimits
    from broker.session.auth import Identity
    from broker.wire.properties import Properties

Traits = tuple[bool, int, int | None, "Extras | None"]
"""Whether persistent, priority, expiration in milliseconds or None, and what is rare."""
EXPIRATION_MS_MAX: Final = 10 * 365 * 86_400_000


@final
class Extras:
    """What few messages ask for.

    `copies` are the further routing keys of CC and BCC (`is_copied`: it has one of them); `wants_reply`: direct reply-to;
    `has_group`: a message group.
    """

    __slots__ = ("copies", "has_group", "is_copied", "wants_reply")

    def __init__(
        self, copies: tuple[str, ...], is_copied: bool, wants_reply: bool, has_group: bool
    ) -> None:
        self.copies = copies
        self.is_copied = is_copied
        self.wants_reply = wants_reply
        self.has_group = has_group


def _find_extras(properties: Properties) -> Extras | None:
    copies: list[str] = []
    is_copied = False
    for name in ("CC", "BCC"):
        keys = properties.headers.get(name) if properties.headers else None
        if keys is None:
            continue
        if not isinstance(keys, list):
            raise PreconditionFailed(
                f'invalid message: {{unacceptable_type_in_header,"{name}",{type_name(keys)}}}'
            )
        is_copied = True
        copies += [key for key in keys if isinstance(key, str)]
    wants_reply = properties.reply_to == REPLY_TO
    has_group = bool(properties.headers and properties.headers.get(GROUP_HEADER))
    if not (is_copied or wants_reply or has_group):
        return None
    return Extras(tuple(copies), is_copied, wants_reply, has_group)


@final
class Publishing:
    """The caches of one connection; `routes` and `traits` are looked up by the channels themselves."""

    __slots__ = ("_identity", "_limits", "_vhost", "routes", "traits")

    def __init__(self, vhost: Vhost, identity: Identity, limits: AmqpLimits) -> None:
        self.routes: dict[bytes, tuple[Destination, bool]] = {}
        self.traits: dict[bytes, Traits] = {}
        self._vhost = vhost
        self._identity = identity
        self._limits = limits

    def find_route(self, method: bytes) -> tuple[Destination, bool]:
        """Destination and mandatory flag of a publish, checked and kept; raises NotFound, AccessRefused."""
        _, exchange, routing_key, is_mandatory, is_immediate = methods.METHODS[
            "basic.publish"
        ].decode(method)
        if is_immediate:
            raise NotImplementedByBroker("immediate=true")
        self._identity.check(self._vhost.name, "write", "exchange", exchange)
        found = self._vhost.exchanges.get(exchange)
        if found is not None and found.kind == "topic":
            self._identity.check_topic(self._vhost.name, "write", exchange, routing_key)
        route = (self._vhost.destination(exchange, routing_key), is_mandatory)
        if self._identity.has_topic_rights(self._vhost.name, exchange):
            # Not kept: the exchange may be made anew as a topic exchange, whose keys are checked.
            return route
        if len(self.routes) >= self._limits.cached_routes_max:
            self.routes.clear()
        self.routes[method] = route
        return route

    def find_traits(self, header: bytes) -> Traits:
        """What properties ask for, checked and kept; raises PreconditionFailed."""
        properties = decode_properties(header)
        user = properties.user_id
        if user is not None and not self._identity.may_send_as(user):
            raise PreconditionFailed(
                f"user_id property set to '{user}' but authenticated user was "
                f"'{self._identity.name}'"
            )
        traits = (
            properties.delivery_mode == 2,
            properties.priority or 0,
            None if properties.expiration is None else _read_expiration(properties.expiration),
            _find_extras(properties),
        )
        if len(header) <= self._limits.cached_header_bytes_max:
            if len(self.traits) >= self._limits.cached_traits_max:
                self.traits.clear()
            self.traits[header] = traits
        return traits


def _read_expiration(text: str) -> int:
    """Milliseconds of an `expiration` property; raises PreconditionFailed with RabbitMQ's text."""
    sign = text[:1] if text[:1] in ("-", "+") else ""
    digits = ""
    for character in text[len(sign) :]:
        if character not in "0123456789":
            break
        digits += character
    rest = text[len(sign) + len(digits) :]
    if not digits:
        reason = "no_integer"
    elif rest:
        reason = f'{{leftover_string,"{rest}"}}'
    elif sign == "-" and int(digits):
        reason = f"{{value_negative,-{int(digits)}}}"
    elif int(digits) > EXPIRATION_MS_MAX:
        reason = f"{{value_too_large,{int(digits)}}}"
    else:
        return int(digits)
    raise PreconditionFailed(f"invalid expiration '{text}': {reason}")
