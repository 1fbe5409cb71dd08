"""What exists in a vhost: exchanges, queues and bindings, and the rules for declaring them.

Declarations follow RabbitMQ's rules and texts.  Every change raises `version`, which makes cached routes stale.  Durable
things are told to the turn's unit as definitions.  Tests: tests/unit/broker/core/test_vhost.py.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from broker.core.arguments import QueueArguments, differing_argument, inequivalence, type_name
from broker.core.destination import AddressTable
from broker.core.exchange import (
    DELAYED_ARGUMENT,
    DELAYED_KIND,
    EXCHANGE_KINDS,
    Binding,
    Exchange,
    binding_identity,
    storable,
)
from broker.core.lane import Lane
from broker.core.queue import Queue
from broker.errors import (
    AccessRefused,
    NotFound,
    PreconditionFailed,
    ResourceLimit,
    ResourceLocked,
)

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost

RESTORED_LOOK_MS: Final = 5
"""After a start, so long from the look at one queue's stored messages to the next one's."""
SYSTEM_EXCHANGES: Final = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)


class Topology(ABC):
    """The exchanges, queues and bindings of one vhost; `Vhost` adds what is done with them."""

    def __init__(self, broker: Broker, name: str, addresses: AddressTable) -> None:
        self.broker = broker
        self.name = name
        self.addresses = addresses
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.version = 0
        self._targeting: dict[Queue | Exchange, list[Binding]] = {}
        for exchange_name, kind in SYSTEM_EXCHANGES:
            self.exchanges[exchange_name] = Exchange(
                exchange_name,
                kind,
                is_durable=True,
                is_auto_delete=False,
                is_internal=False,
                arguments={},
            )

    @abstractmethod
    def _as_vhost(self) -> Vhost:
        """Itself, as what its queues know it by."""

    # Looking up

    def exchange(self, name: str) -> Exchange:
        """The exchange of that name; raises NotFound."""
        found = self.exchanges.get(name)
        if found is None:
            raise NotFound(f"no exchange '{name}' in vhost '{self.name}'")
        return found

    def queue(self, name: str, owner: object = None) -> Queue:
        """The queue of that name; raises NotFound, or ResourceLocked if it is exclusive to another owner."""
        if self.broker.letters:
            # Whoever asks for a queue sees what happened before.
            self.broker.post_letters()
        found = self.queues.get(name)
        if found is None:
            raise NotFound(f"no queue '{name}' in vhost '{self.name}'")
        if found.is_exclusive and found.owner is not owner:
            raise self._locked(name)
        return found

    def _locked(self, name: str) -> ResourceLocked:
        return ResourceLocked(
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'. It could be originally "
            "declared on another connection or the exclusive property value does not match that of the original "
            "declaration."
        )

    # Exchanges

    def declare_exchange(
        self,
        name: str,
        kind: str = "direct",
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Exchange:
        """Make an exchange, or check that the one there is equivalent; raises PreconditionFailed, AccessRefused."""
        arguments = arguments or {}
        if kind == DELAYED_KIND:
            if arguments.get(DELAYED_ARGUMENT) not in EXCHANGE_KINDS:
                raise PreconditionFailed(
                    "Invalid argument, 'x-delayed-type' must be an existing exchange type"
                )
        elif kind not in EXCHANGE_KINDS:
            raise PreconditionFailed(f"unknown exchange type '{kind}'")
        alternate = arguments.get("alternate-exchange")
        if alternate is not None and not isinstance(alternate, str):
            raise PreconditionFailed(
                f"invalid type '{type_name(alternate)}' for arg 'alternate-exchange' in exchange '{name}' "
                f"in vhost '{self.name}'"
            )
        if name == "":
            raise AccessRefused("operation not permitted on the default exchange")
        found = self.exchanges.get(name)
        if found is not None:
            wanted = (
                ("type", kind, found.kind),
                ("durable", durable, found.is_durable),
                ("auto_delete", auto_delete, found.is_auto_delete),
                ("internal", internal, found.is_internal),
            )
            self._check_same("exchange", name, wanted, arguments, found.arguments)
            return found
        if name.startswith("amq."):
            raise AccessRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        self._check_room(len(self.exchanges))
        exchange = self._add_exchange(
            name,
            {
                "kind": kind,
                "auto_delete": auto_delete,
                "internal": internal,
                "arguments": arguments,
            },
            is_durable=durable,
        )
        if durable:
            self.broker.unit.define(self._key("exchange", name), exchange.definition())
        return exchange

    def _add_exchange(self, name: str, made: dict[str, Any], *, is_durable: bool) -> Exchange:
        address = self.addresses.match_exchange(name)
        exchange = Exchange(
            name,
            made["kind"],
            is_durable=is_durable,
            is_auto_delete=made["auto_delete"],
            is_internal=made["internal"],
            arguments=made["arguments"],
            keeps_unroutable=address is not None and address.unroutable == "dead-letter",
        )
        self.exchanges[name] = exchange
        self.version += 1
        return exchange

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange with its bindings; a missing one is no error (RabbitMQ)."""
        if name == "":
            raise AccessRefused("operation not permitted on the default exchange")
        if name.startswith("amq."):
            raise AccessRefused(
                f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed"
            )
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._drop_exchange(exchange)

    def _drop_exchange(self, exchange: Exchange) -> None:
        if self.exchanges.get(exchange.name) is not exchange:
            return
        del self.exchanges[exchange.name]
        for binding in list(exchange.bindings.values()):
            self._unbind(exchange, binding.target, binding.routing_key, binding.arguments)
        self._drop_bindings_to(exchange)
        if exchange.is_durable:
            self.broker.unit.define(self._key("exchange", exchange.name), None)
        self.version += 1

    # Queues

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        owner: object = None,
    ) -> Queue:
        """Make a queue ("": server-named), or check that the one there is equivalent."""
        arguments = arguments or {}
        if self.broker.letters:
            self.broker.post_letters()
        found = self.queues.get(name)
        if found is not None:
            if (found.is_exclusive or exclusive) and (
                found.owner is not owner or found.is_exclusive != exclusive
            ):
                raise self._locked(name)
            wanted = (
                ("durable", durable, found.is_declared_durable),
                ("auto_delete", auto_delete, found.is_auto_delete),
            )
            self._check_same("queue", name, wanted, arguments, found.arguments)
            found.unused_since_ms = self.broker.now_ms
            return found
        if name.startswith("amq."):
            raise AccessRefused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        if not name:
            name = "amq.gen-" + self.broker.random_name()
        settings = QueueArguments(arguments, name, self.name)
        self._check_room(len(self.queues))
        lanes = [Lane(self.broker.new_lane()) for _ in range(settings.priority_max + 1)]
        queue = Queue(
            self._as_vhost(),
            name,
            lanes,
            is_durable=durable and not exclusive,
            is_exclusive=exclusive,
            is_auto_delete=auto_delete,
            arguments=arguments,
            settings=settings,
            owner=owner if exclusive else None,
        )
        queue.is_declared_durable = durable
        self._add_queue(queue)
        if queue.is_durable:
            self.broker.unit.define(self._key("queue", name), queue.definition())
        return queue

    def _add_queue(self, queue: Queue) -> None:
        self.queues[queue.name] = queue
        self.version += 1
        if queue.settings.expires_ms is not None:
            self.broker.watch(queue, queue.unused_since_ms + queue.settings.expires_ms)
        if queue.is_exclusive:
            self.broker.own(queue)

    def add_reply_queue(self, name: str, owner: object) -> Queue:
        """Make a queue for the answers to one consumer, which it goes with; its name is reserved."""
        self._check_room(len(self.queues))
        queue = Queue(
            self._as_vhost(),
            name,
            [Lane(self.broker.new_lane())],
            is_durable=False,
            is_exclusive=True,
            is_auto_delete=True,
            arguments={},
            settings=QueueArguments({}, name, self.name),
            owner=owner,
        )
        self._add_queue(queue)
        return queue

    def restore_queue(self, name: str, made: dict[str, Any], lanes: list[Lane]) -> Queue:
        """Put a durable queue back as the store had it."""
        queue = Queue(
            self._as_vhost(),
            name,
            lanes,
            is_durable=True,
            is_exclusive=False,
            is_auto_delete=made["auto_delete"],
            arguments=made["arguments"],
            settings=QueueArguments(made["arguments"], name, self.name),
            owner=None,
        )
        if made.get("grouped"):
            queue.choose().is_grouped = True
        self._add_queue(queue)
        if queue.depth:
            # What lies in the store may expire: known when its head is read, once all definitions are in; one
            # queue after the other, so that ten thousand of them do not hold up the first consumer.
            self.broker.watch(queue, self.broker.now_ms + RESTORED_LOOK_MS * len(self.queues))
        return queue

    def restore_exchange(self, name: str, made: dict[str, Any]) -> None:
        """Put a durable exchange back as the store had it."""
        self._add_exchange(name, made, is_durable=True)

    def restore_binding(
        self, source: str, kind: str, target: str, routing_key: str, arguments: dict[str, Any]
    ) -> None:
        """Put a durable binding back; one whose ends are missing is left out."""
        exchange = self.exchanges.get(source)
        end = self.queues.get(target) if kind == "queue" else self.exchanges.get(target)
        if exchange is not None and end is not None:
            self._bind(exchange, end, routing_key, arguments)

    def delete_queue(
        self, name: str, *, if_unused: bool = False, if_empty: bool = False, owner: object = None
    ) -> int:
        """Delete a queue; returns the messages that went with it (0 for a missing one: no error, as RabbitMQ)."""
        if name not in self.queues:
            return 0
        queue = self.queue(name, owner)
        if if_unused and queue.subscriptions:
            raise PreconditionFailed(f"queue '{name}' in vhost '{self.name}' in use")
        self.broker.serve(queue)
        if if_empty and queue.depth:
            raise PreconditionFailed(f"queue '{name}' in vhost '{self.name}' not empty")
        return self.drop_queue(queue)

    def drop_queue(self, queue: Queue) -> int:
        """Delete a queue whatever it holds; its subscriptions are cancelled."""
        if queue.is_deleted:
            return 0
        count = queue.depth
        queue.is_deleted = True
        if queue.choice is not None:
            queue.choice.end_browsing()
        del self.queues[queue.name]
        self._drop_bindings_to(queue)
        unit = self.broker.unit
        for lane in queue.lanes:
            unit.drop_lane(lane.number)
            lane.ready.clear()
            lane.unsettled.clear()
            self.broker.delays.forget(lane)
            lane.paged_count = lane.paged_bytes = 0
        if queue.is_durable:
            unit.define(self._key("queue", queue.name), None)
        self.version += 1
        subscriptions, queue.subscriptions = queue.subscriptions, []
        for subscription in subscriptions:
            subscription.queue = None
            self.broker.detach(subscription)
            subscription.sink.cancelled(subscription, "queue deleted")
        return count

    def purge_queue(self, name: str, owner: object = None) -> int:
        """Remove the ready messages of a queue; returns how many."""
        queue = self.queue(name, owner)
        self.broker.serve(queue)
        return queue.purge()

    # Bindings

    def bind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: dict[str, Any] | None = None,
        owner: object = None,
    ) -> None:
        """Bind a queue to an exchange; binding twice is binding once."""
        self._bind_checked(
            self.exchange(exchange), self.queue(queue, owner), routing_key, arguments
        )

    def unbind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: dict[str, Any] | None = None,
        owner: object = None,
    ) -> None:
        """Undo a binding; one that is not there is no error (RabbitMQ)."""
        if exchange == "":
            raise AccessRefused("operation not permitted on the default exchange")
        if queue in self.queues and exchange in self.exchanges:
            end = self.queue(queue, owner)
            self._unbind(self.exchanges[exchange], end, routing_key, arguments or {})

    def bind_exchange(
        self,
        destination: str,
        source: str,
        routing_key: str,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Bind exchange `destination` to exchange `source`."""
        if destination == "":
            raise AccessRefused("operation not permitted on the default exchange")
        self._bind_checked(
            self.exchange(source), self.exchange(destination), routing_key, arguments
        )

    def unbind_exchange(
        self,
        destination: str,
        source: str,
        routing_key: str,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Undo an exchange-to-exchange binding; one that is not there is no error."""
        if "" in (destination, source):
            raise AccessRefused("operation not permitted on the default exchange")
        if destination in self.exchanges and source in self.exchanges:
            self._unbind(
                self.exchanges[source], self.exchanges[destination], routing_key, arguments or {}
            )

    def _bind_checked(
        self,
        source: Exchange,
        target: Queue | Exchange,
        routing_key: str,
        arguments: dict[str, Any] | None,
    ) -> None:
        if source.name == "":
            raise AccessRefused("operation not permitted on the default exchange")
        if source.router.needs_headers:
            _check_match((arguments or {}).get("x-match"))
        self._check_room(len(source.bindings))
        binding = self._bind(source, target, routing_key, arguments or {})
        if binding is not None and binding.is_durable:
            self.broker.unit.define(
                self._binding_key(binding), {"arguments": storable(binding.arguments)}
            )

    def _bind(
        self,
        source: Exchange,
        target: Queue | Exchange,
        routing_key: str,
        arguments: dict[str, Any],
    ) -> Binding | None:
        binding = Binding(source, target, routing_key, arguments)
        if not source.add(binding):
            return None
        self._targeting.setdefault(target, []).append(binding)
        self.version += 1
        return binding

    def _unbind(
        self,
        source: Exchange,
        target: Queue | Exchange,
        routing_key: str,
        arguments: dict[str, Any],
    ) -> None:
        binding = source.remove(binding_identity(target, routing_key, arguments))
        if binding is None:
            return
        kept = self._targeting[target]
        kept.remove(binding)
        if not kept:
            del self._targeting[target]
        if binding.is_durable:
            self.broker.unit.define(self._binding_key(binding), None)
        self.version += 1
        if source.is_auto_delete and not source.bindings:
            self._drop_exchange(source)

    def _drop_bindings_to(self, target: Queue | Exchange) -> None:
        for binding in list(self._targeting.get(target, ())):
            self._unbind(binding.source, target, binding.routing_key, binding.arguments)

    def bindings_to(self, target: Queue | Exchange) -> list[Binding]:
        """All bindings that end at a queue or exchange."""
        return list(self._targeting.get(target, ()))

    def bindings(self) -> list[Binding]:
        """All bindings but the default exchange's."""
        return [b for exchange in self.exchanges.values() for b in exchange.bindings.values()]

    # Keys of definitions

    def _key(self, kind: str, name: str) -> str:
        return json.dumps([kind, self.name, name])

    def _binding_key(self, binding: Binding) -> str:
        kind, target, routing_key, arguments = binding.identity()
        return json.dumps(
            ["binding", self.name, binding.source.name, kind, target, routing_key, arguments]
        )

    def _check_same(
        self,
        kind: str,
        name: str,
        wanted: tuple[tuple[str, object, object], ...],
        arguments: dict[str, Any],
        known: dict[str, Any],
    ) -> None:
        for argument, new, old in wanted:
            if new != old:
                raise PreconditionFailed(inequivalence(kind, name, self.name, argument, new, old))
        difference = differing_argument(arguments, known)
        if difference is not None:
            raise PreconditionFailed(inequivalence(kind, name, self.name, *difference))

    def _check_room(self, count: int) -> None:
        if count >= self.broker.limits.names_max:
            raise ResourceLimit(
                f"vhost '{self.name}' holds {count} names of this kind, its bound; delete some first"
            )


def _check_match(mode: object) -> None:
    """Refuse what a binding of a headers exchange may not say."""
    if mode is None or mode in ("all", "any", "all-with-x", "any-with-x"):
        return
    if isinstance(mode, str):
        raise PreconditionFailed(
            f'Invalid x-match field value <<"{mode}">>; expected all, any, all-with-x, or any-with-x'
        )
    raise PreconditionFailed(
        f"Invalid x-match field type {type_name(mode)} (value {mode}); expected longstr"
    )
