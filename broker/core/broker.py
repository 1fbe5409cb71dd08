"""The broker's core as sessions, links and management see it: vhosts, settling, the turn's unit.

All in one thread.  Whatever is done between two turns' ends goes into one `UnitOfWork`, `unit`, which `net.turn` hands to
the store; queues that may have something to deliver wait in `touched` until `dispatch`.
Tests: tests/unit/broker/core/test_broker.py, model test tests/property/test_queue_model.py.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from broker.core.deadlines import Deadlines
from broker.core.delay import Delays
from broker.core.destination import AddressTable
from broker.core.lane import Lane
from broker.core.memory import MemoryBudget
from broker.core.queue import Queue
from broker.core.vhost import Vhost
from broker.errors import NotFound
from broker.metrics import Metrics
from store.interface import StoreError, UnitOfWork

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.clock import Clock
    from broker.core.delivery import Delivery
    from broker.core.message import Message
    from broker.core.subscription import Sink, Subscription
    from store.interface import Recovered, Store

log = logging.getLogger(__name__)

LOOKS_MAX: Final = 500
"""Queues looked at in one tick."""
LETTERS_MAX: Final = 100_000
"""Dead letters of one turn: more can only come of dead-letter exchanges that feed each other."""


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """Bounds of the core.

    `window_bytes` and `window_count`: bodies and messages that a queue keeps in memory; more lies on disk only.
    `memory_bytes`: what all messages together may take in memory.
    `names_max`: queues, exchanges, or bindings of one exchange, in a vhost.
    """

    memory_bytes: int = 256 << 20
    window_bytes: int = 8 << 20
    window_count: int = 20_000
    names_max: int = 100_000


@final
class Broker:
    """Exchanges, queues and deliveries, without protocols, sockets or files."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random_name: Callable[[], str],
        *,
        limits: CoreLimits | None = None,
        addresses: AddressTable | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.random_name = random_name
        self.limits = limits or CoreLimits()
        self.addresses = addresses or AddressTable()
        self.metrics = metrics or Metrics()
        self.default_vhost = "/"
        self.now_ms = clock.wall_ms()
        self.unit = UnitOfWork()
        # Something was handed out that, after a crash now, would not be known to have been: the turn sees to it.
        self.is_early = False
        self.touched: list[Queue] = []
        self._again: list[Queue] = []
        # What cannot be read, and why, in words.
        self.damage: dict[str, str] = {}
        self._next_lane = 1
        self._deadlines = Deadlines()
        self.letters: deque[tuple[Vhost, Message]] = deque()
        self._owned: dict[object, list[Queue]] = {}
        self._sinks: dict[Sink, dict[Subscription, None]] = {}
        self.delays = Delays(self)
        self.memory = MemoryBudget(
            self.limits.memory_bytes, self.limits.window_bytes, self.limits.window_count
        )
        self.vhosts: dict[str, Vhost] = {"/": Vhost(self, "/", self.addresses)}

    @property
    def blocked_reason(self) -> str | None:
        """Why publishers must wait, in RabbitMQ's words; None: they need not."""
        if self.store.is_blocked:
            return "low on memory & disk" if self.memory.is_alarmed else "low on disk"
        return "low on memory" if self.memory.is_alarmed else None

    @property
    def has_changes(self) -> bool:
        """Whether this turn's unit holds anything yet."""
        return bool(self.unit) or bool(self.letters)

    def vhost(self, name: str) -> Vhost:
        """The vhost of that name; raises NotFound."""
        found = self.vhosts.get(name)
        if found is None:
            raise NotFound(f"vhost {name} not found")
        return found

    def new_lane(self) -> int:
        """A lane number that was never used before."""
        number = self._next_lane
        self._next_lane = number + 1
        return number

    # Start

    def restore(self, recovered: Recovered) -> None:
        """Rebuild topology and queues from what the store recovered; call once, before any session."""
        self._next_lane = recovered.next_lane
        parsed = [(json.loads(key), value) for key, value in recovered.definitions.items()]
        unowned = set(recovered.lanes)
        for key, made in parsed:
            if key[0] == "exchange":
                self.add_vhost(key[1]).restore_exchange(key[2], made)
            elif key[0] == "queue":
                lanes = [self._restore_lane(number, recovered) for number in made["lanes"]]
                unowned.difference_update(made["lanes"])
                # The store knows only lanes that something was said about; a queue may never have been used.
                self._next_lane = max(self._next_lane, *(number + 1 for number in made["lanes"]))
                self.add_vhost(key[1]).restore_queue(key[2], made, lanes)
        for key, made in parsed:
            if key[0] == "binding":
                _, vhost, source, kind, target, routing_key, _ = key
                self.add_vhost(vhost).restore_binding(
                    source, kind, target, routing_key, made["arguments"]
                )
            elif key[0] == "delay":
                lane = made["lane"]
                unowned.discard(lane)
                self.add_vhost(key[1])
                self.delays.restore(key[1], key[2], lane, recovered.lanes.get(lane))
        self.delays.restore_requeues(parsed)
        for number in sorted(unowned):
            # Spilled backlog of queues that do not outlive the broker.
            self.unit.drop_lane(number)

    def add_vhost(self, name: str) -> Vhost:
        """The vhost of that name, made if it is not there."""
        if name not in self.vhosts:
            self.vhosts[name] = Vhost(self, name, self.addresses)
        return self.vhosts[name]

    def _restore_lane(self, number: int, recovered: Recovered) -> Lane:
        lane = Lane(number)
        state = recovered.lanes.get(number)
        if state is not None:
            lane.next = max(state.next, state.horizon)
            lane.horizon = state.horizon
            lane.redelivered_before = state.horizon
            lane.paged_count = state.count
            lane.paged_bytes = state.bytes
            lane.is_exact = not state.count
            lane.paged_from = state.first
        return lane

    # Settling

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Settle for good.  What was settled before, or whose queue is gone, is passed over."""
        acknowledged = self.unit.acknowledged
        last: Subscription | None = None
        count = 0
        total = 0
        for delivery in deliveries:
            lane = delivery.lane
            if lane.unsettled.pop(delivery.position, None) is None:
                self._give_back_gone(delivery)
                continue
            if delivery.is_stored:
                acknowledged.append((lane.number, delivery.position, delivery.message))
            total += 1
            subscription = delivery.subscription
            if subscription is not last:
                if last is not None:
                    self._give_back(last, count)
                last = subscription
                count = 0
            count += 1
        if last is not None:
            self._give_back(last, count)
        self.metrics.acknowledged_count += total

    def release(self, deliveries: list[Delivery]) -> None:
        """Put back what a consumer that went away held: redelivered, but not counted to the delivery limit.

        Twenty crashes of a consumer must not make dead letters of thousands of good messages that it only had
        in its buffer; what a consumer gives back itself (`requeue`) counts.
        """
        self.requeue(deliveries, is_counted=False)

    def requeue(self, deliveries: list[Delivery], *, is_counted: bool = True) -> None:
        """Put messages back where they were, as redelivered."""
        by_queue: dict[Queue, list[Delivery]] = {}
        for delivery in deliveries:
            if delivery.lane.unsettled.pop(delivery.position, None) is None:
                self._give_back_gone(delivery)
                continue
            if delivery.subscription is not None:
                self._give_back(delivery.subscription, 1)
            by_queue.setdefault(delivery.queue, []).append(delivery)
        for queue, returned in by_queue.items():
            queue.put_back(returned, is_counted=is_counted)
            self.metrics.requeued_count += len(returned)

    def hand_back(self, delivery: Delivery) -> bool:
        """Take a delivery from its consumer and keep it out of its queue; False: it is gone."""
        if delivery.position not in delivery.lane.unsettled:
            self._give_back_gone(delivery)
            return False
        if delivery.subscription is not None:
            self._give_back(delivery.subscription, 1)
            delivery.subscription = None
        return True

    def reject(self, deliveries: list[Delivery], cause: str = "") -> None:
        """Refuse messages: dead-letter them; without a dead-letter exchange they are kept only if a cause was given."""
        for delivery in deliveries:
            if delivery.lane.unsettled.pop(delivery.position, None) is None:
                self._give_back_gone(delivery)
                continue
            if delivery.subscription is not None:
                self._give_back(delivery.subscription, 1)
            queue = delivery.queue
            queue.vhost.dead_letter(
                queue, delivery, "rejected", cause or "rejected by a consumer", keep=bool(cause)
            )
            self.metrics.refused_count += 1

    def _give_back(self, subscription: Subscription, count: int) -> None:
        subscription.credit += count
        subscription.unsettled -= count
        if subscription.shared is not None:
            subscription.shared.left += count
            self.resume(subscription.sink)
        queue = subscription.queue
        if queue is not None and not queue.is_touched:
            queue.is_touched = True
            self.touched.append(queue)

    def _give_back_gone(self, delivery: Delivery) -> None:
        """A queue deleted meanwhile took its messages along, but not the credit they hold."""
        subscription = delivery.subscription
        if subscription is not None and delivery.queue.is_deleted:
            delivery.subscription = None
            self._give_back(subscription, 1)

    # Sinks

    def attach(self, subscription: Subscription) -> None:
        """Remember whose subscription it is, so that `resume` finds it."""
        self._sinks.setdefault(subscription.sink, {})[subscription] = None

    def detach(self, subscription: Subscription) -> None:
        """Undo `attach`."""
        known = self._sinks.get(subscription.sink)
        if known is not None:
            known.pop(subscription, None)
            if not known:
                del self._sinks[subscription.sink]

    def resume(self, sink: Sink) -> None:
        """A sink is writable again or its credit grew: dispatch its queues at the end of this turn."""
        for subscription in self._sinks.get(sink, ()):
            queue = subscription.queue
            if queue is not None:
                queue.touch()

    # Owners

    def own(self, queue: Queue) -> None:
        """Note an exclusive queue of an owner."""
        self._owned.setdefault(queue.owner, []).append(queue)

    def forget_owner(self, owner: object) -> None:
        """A connection is gone: delete its exclusive queues."""
        for queue in self._owned.pop(owner, ()):
            queue.vhost.drop_queue(queue)

    # Time

    def watch(self, queue: Queue, at_ms: int) -> None:
        """Have `tick` look at a queue at that time (ms since 1970), or earlier if it was told so before."""
        self._deadlines.add(queue, at_ms)

    @property
    def needs_ticks(self) -> bool:
        """Whether `tick` has anything to do."""
        return self._deadlines.is_due(self.clock.wall_ms()) or self.delays.is_near(
            self.clock.wall_ms()
        )

    def tick(self) -> None:
        """Expire messages and queues whose time has come."""
        self.now_ms = self.clock.wall_ms()
        self.delays.tick()
        for queue in self._deadlines.take(self.now_ms, LOOKS_MAX):
            try:
                queue.look()
            except (StoreError, OSError) as error:
                self.note_damage(f"queue {queue.name}", error)

    def note_damage(self, what: str, error: Exception) -> None:
        """Something in the store cannot be read: say so once, and leave it as it is."""
        text = str(error)
        if self.damage.get(what) != text:
            self.damage[what] = text
            log.error("%s stands still, its messages cannot be read: %s", what, text)

    # The turn

    def touch_again(self, queue: Queue) -> None:
        """Have a queue dispatched in the next turn: what it waits for is being committed in this one."""
        self._again.append(queue)

    def dispatch(self) -> None:
        """Deliver from every touched queue; new touches and dead letters that come of it are served as well."""
        touched = self.touched
        while touched or self.letters:
            if self.letters:
                self.post_letters()
            touched = self.touched
            self.touched = []
            for queue in touched:
                queue.is_touched = False
                if not queue.is_deleted:
                    self._dispatch(queue)
            touched = self.touched

    def serve(self, queue: Queue) -> None:
        """Somebody asks what is in a queue: that renews its lease, and who waits there is served first.

        A consumer that waits has a message as soon as it comes (RabbitMQ): `basic.get`, counts, purge and deletion
        later in the same turn find it gone.
        """
        queue.unused_since_ms = self.now_ms
        if queue.is_touched and queue.subscriptions:
            self._dispatch(queue)

    def _dispatch(self, queue: Queue) -> None:
        try:
            queue.dispatch()
        except (StoreError, OSError) as error:
            # Only this queue stands still: the others' deliveries and promises of this turn go on.
            self.note_damage(f"queue {queue.name}", error)

    def post_letters(self) -> None:
        """Publish the dead letters of this turn: here, where no queue is being looked at, and in the same unit."""
        letters = self.letters
        for _ in range(LETTERS_MAX):
            if not letters:
                return
            vhost, letter = letters.popleft()
            vhost.post(letter)
        log.error("%d dead letters are dropped: each made more of them, without end", len(letters))
        letters.clear()

    def take_unit(self) -> UnitOfWork:
        """Hand over the turn's unit and begin the next."""
        unit = self.unit
        self.unit = UnitOfWork()
        for queue in self._again:
            queue.touch()
        self._again.clear()
        return unit
