"""Exchanges: where messages are published, and the bindings that say where they go on.

A kind is a small class with `add`, `remove` and `match`; EXCHANGE_KINDS is where a new one is registered.
Tests: tests/unit/broker/core/test_exchange.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, final

from broker.core.topic_tree import TopicTree

if TYPE_CHECKING:
    from broker.core.queue import Queue


@final
class Binding:
    """A way from an exchange to a queue or another exchange."""

    __slots__ = ("arguments", "routing_key", "source", "target")

    def __init__(
        self,
        source: Exchange,
        target: Queue | Exchange,
        routing_key: str,
        arguments: dict[str, Any],
    ) -> None:
        self.source = source
        self.target = target
        self.routing_key = routing_key
        self.arguments = arguments

    @property
    def is_durable(self) -> bool:
        """Kept over restarts: both ends are."""
        return self.source.is_durable and self.target.is_durable

    def identity(self) -> tuple[str, str, str, str]:
        """What makes a binding of one exchange the same as another."""
        return binding_identity(self.target, self.routing_key, self.arguments)


def binding_identity(
    target: Queue | Exchange, routing_key: str, arguments: dict[str, Any]
) -> tuple[str, str, str, str]:
    """The key of a binding within its source exchange."""
    kind = "exchange" if isinstance(target, Exchange) else "queue"
    return kind, target.name, routing_key, repr(sorted(arguments.items(), key=lambda kv: kv[0]))


def storable(value: Any) -> Any:
    """Arguments in types that the store can keep; what it cannot (decimals, say) becomes text."""
    if isinstance(value, dict):
        return {str(key): storable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [storable(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    return str(value)


class ExchangeKind(Protocol):
    """How an exchange chooses among its bindings."""

    needs_headers: bool
    """True: the choice depends on each message's headers, so it cannot be cached by routing key."""

    def add(self, binding: Binding) -> None: ...
    def remove(self, binding: Binding) -> None: ...
    def match(self, key: str, headers: dict[str, Any] | None) -> Iterable[Queue | Exchange]: ...


@final
class Direct:
    """The routing key equals the binding key."""

    needs_headers = False

    def __init__(self) -> None:
        self._by_key: dict[str, list[Queue | Exchange]] = {}

    def add(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.routing_key, []).append(binding.target)

    def remove(self, binding: Binding) -> None:
        targets = self._by_key[binding.routing_key]
        targets.remove(binding.target)
        if not targets:
            del self._by_key[binding.routing_key]

    def match(self, key: str, headers: dict[str, Any] | None) -> Iterable[Queue | Exchange]:
        return self._by_key.get(key, ())


@final
class Fanout:
    """Every binding matches."""

    needs_headers = False

    def __init__(self) -> None:
        self._targets: list[Queue | Exchange] = []

    def add(self, binding: Binding) -> None:
        self._targets.append(binding.target)

    def remove(self, binding: Binding) -> None:
        self._targets.remove(binding.target)

    def match(self, key: str, headers: dict[str, Any] | None) -> Iterable[Queue | Exchange]:
        return self._targets


@final
class Topic:
    """The binding key is a pattern of dot-separated words with `*` and `#`."""

    needs_headers = False

    def __init__(self) -> None:
        self._tree: TopicTree[Queue | Exchange] = TopicTree()

    def add(self, binding: Binding) -> None:
        self._tree.add(binding.routing_key, binding.target)

    def remove(self, binding: Binding) -> None:
        self._tree.remove(binding.routing_key, binding.target)

    def match(self, key: str, headers: dict[str, Any] | None) -> Iterable[Queue | Exchange]:
        return self._tree.match(key)


@final
class Headers:
    """The binding's arguments are compared with the message's headers.

    `x-match` is all (default), any, all-with-x or any-with-x; without -with-x, arguments that begin with `x-` do
    not count.  A void argument asks for presence only (AMQP 0-9-1, 3.1.3.4).
    """

    needs_headers = True

    def __init__(self) -> None:
        self._bindings: list[Binding] = []

    def add(self, binding: Binding) -> None:
        self._bindings.append(binding)

    def remove(self, binding: Binding) -> None:
        self._bindings.remove(binding)

    def match(self, key: str, headers: dict[str, Any] | None) -> Iterable[Queue | Exchange]:
        have = headers or {}
        return [b.target for b in self._bindings if headers_match(b.arguments, have)]


def headers_match(arguments: dict[str, Any], headers: dict[str, Any]) -> bool:
    """Whether headers fit a headers binding's arguments."""
    mode = arguments.get("x-match", "all")
    is_with_x = isinstance(mode, str) and mode.endswith("-with-x")
    wanted = [
        (name, value)
        for name, value in arguments.items()
        if name != "x-match" and (is_with_x or not name.startswith("x-"))
    ]
    hits = (name in headers and (value is None or headers[name] == value) for name, value in wanted)
    return any(hits) if isinstance(mode, str) and mode.startswith("any") else all(hits)


EXCHANGE_KINDS: dict[str, type[Direct | Fanout | Topic | Headers]] = {
    "direct": Direct,
    "fanout": Fanout,
    "topic": Topic,
    "headers": Headers,
}

DELAYED_KIND = "x-delayed-message"
"""RabbitMQ's plugin: routes as its argument `x-delayed-type` says, after the milliseconds of a message's `x-delay`."""
DELAYED_ARGUMENT = "x-delayed-type"


@final
class Exchange:
    """A named place to publish to."""

    __slots__ = (
        "arguments",
        "bindings",
        "is_auto_delete",
        "is_delayed",
        "is_durable",
        "is_internal",
        "keeps_unroutable",
        "kind",
        "name",
        "router",
        "was_bound",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        is_durable: bool,
        is_auto_delete: bool,
        is_internal: bool,
        arguments: dict[str, Any],
        keeps_unroutable: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.is_durable = is_durable
        self.is_auto_delete = is_auto_delete
        self.is_internal = is_internal
        self.arguments = arguments
        self.keeps_unroutable = keeps_unroutable
        self.is_delayed = kind == DELAYED_KIND
        routing_kind = arguments[DELAYED_ARGUMENT] if self.is_delayed else kind
        self.router: ExchangeKind = EXCHANGE_KINDS[routing_kind]()
        self.bindings: dict[tuple[str, str, str, str], Binding] = {}
        self.was_bound = False

    @property
    def alternate(self) -> str | None:
        """The exchange that takes what this one cannot route."""
        value = self.arguments.get("alternate-exchange")
        return value if isinstance(value, str) else None

    def add(self, binding: Binding) -> bool:
        """Add a binding; False if it is there already."""
        identity = binding.identity()
        if identity in self.bindings:
            return False
        self.bindings[identity] = binding
        self.router.add(binding)
        self.was_bound = True
        return True

    def remove(self, identity: tuple[str, str, str, str]) -> Binding | None:
        """Remove a binding; None if there is none."""
        binding = self.bindings.pop(identity, None)
        if binding is not None:
            self.router.remove(binding)
        return binding

    def definition(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "kind": self.kind,
            "auto_delete": self.is_auto_delete,
            "internal": self.is_internal,
            "arguments": storable(self.arguments),
        }
