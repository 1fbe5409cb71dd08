"""Choosing among the messages of a queue: selectors, message groups, preferred consumers, and browsing.

A queue has a `Choice` only once somebody asked for one; then it dispatches through it while that is needed.  Each subscription has a cursor a lane:
what waits below it was offered to that subscription and is not for it, so a message is looked at once by each subscription and not at each dispatch.
Messages that nobody here wants fill the window in memory; beyond it the store is read ahead, a bounded piece a turn, and
only what is taken comes into memory.  Invariant: of the positions from `paged_from` on, `paged_count` counts those that
are in nobody's hands.  Tests: tests/unit/broker/core/test_selective.py, tests/property/test_selective.py.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, final

from broker.core.backlog import load, waiting
from broker.core.delivery import Delivery
from broker.core.expiry import bury, has_expired
from broker.core.lane import position_of
from broker.core.message import Message
from broker.core.subscription import Sink

if TYPE_CHECKING:
    from broker.core.lane import Lane
    from broker.core.queue import Queue
    from broker.core.selector import Selector
    from broker.core.subscription import Subscription
    from store.interface import StoredMessage

LOOK_MAX: Final = 4000
"""Messages in memory that are looked at in one turn."""
BROWSE_MAX: Final = 1000
BROWSE_BYTES_MAX: Final = 1 << 20
"""Messages and bytes that a browser gets in one turn."""
GROUPS_MAX: Final = 10_000
"""Message groups told apart; more share GROUP_BUCKETS consumers' places by a checksum of their names."""
GROUP_BUCKETS: Final = 1024
GROUP_HEADER: Final = "JMSXGroupID"
GROUP_SEQUENCE_HEADER: Final = "JMSXGroupSeq"


class BrowseSink(Sink, Protocol):
    """Where a browser's messages go."""

    def browsed(self, subscription: Subscription) -> None:
        """It has seen everything that waited when it began."""
        ...


@final
class Browser:
    """A look at everything that waits in a queue at one moment, lane by lane; `ends` are the lanes' next positions then."""

    __slots__ = ("at", "ends", "lane_index", "selector", "sink", "subscription")

    def __init__(self, queue: Queue, subscription: Subscription, sink: BrowseSink) -> None:
        self.subscription = subscription
        self.sink = sink
        self.selector: Selector | None = subscription.selector
        self.lane_index = len(queue.lanes) - 1
        self.at = 0
        self.ends = [lane.next for lane in queue.lanes]


@final
class Choice:
    """What a queue needs to choose; `is_active` while it must dispatch through it."""

    __slots__ = ("_browsers", "_cursors", "_groups", "_queue", "_turn", "is_active", "is_grouped")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._cursors: dict[Subscription, list[int]] = {}
        self._groups: dict[str, Subscription] = {}
        self._browsers: list[Browser] = []
        self._turn = 0
        self.is_grouped = False
        self.is_active = False

    def review(self) -> None:
        """Subscriptions came or went: see who chooses now."""
        subscriptions = self._queue.subscriptions
        was_active = self.is_active
        self.is_active = (
            self.is_grouped
            or bool(self._browsers)
            or any(one.selector is not None or one.is_preferred for one in subscriptions)
        )
        present = set(subscriptions)
        left = [key for key, owner in self._groups.items() if owner not in present]
        for key in left:
            del self._groups[key]
        if left or not was_active:
            self._cursors.clear()
        else:
            for one in [one for one in self._cursors if one not in present]:
                del self._cursors[one]

    # Handing out

    def dispatch(self) -> None:
        """Offer what waits to those with room, in order, within the bounds of a turn."""
        queue = self._queue
        for browser in list(self._browsers):
            self._browse(browser)
        left = LOOK_MAX
        for index in range(len(queue.lanes) - 1, -1, -1):
            lane = queue.lanes[index]
            takers = self._takers()
            if not takers:
                return
            if not lane.ready and lane.paged_count and not load(queue, lane):
                continue
            left -= self._offer_ready(lane, index, takers, left)
            if left <= 0:
                queue.broker.touch_again(queue)
                return
            if takers and lane.paged_count:
                self._offer_stored(lane, index, takers)

    def _takers(self) -> list[Subscription]:
        """Subscriptions that may take something now: higher priority first, else in turn."""
        subscriptions = self._queue.subscriptions
        if not subscriptions:
            return []
        if self._queue.settings.is_single_active:
            subscriptions = subscriptions[:1]
        else:
            preferred = [one for one in subscriptions if one.is_preferred]
            if preferred:
                subscriptions = [max(preferred, key=_priority)]
        turn = self._turn = (self._turn + 1) % len(subscriptions)
        takers = [one for one in subscriptions[turn:] + subscriptions[:turn] if one.room() > 0]
        takers.sort(key=_priority, reverse=True)
        return takers

    def _cursor(self, subscription: Subscription, index: int) -> int:
        cursors = self._cursors.get(subscription)
        if cursors is None:
            cursors = self._cursors[subscription] = [0] * len(self._queue.lanes)
        return cursors[index]

    def _offer_ready(self, lane: Lane, index: int, takers: list[Subscription], left: int) -> int:
        """Offer the messages in memory; who is full leaves `takers`.  Returns how many were looked at."""
        ready = lane.ready
        start = min(self._cursor(one, index) for one in takers)
        skipped = bisect_left(ready, start, key=position_of)
        count = min(len(ready) - skipped, left)
        if count <= 0:
            return 0
        hands = _Hands(self._queue, lane)
        rest = len(ready) - skipped
        ready.rotate(-skipped)
        looked = 0
        while looked < count and takers:
            delivery = ready.popleft()
            looked += 1
            rest -= 1
            taker: Subscription | None = None
            if self._queue.has_expiry and has_expired(self._queue, delivery.message):
                lane.bytes -= len(delivery.message.body)
                bury(self._queue, delivery)
            else:
                taker = self._taker_of(delivery, index, takers)
                if taker is None and self._drops(takers):
                    lane.bytes -= len(delivery.message.body)
                    self._queue.forget(delivery)
                elif taker is None:
                    ready.append(delivery)
                else:
                    lane.bytes -= len(delivery.message.body)
                    hands.give(delivery, taker)
            self._advance(delivery.position + 1, index, takers, taker)
        # Now: not looked at, skipped, looked at and kept.
        ready.rotate(-rest)
        hands.deliver()
        return looked

    def _advance(
        self, end: int, index: int, takers: list[Subscription], taker: Subscription | None
    ) -> None:
        """Everything below `end` was offered to all takers; one that is full is none any more."""
        for one in takers:
            cursors = self._cursors[one]
            if cursors[index] < end:
                cursors[index] = end
        if taker is None:
            return
        at = takers.index(taker)
        if taker.room() <= 0:
            del takers[at]
        while at + 1 < len(takers) and takers[at + 1].priority == taker.priority:
            # Its equals come first next time.
            takers[at], takers[at + 1] = takers[at + 1], takers[at]
            at += 1

    def _offer_stored(self, lane: Lane, index: int, takers: list[Subscription]) -> None:
        """Offer one piece of what only the store has; what nobody takes stays there."""
        queue = self._queue
        broker = queue.broker
        start = max(lane.paged_from, min(self._cursor(one, index) for one in takers))
        if start >= lane.next:
            return
        limits = broker.limits
        rows = broker.store.read(
            lane.number, start, limits.window_count // 4, broker.memory.window.bytes // 4
        )
        if not rows:
            if broker.unit:
                broker.touch_again(queue)  # It is being committed in this turn.
            return
        hands = _Hands(queue, lane)
        for position, stored, count in waiting(queue, lane, rows):
            if not takers:
                break
            delivery = _delivery(queue, lane, position, stored, count)
            taker: Subscription | None = None
            if not has_expired(queue, delivery.message):
                taker = self._taker_of(delivery, index, takers)
                if taker is not None or self._drops(takers):
                    if taker is not None:
                        hands.give(delivery, taker)
                    else:
                        queue.forget(delivery)
                    lane.paged_count -= 1
                    lane.paged_bytes = max(0, lane.paged_bytes - len(delivery.message.body))
            self._advance(position + 1, index, takers, taker)
        if takers:
            self._advance(rows[-1][0] + 1, index, takers, None)
            broker.touch_again(queue)
        hands.deliver()

    def _taker_of(
        self, delivery: Delivery, index: int, takers: list[Subscription]
    ) -> Subscription | None:
        """Who gets a message; None: nobody here and now."""
        message = delivery.message
        position = delivery.position
        group = self._group_of(message) if self.is_grouped else ""
        owner = self._groups.get(group) if group else None
        for one in takers if owner is None else (owner,):
            if one not in takers or self._cursors[one][index] > position:
                continue
            if one.selector is None or one.selector.matches(message):
                if group:
                    self._note_group(group, one, message, position, index)
                return one
        return None

    def _drops(self, takers: list[Subscription]) -> bool:
        """Whether what nobody takes is for nobody: the queue is the one subscriber's own."""
        return len(self._queue.subscriptions) == 1 and bool(takers) and takers[0].drops_rest

    # Groups

    def _group_of(self, message: Message) -> str:
        headers = message.properties.headers
        name = headers.get(GROUP_HEADER) if headers is not None else None
        if not isinstance(name, str) or not name:
            return ""
        if name in self._groups or len(self._groups) < GROUPS_MAX:
            return name
        return f"\0{zlib.crc32(name.encode('utf-8', 'replace')) % GROUP_BUCKETS}"

    def _note_group(
        self, group: str, owner: Subscription, message: Message, position: int, index: int
    ) -> None:
        headers = message.properties.headers or {}
        if str(headers.get(GROUP_SEQUENCE_HEADER, "")) != "-1":
            self._groups[group] = owner
            return
        # The group is closed: what comes of it later is for anybody, also what was passed over before.
        self._groups.pop(group, None)
        self._lower(index, position + 1)

    # Put back, read back

    def _lower(self, index: int, position: int) -> None:
        for cursors in self._cursors.values():
            if cursors[index] > position:
                cursors[index] = position

    def offer_again(self, lane: Lane, position: int) -> None:
        """Messages come back, the first of them to this position: offer them to all once more."""
        self._lower(self._queue.lanes.index(lane), position)

    # Browsing

    def browse(self, browser: Browser) -> None:
        """Begin to show what waits."""
        self._browsers.append(browser)
        self.review()

    def end_browsing(self, subscription: Subscription | None = None) -> None:
        """Stop one browser, or with None tell all that there is no more: the queue is gone."""
        for browser in [b for b in self._browsers if subscription in (None, b.subscription)]:
            self._drop_browser(browser)
            if subscription is None:
                browser.sink.browsed(browser.subscription)

    def _drop_browser(self, browser: Browser) -> None:
        self._browsers.remove(browser)
        browser.subscription.queue = None
        self._queue.broker.detach(browser.subscription)
        self.review()

    def _browse(self, browser: Browser) -> None:
        """Show a browser its next messages, as long as it reads."""
        queue = self._queue
        if not browser.sink.is_writable:
            return
        run: list[Delivery] = []
        size_bytes = 0
        while browser.lane_index >= 0 and len(run) < BROWSE_MAX and size_bytes < BROWSE_BYTES_MAX:
            lane = queue.lanes[browser.lane_index]
            piece, is_waiting = self._seen(lane, browser)
            for delivery in piece:
                browser.at = delivery.position + 1
                if browser.selector is None or browser.selector.matches(delivery.message):
                    run.append(delivery)
                    size_bytes += len(delivery.message.body)
                    if size_bytes >= BROWSE_BYTES_MAX:
                        break
            if is_waiting:
                break
            if not piece:
                browser.lane_index -= 1
                browser.at = 0
        if run:
            browser.sink.deliver(browser.subscription, run)
        if browser.lane_index < 0:
            self._drop_browser(browser)
            browser.sink.browsed(browser.subscription)
        else:
            queue.broker.touch_again(queue)

    def _seen(self, lane: Lane, browser: Browser) -> tuple[list[Delivery], bool]:
        """The next messages of a lane for a browser, and whether to look again in the next turn."""
        queue = self._queue
        end = browser.ends[browser.lane_index]
        first = bisect_left(lane.ready, browser.at, key=position_of)
        found = [one for one in islice(lane.ready, first, first + BROWSE_MAX) if one.position < end]
        if found or not lane.paged_count or max(browser.at, lane.paged_from) >= end:
            shown = [
                Delivery(queue, lane, one.position, one.message, False, one.count) for one in found
            ]
            return shown, False
        start = max(browser.at, lane.paged_from)
        rows = queue.broker.store.read(lane.number, start, BROWSE_MAX, BROWSE_BYTES_MAX)
        if not rows:
            return [], bool(queue.broker.unit)
        browser.at = rows[-1][0] + 1
        shown = [
            _delivery(queue, lane, *row, is_stored=False)
            for row in waiting(self._queue, lane, rows)
            if row[0] < end
        ]
        return shown, not shown


@final
class _Hands:
    """Deliveries on their way to subscriptions: one run each, in order."""

    __slots__ = ("_end", "_lane", "_queue", "_runs")

    def __init__(self, queue: Queue, lane: Lane) -> None:
        self._queue = queue
        self._lane = lane
        self._runs: dict[Subscription, list[Delivery]] = {}
        self._end = 0

    def give(self, delivery: Delivery, taker: Subscription) -> None:
        """Put a message into a subscription's hands, and take its credit."""
        self._end = delivery.position + 1
        lane = self._lane
        if taker.is_acknowledged:
            delivery.subscription = taker
            lane.unsettled[delivery.position] = delivery
            taker.credit -= 1
            taker.unsettled += 1
            if taker.shared is not None:
                taker.shared.left -= 1
        elif delivery.is_stored:
            self._queue.broker.unit.acknowledged.append(
                (lane.number, delivery.position, delivery.message)
            )
        self._runs.setdefault(taker, []).append(delivery)

    def deliver(self) -> None:
        """Let the sinks have their runs."""
        self._queue.raise_horizon(self._lane, self._end)
        metrics = self._queue.broker.metrics
        for taker, run in self._runs.items():
            metrics.delivered_count += len(run)
            taker.sink.deliver(taker, run)


def _delivery(
    queue: Queue,
    lane: Lane,
    position: int,
    stored: StoredMessage,
    count: int,
    *,
    is_stored: bool = True,
) -> Delivery:
    destination = queue.vhost.destination_of(stored.exchange, stored.routing_key)
    if position < lane.redelivered_before and count == 0:
        count = 1
    message = Message.from_stored(stored, destination)
    return Delivery(queue, lane, position, message, is_stored, count)


def _priority(subscription: Subscription) -> int:
    return subscription.priority
