"""The sending end of a stream: takes messages from a queue, when they are durable, and settles what the far side has.

A subscription of its queue whose sink it is.  What it is handed in a turn waits until that turn's commit is on stable
storage and has passed the guard; only then is it sent.  What may be unconfirmed is bounded in bytes (the window).

Two kinds of queue.  A *buffer* is consumed by the link alone: positions only rise, the far side's cursor is one position, and on
a cut everything goes back in its place.  A *shared* queue has other consumers: what was sent and not settled stays in
doubt over a cut (and, by a definition written before it is sent, over a crash), is given to nobody else, and is resolved by
the set of positions that the far side has applied.  Tests: tests/sim/test_link_traps.py, tests/property/test_link_network.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

from broker.core.subscription import Subscription
from broker.link.cursor import LANE_BITS
from broker.link.frames import BEGIN, SETTLED, START, pack
from broker.link.ranges import Ranges, flat_of

if TYPE_CHECKING:
    from broker.core.delivery import Delivery
    from broker.core.queue import Queue
    from broker.link.linked import LinkedQueue
    from broker.link.ports import Sender

MESSAGE_BYTES: Final = 64
"""What a message counts for besides header and body."""
FRAME_BYTES: Final = 128 << 10
"""A batch is closed when it holds so much."""
SHARED_PRIORITY: Final = -1
"""Consumer priority of a link that takes what local consumers leave."""


@final
class Outflow:
    """Sends one queue over one link.

    `is_exact` False: the far side is not one of ours; what was sent and not confirmed is sent again after a cut.
    """

    def __init__(
        self,
        session: Sender,
        number: int,
        linked: LinkedQueue,
        name: str,
        *,
        is_exact: bool = True,
    ) -> None:
        self._session = session
        self._is_exact = is_exact
        self.number = number
        self.name = name
        self.linked = linked
        self.queue: Queue = linked.queue
        self.is_shared = linked.is_shared
        self.is_writable = True
        self.is_begun = False
        self.is_wanted = True
        self.is_on_demand = False
        self.sent_count = 0
        self.sent_bytes = 0
        self.settled_count = 0
        self.refusal = ""
        self._subscription: Subscription | None = None
        self._position = -1
        self._fresh: list[Delivery] = []
        self._waiting: deque[tuple[int, list[Delivery]]] = deque()
        self._ready: deque[Delivery] = deque()
        # What was sent and not settled: for buffers (last position, bytes, deliveries), for shared queues by position.
        self._batches: deque[tuple[int, int, list[Delivery]]] = deque()
        self._out: dict[int, Delivery] = {}
        self._held_bytes = 0
        self._foreign_count = 0
        # Shared queues: settled by us but not yet on stable storage; then told to the far side.
        self._settling: list[int] = []
        self._settled: deque[tuple[int, list[int]]] = deque()

    # Beginning

    def start(self) -> None:
        """Tell the far side what is going to be sent; it states what it has."""
        self._session.send(
            START, [self.number, self.linked.lane, self.linked.claim, self.is_shared]
        )

    def resume(self, statement: list[Any]) -> None:
        """Take the far side's statement: settle what it has, and go on behind it.  Raises ValueError, TypeError."""
        claim, position, flat = statement
        applied = Ranges(flat)
        is_known = bool(claim) and self.linked.is_on_history(claim, position, applied)
        if claim and not is_known:
            self._session.say(
                f"{self.name}: the far side's cursor is not on our history (a store put back from a copy?): "
                "a new stream begins, and what it had may come twice"
            )
        self._session.send(BEGIN, [self.number, is_known])
        self._position = position if is_known else -1
        self.is_begun = True
        if self.is_shared:
            self._resolve(applied if is_known else Ranges())
        self._subscribe()

    def begin_plain(self) -> None:
        """Begin towards a far side that keeps no cursor: all that is in the queue goes."""
        broker = self._session.broker
        broker.release(list(self.linked.take_doubt().values()))
        self.is_begun = True
        self._subscribe()

    def _resolve(self, applied: Ranges) -> None:
        """Settle what was in doubt and has arrived; put the rest back."""
        broker = self._session.broker
        doubt = self.linked.take_doubt()
        arrived = [one for place, one in doubt.items() if place in applied]
        broker.acknowledge(arrived)
        broker.release([one for place, one in doubt.items() if place not in applied])
        self._settling += applied.flat()
        self.linked.note_nothing_taken()
        self._session.wake_up()

    def _subscribe(self) -> None:
        if self._subscription is not None or not self.is_wanted or not self.is_begun:
            return
        self._subscription = Subscription(
            self,
            f"link {self._session.name}: {self.name}",
            is_acknowledged=True,
            priority=SHARED_PRIORITY if self.is_shared else 0,
        )
        self.queue.vhost.subscribe(self.queue.name, self._subscription)

    def set_wanted(self, is_wanted: bool) -> None:
        """A link on demand: the far side has consumers with room, or has none."""
        self.is_wanted = is_wanted
        if is_wanted:
            self._subscribe()
        elif self._subscription is not None:
            self.queue.vhost.unsubscribe(self._subscription)
            self._subscription = None

    # The sink

    def deliver(self, subscription: Subscription, run: list[Delivery]) -> None:
        """Keep a run until it is durable."""
        self._fresh += run
        self._held_bytes += sum(
            [len(one.message.body) + len(one.message.header) for one in run]
        ) + MESSAGE_BYTES * len(run)
        if self._held_bytes >= self._session.window_bytes:
            self.is_writable = False
        if self.is_shared and self._is_exact:
            # In the unit of the turn that takes them, so that it is durable before they are sent.
            self.linked.note_taken(flat_of([place_of(one) for one in run]))
        self._session.wake_up()

    def cancelled(self, subscription: Subscription, reason: str) -> None:
        """The queue is gone: nothing is left to send; the far side hears of it at the next connect."""
        self._subscription = None
        self._session.stream_ended(self.number, f"{self.name}: {reason}")

    # The turn

    def end_turn(self, commit: int) -> None:
        """What was handed over may be sent once this commit is durable; so with what was settled."""
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._waiting.append((commit, fresh))
        if self._settling:
            self._settled.append((commit, self._settling))
            self._settling = []

    def on_durable(self, commit: int) -> None:
        """Commits up to this one are on stable storage."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= commit:
            self._make_ready(waiting.popleft()[1])
        told: list[int] = []
        while self._settled and self._settled[0][0] <= commit:
            told += self._settled.popleft()[1]
        if told:
            self._session.send(SETTLED, [self.number, told])

    def _make_ready(self, run: list[Delivery]) -> None:
        if not self.is_shared and run and run[0].position <= self._position:
            repeated = [one for one in run if one.position <= self._position]
            run = run[len(repeated) :]
            self._let_go(repeated)
        self._ready += run

    @property
    def has_ready(self) -> bool:
        """Whether a batch could be made now."""
        return bool(self._ready)

    @property
    def is_sounding(self) -> bool:
        """Whether the first batch of this connection waits for its answer.

        Only then comes more: on a path that breaks before answers come, all that is in flight would be doubled each time.
        """
        return self._foreign_count > 0 and not self.settled_count

    def take(self, count_max: int, bytes_max: int) -> list[Delivery]:
        """Hand over what may be sent to a far side that is not one of ours; `settle` or `end` gets it back."""
        ready = self._ready
        taken: list[Delivery] = []
        size_bytes = 0
        while ready and size_bytes < bytes_max and len(taken) < count_max:
            one = ready.popleft()
            taken.append(one)
            size_bytes += len(one.message.body) + len(one.message.header) + MESSAGE_BYTES
        self.sent_count += len(taken)
        self.sent_bytes += size_bytes
        self._foreign_count += len(taken)
        return taken

    def settle(self, done: list[Delivery]) -> None:
        """The far side has taken what was handed over."""
        self.settled_count += len(done)
        self._foreign_count -= len(done)
        self._let_go(done)
        self._session.wake_up()

    def next_batch(self) -> bytes | None:
        """The payload of one batch; None when nothing is ready."""
        ready = self._ready
        if not ready:
            return None
        rows: list[tuple[Any, ...]] = []
        taken: list[Delivery] = []
        size_bytes = 0
        is_shared = self.is_shared
        while ready and size_bytes < FRAME_BYTES:
            one = ready.popleft()
            message = one.message
            place = place_of(one) if is_shared else one.position
            rows.append(
                (
                    place,
                    message.routing_key,
                    message.format,
                    message.header,
                    message.body,
                    message.is_persistent,
                    message.priority,
                    message.published_at,
                    message.expires_at,
                    message.trace,
                )
            )
            taken.append(one)
            if is_shared:
                self._out[place] = one
            size_bytes += len(message.body) + len(message.header) + MESSAGE_BYTES
        self.sent_count += len(taken)
        self.sent_bytes += size_bytes
        if not is_shared:
            self._batches.append((taken[-1].position, size_bytes, taken))
        return pack((self.number, rows))

    # Settling

    def acknowledged(self, what: Any) -> None:
        """The far side has these on stable storage.  Raises TypeError, ValueError."""
        done: list[Delivery] = []
        if self.is_shared:
            for place in Ranges(what):
                one = self._out.pop(place, None)
                if one is not None:
                    done.append(one)
            self._settling += what
            self.linked.note_settled(what)
        else:
            batches = self._batches
            while batches and batches[0][0] <= what:
                done += batches.popleft()[2]
            self._position = max(self._position, what)
        self.settled_count += len(done)
        self._let_go(done)
        self._session.wake_up()

    def _let_go(self, done: list[Delivery]) -> None:
        broker = self._session.broker
        self._held_bytes -= sum(
            [len(one.message.body) + len(one.message.header) for one in done]
        ) + MESSAGE_BYTES * len(done)
        broker.acknowledge(done)
        self.look_at_window()

    def look_at_window(self) -> None:
        """Take more when there is room again."""
        session = self._session
        has_room = self._held_bytes * 4 < session.window_bytes * 3 and not session.far_reason
        if has_room and not self.is_writable:
            self.is_writable = True
            session.broker.resume(self)
        elif session.far_reason:
            self.is_writable = False

    @property
    def in_flight_count(self) -> int:
        """Messages sent and not settled."""
        counted = len(self._out) if self.is_shared else sum(len(one[2]) for one in self._batches)
        return counted + self._foreign_count

    @property
    def held_bytes(self) -> int:
        """Bytes of messages taken from the queue and not settled."""
        return self._held_bytes

    def oldest_published_at(self) -> int:
        """When the oldest message that the far side does not have was published (ms since 1970); 0: there is none."""
        for _, _, run in self._batches:
            return run[0].message.published_at
        for one in (*self._out.values(), *self._ready, *self._fresh):
            return one.message.published_at
        return self.linked.oldest_published_at()

    # Ending

    def end(self, taken: list[Delivery] | None = None) -> None:
        """The connection is gone: put back what was not sent; what was sent waits for the far side's statement.

        `taken`: what was handed over by `take` and not settled.
        """
        broker = self._session.broker
        subscription = self._subscription
        self._subscription = None
        if subscription is not None:
            self.queue.vhost.unsubscribe(subscription)
        unsent = [*self._fresh, *self._ready]
        for _, run in self._waiting:
            unsent += run
        self._fresh, self._ready = [], deque()
        self._waiting.clear()
        if self.is_shared:
            sent = list(self._out.values())
            self._out = {}
        else:
            sent = [one for _, _, run in self._batches for one in run]
            self._batches.clear()
        sent += taken or []
        self._foreign_count = 0
        # At most once: nobody knows whether it has arrived.
        transient = [one for one in sent if not one.is_stored]
        stored = [one for one in sent if one.is_stored]
        broker.acknowledge(transient)
        if self.is_shared and self._is_exact and not self.queue.is_deleted:
            self.linked.keep_doubt({place_of(one): one for one in stored})
            broker.release(unsent)
        else:
            broker.release(unsent + stored)
        self._held_bytes = 0


def place_of(delivery: Delivery) -> int:
    """The position of a delivery of a shared queue, with its lane's index."""
    if len(delivery.queue.lanes) == 1:
        return delivery.position
    return delivery.queue.lanes.index(delivery.lane) << LANE_BITS | delivery.position
