"""The store as the broker's core sees it: messages, units of work, lanes.

Imports nothing of ours but the errors.  A `Store` keeps *lanes*: numbered, never reused
sequences of positions 0, 1, 2 …; a queue owns one lane (or one a priority).  A message
published to several lanes is stored once.  Everything in one `UnitOfWork` is there wholly or
not at all after a crash.  Implementations: `store.journal.Journal`, `store.memory.MemoryStore`; the
suite that both pass: tests/suites/store_suite.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, final

from store.errors import StoreError as StoreError  # noqa: PLC0414 -- the core sees no other module of the store


class StoredMessage:
    """What a store keeps of a message, and where it lies.

    `format` names the codec of `header` (0 AMQP content header properties, 1 STOMP header block);
    `published_at` and `expires_at` are milliseconds since 1970 (0: never expires).  `trace` is
    what links keep of a message's origin and way (broker/link/trace.py), opaque here, mostly empty.  `size` is
    the bytes of header and body of what was read from the store; 0 until then.
    """

    __slots__ = (
        "body",
        "exchange",
        "expires_at",
        "format",
        "header",
        "is_persistent",
        "priority",
        "published_at",
        "routing_key",
        "size",
        "trace",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        format: int,
        header: bytes,
        body: bytes,
        *,
        is_persistent: bool,
        priority: int,
        published_at: int,
        expires_at: int,
        trace: bytes = b"",
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.format = format
        self.header = header
        self.body = body
        self.is_persistent = is_persistent
        self.priority = priority
        self.published_at = published_at
        self.expires_at = expires_at
        self.trace = trace
        self.size = 0


@final
class UnitOfWork:
    """Changes that become durable together.  The reactor thread fills one a turn.

    Plain lists, appended to directly on the hot path:
    `published` (message, lane, position), in order; several rows with the *same message object*
    are one stored message in several lanes.
    `acknowledged` (lane, position, message): the message leaves the lane.
    `changes`: everything rare, as tuples that start with one of the CHANGE_ constants.
    """

    __slots__ = ("acknowledged", "changes", "published")

    def __init__(self) -> None:
        self.published: list[tuple[StoredMessage, int, int]] = []
        self.acknowledged: list[tuple[int, int, StoredMessage]] = []
        self.changes: list[tuple[Any, ...]] = []

    def __bool__(self) -> bool:
        return bool(self.published or self.acknowledged or self.changes)

    def define(self, key: str, value: dict[str, Any] | None) -> None:
        """Set (or with None: remove) the definition `key`; the value must be msgpack-able."""
        self.changes.append((CHANGE_DEFINE, key, value))

    def drop_lane(self, lane: int) -> None:
        """Forget a lane and all its messages, published before in this unit or ever."""
        self.changes.append((CHANGE_DROP_LANE, lane))

    def purge(self, lane: int, end: int, keep: list[int]) -> None:
        """Remove all positions of the lane below `end`, but for those in `keep`."""
        self.changes.append((CHANGE_PURGE, lane, end, keep))

    def horizon(self, lane: int, position: int) -> None:
        """State that positions below `position` may have been taken and handed out.

        After a restart new positions start at it, and live ones below it count as redelivered.
        """
        self.changes.append((CHANGE_HORIZON, lane, position))

    def requeue(self, lane: int, position: int, count: int) -> None:
        """State how often a message of the lane has been delivered so far."""
        self.changes.append((CHANGE_REQUEUE, lane, position, count))


CHANGE_DEFINE = 1
CHANGE_DROP_LANE = 2
CHANGE_PURGE = 3
CHANGE_HORIZON = 4
CHANGE_REQUEUE = 5


@final
class LaneState:
    """A lane as found at opening: live positions lie in [first, next)."""

    __slots__ = ("bytes", "count", "first", "horizon", "next")

    def __init__(self, first: int, next: int, count: int, bytes: int, horizon: int) -> None:
        self.first = first
        self.next = next
        self.count = count
        self.bytes = bytes
        self.horizon = horizon


@final
class Recovered:
    """What a store held when it was opened."""

    __slots__ = ("definitions", "epoch", "lanes", "next_lane", "store_id")

    def __init__(
        self,
        definitions: dict[str, dict[str, Any]],
        lanes: dict[int, LaneState],
        next_lane: int,
        epoch: int,
        store_id: str,
    ) -> None:
        self.definitions = definitions
        self.lanes = lanes
        self.next_lane = next_lane
        self.epoch = epoch
        self.store_id = store_id


LINGER_SECONDS: Final = 0.005
"""How long acknowledgements that nobody waits for may be on their way to the disk."""


class Store(Protocol):
    """Keeps what the broker promised.  All calls come from one thread, the reactor's."""

    durable: int
    """The highest commit number whose unit is on stable storage."""

    is_blocked: bool
    """True while publishers must wait (space is low, or too much journal since the last checkpoint)."""

    def open(
        self,
        post: Callable[[Callable[[], None]], None],
        on_durable: Callable[[int], None],
        on_failed: Callable[[BaseException], None],
        on_blocked: Callable[[bool], None],
    ) -> Recovered:
        """Recover and start.

        `post` runs a callable in the caller's thread soon (reactor.callFromThread); the three others are called through it:
        `on_durable(commit)` at most once a sync; `on_failed` once, after which nothing becomes durable any more.
        Raises Corrupt, VersionMismatch, Full, OSError.
        """
        ...

    def commit(self, unit: UnitOfWork) -> int:
        """Take over a unit and return its commit number (1, 2, 3 …); does not wait.

        The caller must not touch the unit again.  An empty unit returns the number of the last unit.  Acknowledgements alone
        do not hurry the disk: they go with the next unit that does, LINGER_SECONDS later at most.
        """
        ...

    def hurry(self) -> None:
        """Somebody waits for what was committed, acknowledgements too."""
        ...

    def read(
        self, lane: int, first: int, count_max: int, bytes_max: int
    ) -> list[tuple[int, StoredMessage, int]]:
        """The next live messages of a lane from position `first` on, in order: (position, message, delivery count).

        Sees everything committed, synced or not.  At most `count_max`, and stops after the message that
        reaches `bytes_max`.  Empty: there is none.  Raises Corrupt.
        """
        ...

    def close(self) -> None:
        """Checkpoint and stop; everything committed is durable when it returns."""
        ...

    def stat(self) -> dict[str, Any]:
        """Figures for status and metrics: segments, bytes on disk, journal debt, syncs, epoch, …"""
        ...
