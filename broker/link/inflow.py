"""The receiving end of a stream: publishes what is new, with the cursor in the same unit, and acknowledges what is durable.

Repeats on the link are told by the cursor; second copies by another path, of exchange streams only, by the origin.  The
cursor advances also for what routes nowhere or is refused (that is kept as a dead letter).  A repeat is acknowledged only with
the first copy: by the cursor of a commit that is on stable storage.  Tests: tests/unit/broker/link/test_streams.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

from broker.core.message import Message
from broker.errors import BrokerError, ProtocolViolation
from broker.link.demand import Entries, difference, wanted_by
from broker.link.frames import ACKNOWLEDGED, DEMAND, RESUME, START, WANTED
from broker.link.ranges import Ranges, flat_of
from broker.link.trace import NO_ORIGIN, has_been_at, hop_count, is_sound, origin_of
from broker.wire.properties import AMQP, STOMP

if TYPE_CHECKING:
    from broker.core.destination import Destination
    from broker.link.cursor import Cursor
    from broker.link.session import LinkSession
    from broker.link.settings import Stream

POSSIBLE_DUPLICATE: Final = "x-possible-duplicate"
KEYS_MAX: Final = 10_000


@final
class Inflow:
    """Receives one stream of one link."""

    def __init__(
        self, session: LinkSession, number: int, stream: Stream, vhost: str, hops_max: int
    ) -> None:
        self._session = session
        self.number = number
        self.stream = stream
        self.name = stream.name
        self.vhost_name = vhost
        self.hops_max = hops_max
        self.is_exchange = stream.kind == "exchange"
        self.applied_count = 0
        self.applied_bytes = 0
        self.repeat_count = 0
        self.second_copy_count = 0
        self.circled_count = 0
        self.unroutable_count = 0
        self.refused_count = 0
        self.unknown_count = 0
        self.refusal = ""
        self.last_published_at = 0
        self._cursor: Cursor | None = None
        self._states_cursor = False
        self._statement: tuple[int, list[Any]] | None = None
        self._is_begun = False
        self._claim = ""
        self._touched: list[int] | None = None
        self._promises: deque[tuple[int, Any]] = deque()
        self._destinations: dict[str, Destination] = {}
        self._told: Entries | None = None
        self._seen_version = (-1, -1)
        self._was_wanted: bool | None = None

    # Beginning

    def start(self, lane: int, claim: str, is_shared: bool) -> None:
        """The far side begins: state what is applied, once that is on stable storage."""
        self._cursor = self._session.table.cursors.cursor(
            self._session.peer_id, lane, is_shared=is_shared
        )
        self._claim = claim
        self._states_cursor = True
        self._session.wake_up()

    def begin(self, is_known: bool) -> None:
        """The far side says whether the cursor is on its history."""
        cursor = self._opened()
        if not is_known:
            if cursor.claim:
                self._session.say(
                    f"{self.name}: the far side does not know our cursor: a new stream begins"
                )
            cursor.restart()
        cursor.claim = self._claim
        self._is_begun = True
        self._session.table.cursors.write(cursor, self._session.broker.unit.define)
        self.look()

    def _opened(self) -> Cursor:
        if self._cursor is None:
            raise ProtocolViolation(f"{START} first: stream {self.number} has no cursor")
        return self._cursor

    # Batches

    def take(self, rows: list[Any]) -> None:
        """Apply a batch.  Raises BrokerError, TypeError, ValueError."""
        cursor = self._opened()
        if not self._is_begun:
            raise ProtocolViolation("a batch before its stream began")
        session = self._session
        table = session.table
        vhost = session.broker.vhost(self.vhost_name)
        peer_id, self_id = session.peer_id, table.id
        touched = self._touched
        if touched is None:
            touched = self._touched = []
        destinations = self._destinations
        target = self.stream.target
        position = cursor.position
        for (
            place,
            key,
            format,
            header,
            body,
            is_persistent,
            priority,
            published_at,
            expires_at,
            trace,
        ) in rows:
            if cursor.is_shared:
                touched.append(place)
                if place in cursor.applied:
                    self.repeat_count += 1
                    continue
                cursor.applied.add(place, place + 1)
            elif place <= position:
                self.repeat_count += 1
                continue
            else:
                position = place
            if not is_sound(trace):
                raise ProtocolViolation("a message's trace makes no sense")
            if self.is_exchange:
                if has_been_at(trace, self_id) or hop_count(trace) >= self.hops_max:
                    self.circled_count += 1
                    continue
                origin = origin_of(trace)
                if origin is not None:
                    verdict = table.origins.apply(*origin)
                    if verdict == "repeat":
                        self.second_copy_count += 1
                        continue
                    if verdict == "unknown":
                        self.unknown_count += 1
                        format, header = _marked(format, header)
                destination = destinations.get(key)
                if destination is None:
                    destination = self._destination(vhost.destination(target, key))
            else:
                destination = destinations.get("")
                if destination is None:
                    destination = self._queue_destination()
            if format not in (AMQP, STOMP):
                raise ProtocolViolation(f"a header in the unknown format {format!r}")
            message = Message(
                destination, format, header, body, is_persistent, priority, published_at, expires_at
            )
            message.trace = (trace or NO_ORIGIN) + peer_id
            self.applied_bytes += len(body)
            taken = vhost.publish(message)
            self.applied_count += 1
            if taken <= 0:
                self._not_taken(message, taken)
        if rows:
            self.last_published_at = rows[-1][7]
        cursor.position = position
        define = session.broker.unit.define
        if self.is_exchange:
            table.origins.flush(define)
        table.cursors.write(cursor, define)

    def _destination(self, destination: Destination) -> Destination:
        if len(self._destinations) >= KEYS_MAX:
            self._destinations.clear()
        self._destinations[destination.routing_key] = destination
        return destination

    def _queue_destination(self) -> Destination:
        vhost = self._session.broker.vhost(self.vhost_name)
        vhost.queue(self.stream.target)
        self._destinations[""] = vhost.destination("", self.stream.target)
        return self._destinations[""]

    def _not_taken(self, message: Message, taken: int) -> None:
        if taken == 0 and self.is_exchange:
            self.unroutable_count += 1
            return
        self.refused_count += 1
        text = f"refused where link {self._session.name} brought it: {self.name}"
        self._session.broker.vhost(self.vhost_name).keep_letter(message, "refused", text)

    def settled(self, flat: list[int]) -> None:
        """The far side has settled these on stable storage: they never come again."""
        cursor = self._opened()
        for first, end in Ranges(flat).pairs():
            cursor.applied.remove(first, end)
        self._session.table.cursors.write(cursor, self._session.broker.unit.define)

    # The turn

    def end_turn(self, commit: int) -> None:
        """What was applied may be acknowledged once this commit is durable."""
        cursor = self._cursor
        if cursor is None:
            return
        if self._states_cursor:
            self._states_cursor = False
            self._statement = (commit, cursor.statement())
        if self._touched is not None:
            self._promises.append(
                (commit, flat_of(sorted(self._touched)) if cursor.is_shared else cursor.position)
            )
            self._touched = None

    def on_durable(self, commit: int) -> None:
        """Commits up to this one are on stable storage."""
        if self._statement is not None and self._statement[0] <= commit:
            self._session.send(RESUME, [self.number, self._statement[1]])
            self._statement = None
        promises = self._promises
        if not promises or promises[0][0] > commit:
            return
        what = promises[0][1]
        is_shared = isinstance(what, list)
        told: list[int] = []
        while promises and promises[0][0] <= commit:
            what = promises.popleft()[1]
            if is_shared:
                told += what
        self._session.send(ACKNOWLEDGED, [self.number, told if is_shared else what])

    # What is wanted here

    def look(self) -> None:
        """Tell the far side when what is wanted here has changed."""
        if not self._is_begun:
            return
        if self.is_exchange:
            self._tell_demand()
        else:
            self._tell_wanted()

    def _tell_demand(self) -> None:
        session = self._session
        table = session.table
        vhost = session.broker.vhosts.get(self.vhost_name)
        if vhost is None or self.stream.target not in vhost.exchanges:
            return
        version = (vhost.version, table.demand_version)
        if version == self._seen_version:
            return
        self._seen_version = version
        wanted = wanted_by(
            table.local_entries(vhost, self.stream.target),
            table.told_of(vhost.name, self.stream.target),
            table.id,
            session.peer_id,
            self.hops_max,
        )
        is_first = self._told is None
        added, removed = difference(self._told or {}, wanted)
        self._told = wanted
        if added or removed or is_first:
            session.send(DEMAND, [self.number, is_first, added, removed])

    def _tell_wanted(self) -> None:
        vhost = self._session.broker.vhosts.get(self.vhost_name)
        queue = vhost.queues.get(self.stream.target) if vhost is not None else None
        is_wanted = queue is not None and any(
            one.room() > 0 for one in queue.subscriptions if one.priority >= 0
        )
        if is_wanted != self._was_wanted:
            self._was_wanted = is_wanted
            self._session.send(WANTED, [self.number, is_wanted])

    def end(self) -> None:
        """The connection is gone: what is not acknowledged comes again, and is known."""
        self._promises.clear()
        self._touched = None


def _marked(format: int, header: bytes) -> tuple[int, bytes]:
    """A header with the mark that its message may be a second copy."""
    from broker.wire import stomp
    from broker.wire.amqp import values

    try:
        decode = values.decode_properties if format == AMQP else stomp.decode_properties
        properties = decode(header)
    except (BrokerError, ValueError):
        return format, header
    properties.headers = {**(properties.headers or {}), POSSIBLE_DUPLICATE: True}
    return AMQP, values.encode_properties(properties)
