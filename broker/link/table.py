"""Everything that the links of a broker share: who it is, its linked queues, cursors, origins, and the sessions.

Restored from the store before anybody connects, so that no message enters a buffer without its origin.
Definitions: those of cursor.py, trace.py and linked.py, and `["link", name]` for links
that were added by command.  Tests: tests/sim/test_link_traps.py, tests/unit/broker/link/test_session.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, cast, final

from broker.link import demand
from broker.link.cursor import CursorTable
from broker.link.linked import LinkedQueue
from broker.link.trace import ID_BYTES, OriginTable, origin

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.core.vhost import Vhost
    from broker.link.demand import Entries
    from broker.link.end import LinkEnd
    from broker.link.foreign import ForeignSession
    from broker.link.session import LinkSession
    from broker.link.settings import Stream

log = logging.getLogger(__name__)

STRANDS_MAX: Final = 16
"""Further connections of one link."""


@final
class LinkTable:
    """The links of one broker."""

    def __init__(self, broker: Broker, store_id: str, claim: str, name: str) -> None:
        self.broker = broker
        self.id = bytes.fromhex(store_id)
        self.claim = claim
        self.name = name
        self.cursors = CursorTable()
        self.origins = OriginTable()
        # By vhost, queue and link: several links may share a queue.
        self.linked: dict[tuple[str, str, str], LinkedQueue] = {}
        self.sessions: dict[tuple[bytes, str, bool], LinkSession | ForeignSession] = {}
        self.demand_version = 0
        # Origins given here are told from those of every other opening of the store, also of a copy of it.
        self._opening = hashlib.sha256(self.id + claim.encode()).digest()[:ID_BYTES]
        self._sequence = 0

    # Start

    def restore(self, definitions: Mapping[str, dict[str, Any]]) -> None:
        """Take over what the store holds; after the core did, before any session."""
        self.cursors.restore(definitions)
        self.origins.restore(definitions)
        for key, made in definitions.items():
            if not key.startswith('["linked-queue"'):
                continue
            _, vhost_name, name, link = json.loads(key)
            vhost = self.broker.vhosts.get(vhost_name)
            queue = vhost.queues.get(name) if vhost is not None else None
            rest = [json.dumps([kind, vhost_name, name, link]) for kind in ("demand", "in-flight")]
            if queue is None:
                for known in (key, *rest):
                    self.broker.unit.define(known, None)
                continue
            linked = LinkedQueue(
                self, queue, link, is_shared=made["is_shared"], exchange=made["exchange"]
            )
            linked.restore(made, *(definitions.get(known, {}) for known in rest))
            linked.begin_claim()
            self.linked[vhost_name, name, link] = linked

    def next_origin(self) -> bytes:
        """An origin for a message that enters its first link here; durable with the message."""
        self._sequence += 1
        return origin(self._opening, self._sequence)

    # Linked queues

    def link_queue(
        self, vhost: Vhost, name: str, link: str, *, is_shared: bool, exchange: str = ""
    ) -> LinkedQueue:
        """What is kept of a queue for a link; raises NotFound."""
        queue = vhost.queue(name)
        known = self.linked.get((vhost.name, name, link))
        if known is not None and known.queue is queue and known.is_shared == is_shared:
            return known
        linked = LinkedQueue(self, queue, link, is_shared=is_shared, exchange=exchange)
        linked.begin_claim()
        self.linked[vhost.name, name, link] = linked
        return linked

    def give_up(self, linked: LinkedQueue) -> int:
        """A link does not send a queue any more; returns the messages that stay in its buffer.

        A shared queue goes on without the link, an empty buffer goes with it.  A buffer that holds messages stays, bound to
        nothing, until it is emptied or the link is there again: nothing is dropped for a word too quickly said.
        """
        queue = linked.queue
        self.broker.release(list(linked.take_doubt().values()))
        self.demand_version += 1
        if linked.is_shared or not (queue.depth or queue.unsettled_count):
            self._unlink(linked)
            return 0
        linked.give_up()
        log.warning(
            "link %s was taken away: what it had not sent, %d messages, stays in queue %s of vhost %s: move it on "
            "(`gridmsg queue move`), or delete the queue",
            linked.link,
            queue.depth,
            queue.name,
            queue.vhost.name,
        )
        return queue.depth

    def _unlink(self, linked: LinkedQueue) -> None:
        """Forget a queue as a link's; a buffer goes, too."""
        del self.linked[linked.queue.vhost.name, linked.queue.name, linked.link]
        linked.forget()
        if not linked.is_shared and not linked.queue.is_deleted:
            linked.queue.vhost.drop_queue(linked.queue)

    def _sweep(self) -> None:
        """Forget queues that were deleted, and the buffers of links taken away that somebody emptied."""
        for linked in list(self.linked.values()):
            queue = linked.queue
            is_empty = linked.is_given_up and not (queue.depth or queue.unsettled_count)
            if queue.is_deleted or is_empty:
                self._unlink(linked)

    def drop_stream(self, link: str, stream: Stream) -> dict[str, int]:
        """A stream that was sent from here is not configured any more; returns the messages that stay, by queue."""
        kept: dict[str, int] = {}
        for key, linked in list(self.linked.items()):
            if key[2] == link and linked.given == stream.given:
                count = self.give_up(linked)
                if count:
                    kept[linked.queue.name] = count
        return kept

    def disown(self, streams: Collection[tuple[str, Stream]]) -> None:
        """At start: give up what was sent by links, or streams of links, that are not configured any more."""
        known = {(link, one.given) for link, one in streams}
        for (_, _, link), linked in list(self.linked.items()):
            if "@" not in link and (link, linked.given) not in known:
                self.give_up(linked)

    # Demand

    def _buffers(self, vhost: Vhost, exchange: str) -> list[LinkedQueue]:
        return [
            one
            for one in self.linked.values()
            if not one.is_shared and one.exchange == exchange and one.queue.vhost is vhost
        ]

    def local_entries(self, vhost: Vhost, exchange: str) -> Entries:
        """What this broker's own queues are bound with."""
        buffers = [one.queue.name for one in self._buffers(vhost, exchange)]
        return demand.local_entries(vhost.exchanges[exchange], buffers)

    def told_of(self, vhost: str, exchange: str) -> dict[bytes, Entries]:
        """What each neighbor wants of an exchange."""
        found: dict[bytes, Entries] = {}
        for one in self._buffers(self.broker.vhosts[vhost], exchange):
            if one.peer_id:
                found.setdefault(one.peer_id, {}).update(one.wanted)
        return found

    # Sessions

    def enter(self, session: LinkSession | ForeignSession) -> None:
        """A session has logged in; one that it replaces ends first, so that no two send the same queue."""
        key = (session.peer_id, session.name, session.is_dialer)
        before = self.sessions.get(key)
        if before is not None and before is not session:
            before.replaced()
        self.sessions[key] = session

    def leave(self, session: LinkEnd[Any]) -> None:
        """A session has ended."""
        key = (session.peer_id, session.name, session.is_dialer)
        if self.sessions.get(key) is session:
            del self.sessions[key]

    def find_session(self, token: bytes) -> LinkSession | None:
        """The accepted session that another connection wants to join; None also if it has as many as it may."""
        for session in self.sessions.values():
            if session.token == token and not session.is_dialer and not session.is_closing:
                is_full = len(session.strands) >= STRANDS_MAX
                return None if is_full else cast("LinkSession", session)
        return None

    def look(self) -> None:
        """See to what follows the topology; called some times a second, and whenever it is known to have changed."""
        self._sweep()
        for session in list(self.sessions.values()):
            session.look()
