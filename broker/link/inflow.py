"""The receiving end of a stream: publishes what is new, with the cursor in the same unit, and acknowledges what is durable.

Repeats on the link are told by the cursor; second copies by another path, of exchange streams only, by the origin.  The
cursor advances also for what routes nowhere or is refused (that is kept as a dead letter).  A repeat is acknowledged only with
the first copy: by the cursor of a commit that is on stable storage.  Tests: tests/sim/test_link_traps.py, tests/property/test_link_network.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

from broker.core.message import Message
from broker.errors import BrokerError, ProtocolViolation
from broker.link.demand import Entries, difference, wanted_by
from broker.link.frames import ACKNOWLEDGED, DEMAND, RESUME, START, WANTED
from broker.link.ranges import Ranges, flat_of
from broker.link.tally import Tally
from broker.link.trace import NO_ORIGIN, ORIGIN_BYTES, has_been_at, hop_count, is_sound, origin_of
from broker.wire.properties import AMQP, STOMP

if TYPE_CHECKING:
    from broker.core.destination import Destination
    from broker.core.vhost import Vhost
    from broker.link.cursor import Cursor
    from broker.link.session import LinkSession
    from broker.link.settings import Stream

POSSIBLE_DUPLICATE: Final = "x-possible-duplicate"
KEYS_MAX: Final = 10_000
HOPPED: Final = -2
"""Instead of how many queues took it: it has gone through too many brokers."""


@final
class Inflow(Tally):
    """Receives one stream of one link."""

    def __init__(
        self, session: LinkSession, number: int, stream: Stream, vhost: str, hops_max: int
    ) -> None:
        self._session = session
        super().__init__(number, stream)
        self.vhost_name = vhost
        self.hops_max = hops_max
        self.is_exchange = stream.kind == "exchange"
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
        """Apply a batch.  Raises BrokerError, TypeError, ValueError; what was applied before is counted in the cursor."""
        cursor = self._opened()
        if not self._is_begun:
            raise ProtocolViolation("a batch before its stream began")
        session = self._session
        vhost = session.broker.vhost(self.vhost_name)
        if self.is_exchange:
            vhost.exchange(self.stream.target)
        if self._touched is None:
            self._touched = []
        try:
            if cursor.is_shared:
                self._take_shared(vhost, cursor, rows, self._touched)
            else:
                self._take_buffered(vhost, cursor, rows)
        finally:
            define = session.broker.unit.define
            if self.is_exchange:
                self.behind = max(self.behind, session.table.origins.take_behind())
                session.table.origins.flush(define)
            session.table.cursors.write(cursor, define)

    def _take_shared(
        self, vhost: Vhost, cursor: Cursor, rows: list[Any], touched: list[int]
    ) -> None:
        applied = cursor.applied
        for row in rows:
            place = row[0]
            if place in applied:
                self.repeat_count += 1
            else:
                self._apply(vhost, row)
                applied.add(place, place + 1)
            touched.append(place)

    def _take_buffered(self, vhost: Vhost, cursor: Cursor, rows: list[Any]) -> None:
        origins = self._session.table.origins
        is_exchange = self.is_exchange
        position = cursor.position
        for row in rows:
            place = row[0]
            if place <= position:
                self.repeat_count += 1
                continue
            origin = origin_of(row[9]) if is_exchange else None
            if origin is None:
                self._apply(vhost, row)
            else:
                verdict = origins.apply(*origin)
                if verdict == "repeat":
                    self.second_copy_count += 1
                else:
                    is_applied = False
                    try:
                        self._apply(vhost, row, is_marked=verdict == "unknown")
                        is_applied = True
                    finally:
                        if not is_applied:
                            origins.withdraw(*origin)
            cursor.position = position = place

    def _apply(self, vhost: Vhost, row: Any, *, is_marked: bool = False) -> None:
        _, key, format, header, body, is_persistent, priority, published_at, expires_at, trace = row
        is_circling = False
        if trace:
            if not is_sound(trace):
                raise ProtocolViolation("a message's trace makes no sense")
            is_circling = len(trace) > ORIGIN_BYTES and self.is_circling(trace)
            if is_circling and self.is_exchange:
                self.circled_count += 1
                return
        if is_marked:
            self.unknown_count += 1
            format, header = _marked(format, header)
        if not self.is_exchange:
            key = ""
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destination(vhost, key)
        if format not in (AMQP, STOMP):
            raise ProtocolViolation(f"a header in the unknown format {format!r}")
        message = Message(
            destination, format, header, body, is_persistent, priority, published_at, expires_at
        )
        message.trace = (trace or NO_ORIGIN) + self._session.peer_id
        taken = HOPPED if is_circling else vhost.publish(message)
        self.applied_count += 1
        self.applied_bytes += len(body)
        if taken <= 0:
            self._not_taken(message, taken)

    def is_circling(self, trace: bytes) -> bool:
        """Whether a message must not go on: too many hops; for an exchange, also that it was here before."""
        if hop_count(trace) >= self.hops_max:
            return True
        return self.is_exchange and has_been_at(trace, self._session.table.id)

    def _destination(self, vhost: Vhost, key: str) -> Destination:
        if len(self._destinations) >= KEYS_MAX:
            self._destinations.clear()
        if self.is_exchange:
            made = vhost.destination(self.stream.target, key)
        else:
            vhost.queue(self.stream.target)
            made = vhost.destination("", self.stream.target)
        self._destinations[key] = made
        return made

    def _not_taken(self, message: Message, taken: int) -> None:
        if taken == 0 and self.is_exchange:
            self.unroutable_count += 1
            return
        self.refused_count += 1
        text = f"refused where link {self._session.name} brought it: {self.name}"
        if taken == HOPPED:
            text = f"it went through {self.hops_max} brokers, the bound (hops)"
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
