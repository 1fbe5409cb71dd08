"""A queue that a link sends: what the store keeps of it for the link, and who may enter it.

For a *buffer* (of an exchange stream): messages that were at the far side already do not enter, and those that have no origin get
one as they enter.  For both kinds: the claims under which positions were given; for a shared queue also the positions that
are in the link's hands, so that after a crash nobody else gets what the far side may have.
Definitions `["linked-queue", vhost, queue, link]`, and so with `in-flight` and `demand`.
Tests: tests/sim/test_link_traps.py, tests/property/test_link_network.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from broker.link.cursor import LANE_BITS, History
from broker.link.demand import Entries, restored, stored
from broker.link.ranges import Ranges
from broker.link.trace import NO_ORIGIN, has_been_at, hop_count, origin_of

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.message import Message
    from broker.core.queue import Queue
    from broker.link.table import LinkTable


@final
class LinkedQueue:
    """A queue with a link at its end."""

    protocol = "gridmsg"
    """What is spoken with the far side."""
    is_given_up = False
    """The link was taken away while messages waited: nothing is sent, nothing new enters, until it is configured again."""

    def __init__(
        self, table: LinkTable, queue: Queue, link: str, *, is_shared: bool, exchange: str = ""
    ) -> None:
        self._table = table
        self.queue = queue
        self.link = link
        self.is_shared = is_shared
        self.exchange = exchange
        self.peer_id = b""
        self.hops_max = 16
        self.history = History()
        self.wanted: Entries = {}
        self.passed_count = 0
        self._in_flight = Ranges()
        self._doubt: dict[int, Delivery] = {}
        if not is_shared:
            queue.admit = self.admit

    @property
    def lane(self) -> int:
        """The number that names the queue to the far side."""
        return self.queue.lanes[0].number

    @property
    def claim(self) -> str:
        """This opening of the store."""
        return self._table.claim

    def _key(self, kind: str) -> str:
        return json.dumps([kind, self.queue.vhost.name, self.queue.name, self.link])

    # Kept in the store

    def begin_claim(self) -> None:
        """Note where this opening of the store begins in the queue; before anything is sent of it."""
        if self.history.claims and self.history.claims[-1][0] == self._table.claim:
            return
        if self.history.claims:
            nexts = [lane.next for lane in self.queue.lanes]
        else:
            nexts = [0] * len(self.queue.lanes)
        self.history.begin(self._table.claim, nexts)
        self.write()

    def write(self) -> None:
        """Put what is known of it into the turn's unit."""
        if not self.queue.is_durable:
            return
        made = {
            "is_shared": self.is_shared,
            "exchange": self.exchange,
            "peer": self.peer_id,
            "hops": self.hops_max,
            "protocol": self.protocol,
            "is_given_up": self.is_given_up,
            "claims": [list(one) for one in self.history.claims],
        }
        self._table.broker.unit.define(self._key("linked-queue"), made)

    def restore(self, made: dict[str, Any], demand: dict[str, Any], flying: dict[str, Any]) -> None:
        """Take over what the store holds."""
        self.peer_id = made["peer"]
        self.hops_max = made["hops"]
        self.protocol = made["protocol"]
        self.is_given_up = made["is_given_up"]
        self.history = History(made["claims"])
        self.wanted = restored(demand.get("entries", []))
        self._in_flight = Ranges(flying.get("places", ()))
        for place, delivery in self._withheld().items():
            self._doubt[place] = delivery

    def _withheld(self) -> dict[int, Delivery]:
        """Take what may be at the far side out of the queue, before anybody else can have it."""
        found: dict[int, Delivery] = {}
        for index, lane in enumerate(self.queue.lanes):
            base = index << LANE_BITS
            wanted = Ranges()
            for first, end in self._in_flight.pairs():
                if first >> LANE_BITS == index:
                    wanted.add(first - base, end - base)
            if wanted:
                for one in self.queue.withhold(lane, wanted, wanted.pairs()[-1][1]):
                    found[base | one.position] = one
        return found

    @property
    def given(self) -> tuple[str, bool, str, str]:
        """What it sends, as the stream that it serves says it (`Stream.given`)."""
        kind, source = ("queue", self.queue.name) if self.is_shared else ("exchange", self.exchange)
        return kind, True, self.queue.vhost.name, source

    def forget(self) -> None:
        """No link sends it any more."""
        self.queue.admit = None
        doubt = self.take_doubt()
        self._table.broker.release(list(doubt.values()))
        for kind in ("linked-queue", "in-flight", "demand"):
            self._table.broker.unit.define(self._key(kind), None)

    def is_on_history(self, claim: str, position: int, applied: Ranges) -> bool:
        """Whether what a far side states was sent from this queue, in this past."""
        if not self.is_shared:
            return self.history.has(claim, {0: position})
        highest: dict[int, int] = {}
        for _, end in applied.pairs():
            highest[(end - 1) >> LANE_BITS] = (end - 1) & ((1 << LANE_BITS) - 1)
        return self.history.has(claim, highest)

    # In flight (shared queues)

    def note_taken(self, flat: list[int]) -> None:
        """These are going to be sent."""
        for first, end in Ranges(flat).pairs():
            self._in_flight.add(first, end)
        self._write_in_flight()

    def note_settled(self, flat: list[int]) -> None:
        """These are done."""
        for first, end in Ranges(flat).pairs():
            self._in_flight.remove(first, end)
        self._write_in_flight()

    def note_nothing_taken(self) -> None:
        """Nothing is in the link's hands."""
        self._in_flight = Ranges()
        self._write_in_flight()

    def _write_in_flight(self) -> None:
        if self.queue.is_durable and not self.queue.is_deleted:
            flat = self._in_flight.flat()
            made = {"places": flat} if flat else None
            self._table.broker.unit.define(self._key("in-flight"), made)

    def keep_doubt(self, sent: dict[int, Delivery]) -> None:
        """A cut: nobody knows whether these have arrived."""
        self._doubt.update(sent)

    def take_doubt(self) -> dict[int, Delivery]:
        """Hand over what is in doubt."""
        doubt, self._doubt = self._doubt, {}
        return doubt

    @property
    def doubt_count(self) -> int:
        """Messages of which nobody knows whether they have arrived."""
        return len(self._doubt)

    def oldest_published_at(self) -> int:
        """When the first message that waits was published (ms since 1970); 0: none waits."""
        found = [one.message.published_at for one in self._doubt.values()]
        for lane in self.queue.lanes:
            found += [one.message.published_at for one in list(lane.ready)[:1]]
        if not found and self.queue.depth:
            found = [row[1].published_at for row in self.queue.peek(1)]
        return min(found, default=0)

    # Demand and entrance (buffers)

    def set_peer(self, peer_id: bytes, hops_max: int, protocol: str = "gridmsg") -> None:
        """The broker at the other end, which is sent to from now on."""
        known = (self.peer_id, self.hops_max, self.protocol, self.is_given_up)
        if (peer_id, hops_max, protocol, False) != known:
            self.peer_id, self.hops_max, self.protocol = peer_id, hops_max, protocol
            self.is_given_up = False
            self.write()

    def give_up(self) -> None:
        """Let nothing more enter, and keep what is there."""
        vhost = self.queue.vhost
        self.wanted = {}
        for one in vhost.bindings_to(self.queue):
            vhost.unbind_queue(self.queue.name, one.source.name, one.routing_key, one.arguments)
        self._table.broker.unit.define(self._key("demand"), None)
        self.is_given_up = True
        self.write()

    def set_wanted(self, wanted: Entries) -> None:
        """Bind the buffer with what the far side wants, and nothing else."""
        vhost = self.queue.vhost
        exchange = vhost.exchange(self.exchange)
        before = self.wanted
        self.wanted = wanted
        for known, one in wanted.items():
            if known not in before:
                vhost.bind_queue(self.queue.name, exchange.name, known[0], one.arguments)
        for known, one in before.items():
            if known not in wanted:
                vhost.unbind_queue(self.queue.name, exchange.name, known[0], one.arguments)
        self._table.demand_version += 1
        self._table.broker.unit.define(self._key("demand"), {"entries": stored(wanted)})

    def admit(self, message: Message) -> bool:
        """Let a message in, with an origin; False: it has been where this queue goes."""
        trace = message.trace
        if not trace:
            message.trace = self._table.next_origin()
            return True
        if (self.peer_id and has_been_at(trace, self.peer_id)) or hop_count(trace) >= self.hops_max:
            self.passed_count += 1
            return False
        if origin_of(trace) is None:
            message.trace = self._table.next_origin() + trace[len(NO_ORIGIN) :]
        return True
