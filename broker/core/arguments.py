"""Queue arguments (`x-…`), checked and typed; the texts are RabbitMQ's.

Unknown arguments are kept and ignored, as RabbitMQ does.  Tests: tests/unit/broker/core/test_arguments.py.
"""

from __future__ import annotations

from typing import Any, final

from broker.errors import PreconditionFailed

PRIORITY_MAX = 255
DELIVERY_LIMIT = 20
OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_NUMBERS = (
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-delivery-limit",
)
_TEXTS = (
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-overflow",
    "x-queue-type",
    "x-queue-mode",
)
_COMPARED = frozenset(
    (*_NUMBERS, *_TEXTS, "x-single-active-consumer", "alternate-exchange", "x-delayed-type")
)
QUEUE_TYPES = ("classic", "quorum")
"""What `x-queue-type` may say; both are the same here.  A stream is not a queue, so it is refused."""
QUEUE_MODES = ("default", "lazy")
TIME_MS_MAX = 10 * 365 * 86_400_000


@final
class QueueArguments:
    """What a queue was told by its arguments; times in milliseconds, None where not said."""

    __slots__ = (
        "bytes_max",
        "dead_letter_exchange",
        "dead_letter_key",
        "delivery_limit",
        "expires_ms",
        "is_single_active",
        "length_max",
        "message_ttl_ms",
        "overflow",
        "priority_max",
    )

    def __init__(self, arguments: dict[str, Any], queue: str, vhost: str) -> None:
        where = f"for queue '{queue}' in vhost '{vhost}'"
        for key in _NUMBERS:
            _check_number(arguments, key, where)
        for key in _TEXTS:
            value = arguments.get(key)
            if value is None or isinstance(value, str):
                continue
            if key == "x-dead-letter-exchange":
                raise PreconditionFailed(
                    f"invalid type '{type_name(value)}' for arg '{key}' in queue '{queue}' in vhost '{vhost}'"
                )
            raise PreconditionFailed(
                f"invalid arg '{key}' {where}: {{unacceptable_type,{type_name(value)}}}"
            )
        self.message_ttl_ms: int | None = arguments.get("x-message-ttl")
        self.expires_ms: int | None = arguments.get("x-expires")
        if self.expires_ms == 0:
            raise PreconditionFailed(f"invalid arg 'x-expires' {where}: {{value_zero,0}}")
        self.length_max: int | None = arguments.get("x-max-length")
        self.bytes_max: int | None = arguments.get("x-max-length-bytes")
        self.overflow: str = arguments.get("x-overflow") or "drop-head"
        if self.overflow not in OVERFLOWS:
            raise PreconditionFailed(f"invalid arg 'x-overflow' {where}: invalid_overflow")
        self.priority_max: int = arguments.get("x-max-priority") or 0
        if self.priority_max > PRIORITY_MAX:
            raise PreconditionFailed(
                f"invalid arg 'x-max-priority' {where}: {{max_value_exceeded,{self.priority_max}}}"
            )
        self.delivery_limit: int = arguments.get("x-delivery-limit", DELIVERY_LIMIT)
        self.dead_letter_exchange: str | None = arguments.get("x-dead-letter-exchange")
        self.dead_letter_key: str | None = arguments.get("x-dead-letter-routing-key")
        if self.dead_letter_key is not None and self.dead_letter_exchange is None:
            raise PreconditionFailed(
                f"invalid arg 'x-dead-letter-routing-key' {where}: routing_key_but_no_dlx_defined"
            )
        for key, known in (("x-queue-type", QUEUE_TYPES), ("x-queue-mode", QUEUE_MODES)):
            if arguments.get(key, known[0]) not in known:
                kind = key.removeprefix("x-").replace("-", " ")
                raise PreconditionFailed(
                    f"invalid arg '{key}' {where}: \"unsupported {kind} '{arguments[key]}'\""
                )
        single = arguments.get("x-single-active-consumer", False)
        if not isinstance(single, bool):
            raise PreconditionFailed(
                f"invalid arg 'x-single-active-consumer' {where}: {{unacceptable_type,{type_name(single)}}}"
            )
        self.is_single_active = single


def _check_number(arguments: dict[str, Any], key: str, where: str) -> None:
    value = arguments.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise PreconditionFailed(
            f"invalid arg '{key}' {where}: \"expected integer, got {type_name(value)}\""
        )
    if value < 0 and key != "x-delivery-limit":
        raise PreconditionFailed(f"invalid arg '{key}' {where}: {{value_negative,{value}}}")
    if key in ("x-message-ttl", "x-expires") and value > TIME_MS_MAX:
        raise PreconditionFailed(f"invalid arg '{key}' {where}: {{value_too_large,{value}}}")


def type_name(value: object) -> str:
    """RabbitMQ's name for the type of a field."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "longstr"
    if isinstance(value, float):
        return "double"
    if isinstance(value, int):
        return "signedint"
    if isinstance(value, bytes):
        return "binary"
    if isinstance(value, dict):
        return "table"
    return "array" if isinstance(value, list) else "void"


def inequivalence(kind: str, name: str, vhost: str, argument: str, new: object, old: object) -> str:
    """RabbitMQ's text for a redeclaration that differs in `argument`."""
    if new is None:
        received, current = "none", _typed(old)
    elif old is None:
        received, current = _typed(new), "none"
    else:
        received, current = _plain(new), _plain(old)
    return (
        f"inequivalent arg '{argument}' for {kind} '{name}' in vhost '{vhost}': "
        f"received {received} but current is {current}"
    )


def _plain(value: object) -> str:
    return f"'{str(value).lower()}'" if isinstance(value, bool) else f"'{value}'"


def _typed(value: object) -> str:
    return f"the value {_plain(value)} of type '{type_name(value)}'"


def differing_argument(new: dict[str, Any], old: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first known argument in which two declarations differ, with both values; None: they agree.

    `x-queue-type: classic` equals its absence; what RabbitMQ does not know does not count.
    """
    for key in sorted(new.keys() | old.keys()):
        if key not in _COMPARED:
            continue
        a, b = new.get(key), old.get(key)
        if key == "x-queue-type":
            a, b = a or "classic", b or "classic"
        if a != b or any(isinstance(a, kind) != isinstance(b, kind) for kind in (bool, float)):
            return key, new.get(key), old.get(key)
    return None
