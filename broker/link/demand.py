"""What is wanted of an exchange, by whom, and by which way: demand, told from broker to broker.

Each broker tells its neighbors the bindings that its own users made, and those it knows of other neighbors, with the path
of brokers behind them.  Like a path-vector routing protocol: an entry whose path names the receiver is not taken, so
that two brokers never keep alive what neither of them wants any more.  Pure tables; links carry the differences.
Tests: tests/unit/broker/link/test_demand.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from broker.core.exchange import Exchange

ENTRIES_MAX: Final = 200_000
"""Bindings told over one link for one exchange."""

Want = tuple[str, str]
"""Routing key, and the arguments as sorted text: what makes a binding the same as another."""


@final
class Entry:
    """One wanted binding: its arguments, and the brokers behind it, nearest first (store ids)."""

    __slots__ = ("arguments", "path")

    def __init__(self, arguments: dict[str, Any], path: tuple[bytes, ...]) -> None:
        self.arguments = arguments
        self.path = path

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Entry)
            and self.path == other.path
            and self.arguments == other.arguments
        )

    __hash__ = None  # type: ignore[assignment]


Entries = dict[Want, Entry]


def want(routing_key: str, arguments: Mapping[str, Any]) -> Want:
    """What identifies a binding."""
    return routing_key, repr(sorted(arguments.items())) if arguments else ""


def local_entries(exchange: Exchange, buffers: Iterable[str]) -> Entries:
    """What a broker's own queues and exchanges are bound with; the buffers of links do not count."""
    passed = set(buffers)
    found: Entries = {}
    for kind, target, routing_key, _ in exchange.bindings:
        if kind == "queue" and target in passed:
            continue
        binding = exchange.bindings[kind, target, routing_key, _]
        if exchange.kind == "fanout":
            routing_key = ""
        known = want(routing_key, binding.arguments)
        found[known] = Entry(binding.arguments, ())
    return found


def wanted_by(
    local: Entries,
    told: Mapping[bytes, Entries],
    self_id: bytes,
    neighbor: bytes,
    hops_max: int,
) -> Entries:
    """What to tell a neighbor: own wants, and by the shortest way those of others that do not lead back to it.

    `told` has what each other neighbor told.  Paths longer than `hops_max` brokers are not told.
    """
    best: Entries = {known: Entry(one.arguments, (self_id,)) for known, one in local.items()}
    for source in sorted(told):
        if source == neighbor:
            continue
        for known, one in told[source].items():
            path = (self_id, *one.path)
            if neighbor in one.path or self_id in one.path or len(path) > hops_max:
                continue
            other = best.get(known)
            if other is None or (len(path), path) < (len(other.path), other.path):
                best[known] = Entry(one.arguments, path)
    return best


Difference = tuple[list[list[Any]], list[list[str]]]
"""Entries to add as [routing key, arguments text, arguments, path], entries to remove as [routing key, arguments text]."""


def difference(before: Entries, after: Entries) -> Difference:
    """What changed, as it goes over a link."""
    added = [
        [known[0], known[1], one.arguments, list(one.path)]
        for known, one in after.items()
        if before.get(known) != one
    ]
    return added, [list(known) for known in before if known not in after]


def merged(before: Entries, change: Difference) -> Entries:
    """What a neighbor wants after a change; raises ValueError, TypeError for what makes no sense."""
    added, removed = change
    after = dict(before)
    for known, text in removed:
        after.pop((known, text), None)
    for routing_key, text, arguments, path in added:
        if not isinstance(routing_key, str) or not isinstance(arguments, dict):
            raise TypeError("a routing key and arguments expected")
        if any(not isinstance(one, bytes) for one in path) or len(after) > ENTRIES_MAX:
            raise ValueError("a path of at most so many brokers expected")
        after[routing_key, text] = Entry(arguments, tuple(path))
    return after


def stored(entries: Entries) -> list[list[Any]]:
    """Entries as the store keeps them."""
    return difference({}, entries)[0]


def restored(rows: list[list[Any]]) -> Entries:
    """Entries of the store."""
    return merged({}, (rows, []))
