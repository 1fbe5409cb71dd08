"""Names of destinations in STOMP: read, made sure of, and written back into MESSAGE frames.

The table is that of docs/compatibility.md: RabbitMQ's prefixes, and bare names by the vhost's address table.  Rights are
checked where RabbitMQ checks them.  Tests: tests/unit/broker/session/test_stomp_destinations.py.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, final
from urllib.parse import unquote_to_bytes

from broker.core.destination import Destination
from broker.core.vhost import Vhost
from broker.errors import NotFound
from broker.session.auth import Identity
from broker.session.stomp_errors import StompError, invalid_header
from broker.session.stomp_profile import STRICT, Profile
from broker.wire.stomp_headers import V12, escape

Kind = Literal["queue", "exchange", "topic", "amq/queue", "temp-queue", "reply-queue"]

NAME_BYTES_MAX: Final = 255
TOPIC_EXCHANGE: Final = "amq.topic"
PREFIXES: Final[tuple[tuple[str, Kind], ...]] = (
    ("/queue/", "queue"),
    ("/exchange/", "exchange"),
    ("/topic/", "topic"),
    ("/amq/queue/", "amq/queue"),
    ("/temp-queue/", "temp-queue"),
    ("/reply-queue/", "reply-queue"),
)
QUEUE_NUMBERS: Final = frozenset(
    {
        "x-delivery-limit",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-message-ttl",
    }
)
QUEUE_TEXTS: Final = frozenset(
    {
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-age",
        "x-overflow",
        "x-queue-type",
    }
)
COMPOSITE_MAX: Final = 32
"""Destinations in one composite."""
_VIRTUAL_TOPIC: Final = re.compile(r"Consumer\.[^.]+\.(VirtualTopic\..+)")
_COMMA: Final = re.compile(r",(?=/(?:queue|exchange|topic|amq/queue)/|(?:queue|topic)://)")
_TO_ESCAPE: Final = re.compile(r"[/%\x00-\x1f\x7f]")

Headers = dict[str, str]


@final
class Name:
    """A destination as a client wrote it, taken apart; `key` is used by `exchange` and `topic` only.

    `exchange_kind` is set where the address table says that a missing exchange may be declared.
    """

    __slots__ = ("exchange_kind", "is_durable", "key", "kind", "name", "text")

    def __init__(
        self,
        text: str,
        kind: Kind,
        name: str,
        key: str = "",
        exchange_kind: str = "",
        is_durable: bool = True,
    ) -> None:
        self.text = text
        self.kind = kind
        self.name = name
        self.key = key
        self.exchange_kind = exchange_kind
        self.is_durable = is_durable


def parts_of(text: str, profile: Profile) -> list[str]:
    """The destinations of a composite one, whose parts may leave out the prefix or write it as ActiveMQ does; raises StompError."""
    if "," not in text or profile.composites == "none":
        return [text]
    parts = _COMMA.split(text) if profile.composites == "typed" else text.split(",")
    if len(parts) > COMPOSITE_MAX:
        raise StompError("Invalid destination", f"It has more than {COMPOSITE_MAX} parts\n")
    first = next((prefix for prefix, _ in PREFIXES if parts[0].startswith(prefix)), "")
    found: list[str] = []
    for part in parts:
        part = part.strip()
        for mark, prefix in (("queue://", "/queue/"), ("topic://", "/topic/")):
            if part.startswith(mark):
                part = prefix + part[len(mark) :]
        found.append(part if part.startswith("/") or not part else first + part)
    return list(dict.fromkeys(found))


def binding_key(key: str, profile: Profile) -> str:
    """A topic as a binding key: ActiveMQ's `>` as last word is AMQP's `#`."""
    if profile.has_activemq_names and (key == ">" or key.endswith(".>")):
        return key[:-1] + "#"
    return key


def virtual_topic(queue: str, profile: Profile) -> str:
    """The topic that feeds a virtual topic's queue, `Consumer.NAME.VirtualTopic.TOPIC`; empty if it is none."""
    found = _VIRTUAL_TOPIC.fullmatch(queue) if profile.has_activemq_names else None
    return "" if found is None else binding_key(found[1], profile)


def read_name(text: str, vhost: Vhost, profile: Profile = STRICT) -> Name:
    """Take a destination apart; raises StompError."""
    for prefix, kind in PREFIXES:
        if text.startswith(prefix):
            rest = text[len(prefix) :]
            has_slashes = profile.has_slashes and kind in ("queue", "topic")
            parts = [rest] if has_slashes else rest.split("/")
            if len(parts) > (2 if kind == "exchange" else 1) or not parts[0]:
                raise _invalid(kind, text[len(prefix) - 1 :])
            names = [_unescape(part, kind, text[len(prefix) - 1 :]) for part in parts]
            if kind == "topic":
                return Name(text, kind, TOPIC_EXCHANGE, names[0])
            return Name(text, kind, names[0], names[1] if len(names) > 1 else "")
    address = vhost.addresses.match(text)
    if address is None:
        for prefix, kind in PREFIXES:
            if text == prefix[:-1]:
                raise _invalid(kind, "")
        types = ", ".join(sorted(prefix.rstrip("/") for prefix, _ in PREFIXES))
        patterns = ", ".join(vhost.addresses.patterns())
        raise StompError(
            "Unknown destination",
            f"'{text[:300]}' is not a valid destination.\n"
            f"Valid destination types are: {types}; names without a type: {patterns}.\n",
        )
    name = _unescape(text.removeprefix("/"), address.kind, text)
    exchange_kind = address.exchange_kind if address.kind == "exchange" else ""
    return Name(text, address.kind, name, "", exchange_kind, address.is_durable)


def write_name(destination: Destination, vhost: Vhost) -> bytes:
    """The `destination` header (in STOMP 1.2 escaping) of messages published to a destination; kept in it."""
    exchange = destination.exchange
    key = destination.routing_key
    bare = key if exchange == "" else exchange
    address = vhost.addresses.match(bare)
    if address is not None and (
        (address.kind == "queue" and exchange == "")
        or (address.kind == "exchange" and exchange != "" and key == "")
    ):
        text = "/" + bare
    elif exchange == "":
        text = "/queue/" + _escape(key)
    elif exchange == TOPIC_EXCHANGE:
        text = "/topic/" + _escape(key)
    else:
        text = "/exchange/" + _escape(exchange) + ("/" + _escape(key) if key else "")
    destination.stomp_name = escape(text.encode("utf-8", "replace"), V12)
    return destination.stomp_name


def queue_arguments(headers: Headers) -> dict[str, Any]:
    """The queue arguments among a frame's headers, with their types; raises StompError."""
    arguments: dict[str, Any] = {}
    for name, value in headers.items():
        if name in QUEUE_TEXTS:
            arguments[name] = value
        elif name in QUEUE_NUMBERS:
            if not (value.isascii() and value.isdigit() and len(value) <= 18):
                raise invalid_header(name, value, "a whole number")
            arguments[name] = int(value)
        elif name == "x-single-active-consumer":
            arguments[name] = is_true(headers, name, default=False)
    return arguments


def is_true(headers: Headers, name: str, default: bool) -> bool:
    """A header that says true or false; raises StompError for anything else."""
    value = headers.get(name)
    if value is None:
        return default
    lowered = value.strip().lower()
    if lowered not in ("true", "false"):
        raise invalid_header(name, value, "true or false")
    return lowered == "true"


def ensure_exchange(name: Name, vhost: Vhost, identity: Identity) -> None:
    """Declare the exchange of a bare name if it is missing; raises BrokerError."""
    if name.exchange_kind and name.name not in vhost.exchanges:
        identity.check(vhost.name, "configure", "exchange", name.name)
        vhost.declare_exchange(name.name, name.exchange_kind, durable=name.is_durable)


def ensure_queue(
    name: Name, vhost: Vhost, identity: Identity, headers: Headers, owner: object
) -> str:
    """Declare the queue of a name if it is missing, or if arguments were given (then they must agree).

    Returns its name.  Raises BrokerError, StompError.
    """
    arguments = queue_arguments(headers)
    is_told = bool(arguments) or any(
        flag in headers for flag in ("durable", "auto-delete", "exclusive")
    )
    if name.name not in vhost.queues or is_told:
        identity.check(vhost.name, "configure", "queue", name.name)
        vhost.declare_queue(
            name.name,
            durable=is_true(headers, "durable", default=name.is_durable),
            exclusive=is_true(headers, "exclusive", default=False),
            auto_delete=is_true(headers, "auto-delete", default=False),
            arguments=arguments,
            owner=owner,
        )
    return name.name


def publish_to(
    name: Name, vhost: Vhost, identity: Identity, headers: Headers, owner: object
) -> Destination:
    """Make sure that a name can be published to, and give its destination; raises BrokerError, StompError."""
    if name.kind in ("exchange", "topic"):
        ensure_exchange(name, vhost, identity)
        identity.check(vhost.name, "write", "exchange", name.name)
        found = vhost.exchanges.get(name.name)
        if found is not None and found.kind == "topic":
            identity.check_topic(vhost.name, "write", name.name, name.key)
        return vhost.destination(name.name, name.key)
    identity.check(vhost.name, "write", "exchange", "")
    if name.kind == "queue" and name.name not in vhost.queues:
        ensure_queue(name, vhost, identity, headers, owner)
    elif name.kind == "amq/queue" and name.name not in vhost.queues:
        raise NotFound(f"no queue '{name.name}' in vhost '{vhost.name}'")
    return vhost.destination("", name.name)


def _unescape(part: str, kind: str, shown: str) -> str:
    if "%" in part:
        try:
            part = unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            raise _invalid(kind, shown) from None
    if len(part) > 63 and len(part.encode()) > NAME_BYTES_MAX:
        raise _invalid(kind, shown)
    return part


def _escape(part: str) -> str:
    return _TO_ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", part)


def _invalid(kind: str, shown: str) -> StompError:
    return StompError("Invalid destination", f"'{shown[:300]}' is not a valid {kind} destination\n")
