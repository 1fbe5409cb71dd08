"""From units of work to the records and chunks of one batch, with their effect on the state.

Pairs that cancel out are dropped here: what was published and acknowledged within the batch is not written.
Acknowledgements come first (they speak of earlier batches), then messages, then changes in their
order.  This is the store's hot path.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from store.compaction import Moved
from store.index import Lane, State
from store.interface import (
    CHANGE_DEFINE,
    CHANGE_DROP_LANE,
    CHANGE_HORIZON,
    CHANGE_PURGE,
    CHANGE_REQUEUE,
    StoredMessage,
    UnitOfWork,
)
from store.record import (
    ACKNOWLEDGE,
    DEFINE,
    DROP_LANE,
    HORIZON,
    PURGE,
    REQUEUE,
    Record,
    encode_chunk,
    encode_single,
    encode_value,
    ranges_of,
)
from store.runs import LAST, RUN_FIELDS, SEGMENT

_INTEGER_BYTES: Final = 9
_RECORD_BYTES: Final = 64

Places = list[tuple[int, list[int]]]
"""(lane, positions in ascending order, one a message)."""


@final
class Group:
    """Messages that lie in the same lanes; becomes one chunk, or several when it is large."""

    __slots__ = ("messages", "places")

    def __init__(self, places: Places, messages: list[StoredMessage]) -> None:
        self.places = places
        self.messages = messages


@final
class Gathered:
    """The content of a batch, before it is known where it will lie."""

    __slots__ = (
        "acknowledged",
        "changes",
        "chunks",
        "message_count",
        "moved",
        "records_bytes_max",
    )

    def __init__(self) -> None:
        self.acknowledged: list[Record] = []
        self.changes: list[tuple[Any, ...]] = []
        # (packed chunk, its messages, [(lane, ranges, live bytes)])
        self.chunks: list[tuple[bytes, list[StoredMessage], list[tuple[int, list[int], int]]]] = []
        self.moved: Moved | None = None
        self.message_count = 0
        self.records_bytes_max = 0

    def __bool__(self) -> bool:
        return bool(self.acknowledged or self.chunks or self.changes or self.moved)

    @property
    def size_bytes_max(self) -> int:
        """The most that it takes in a segment, without definitions."""
        size_bytes = self.records_bytes_max + sum([len(chunk[0]) for chunk in self.chunks])
        if self.moved is not None:
            size_bytes += self.moved.records_bytes_max
            size_bytes += sum(len(chunk[0]) for chunk in self.moved.chunks)
        return size_bytes


def gather(
    state: State,
    units: list[UnitOfWork],
    chunk_bytes: int,
    take_moved: Callable[[], Moved | None] | None = None,
) -> Gathered:
    """Fold units into chunks and records; acknowledgements take effect on the state at once.

    `take_moved` is asked after them for what compaction adds.
    """
    gathered = Gathered()
    if len(units) == 1:
        published, acknowledged = units[0].published, units[0].acknowledged
        gathered.changes = units[0].changes
    else:
        published, acknowledged = [], []
        for unit in units:
            published += unit.published
            acknowledged += unit.acknowledged
            gathered.changes += unit.changes
    cancelled = _acknowledge(state, acknowledged, gathered) if acknowledged else {}
    if cancelled:
        published = [
            row for row in published if row[1] not in cancelled or row[2] not in cancelled[row[1]]
        ]
    for group in _group(published, gathered):
        _pack(group, chunk_bytes, gathered)
    if take_moved is not None:
        gathered.moved = take_moved()
    for change in gathered.changes:
        gathered.records_bytes_max += _change_bytes_max(state, change)
    return gathered


def _group(published: list[tuple[StoredMessage, int, int]], gathered: Gathered) -> list[Group]:
    """Put messages of the same lanes together; those that are alone in their lane are packed at once."""
    if len(published) > 1 and published[0][1] == published[-1][1]:
        rows, lanes, places = zip(*published, strict=True)
        if lanes.count(lanes[0]) == len(lanes):
            # One busy queue: nothing to sort.
            return [Group([(lanes[0], list(places))], list(rows))]
    single: dict[int, tuple[list[int], list[StoredMessage]]] = {}
    several: dict[tuple[int, ...], Group] = {}
    current = -1
    previous: StoredMessage | None = None
    positions: list[int] = []
    messages: list[StoredMessage] = []
    index = 0
    for row in published:
        message, lane, position = row
        if message is previous:
            # A fan-out: take the message out of its first lane's group, unless that was done before.
            if messages and messages[-1] is message:
                positions.pop()
                messages.pop()
                _fan_out(published, index, several)
            index += 1
            continue
        index += 1
        previous = message
        if lane != current:
            current = lane
            known = single.get(lane)
            if known is None:
                positions, messages = [], []
                single[lane] = (positions, messages)
            else:
                positions, messages = known
        positions.append(position)
        messages.append(message)
    groups = []
    chunks = gathered.chunks
    for lane, (positions, messages) in single.items():
        if len(messages) == 1:
            # Ten thousand queues with a message each: nothing to divide.
            message = messages[0]
            place = (lane, [positions[0], 1], len(message.body) + len(message.header))
            chunks.append((encode_single(message), messages, [place]))
        elif messages:
            groups.append(Group([(lane, positions)], messages))
    gathered.message_count += len(chunks)
    gathered.records_bytes_max += (_RECORD_BYTES + 6 * _INTEGER_BYTES) * len(chunks)
    groups += several.values()
    return groups


def _fan_out(
    published: list[tuple[StoredMessage, int, int]],
    index: int,
    several: dict[tuple[int, ...], Group],
) -> None:
    """Put the message of rows index - 1, index … into the group of all its lanes."""
    message = published[index][0]
    end = index + 1
    while end < len(published) and published[end][0] is message:
        end += 1
    rows = published[index - 1 : end]
    lanes = tuple(row[1] for row in rows)
    group = several.get(lanes)
    if group is None:
        group = several[lanes] = Group([(lane, []) for lane in lanes], [])
    group.messages.append(message)
    for place, row in zip(group.places, rows, strict=True):
        place[1].append(row[2])


def _pack(group: Group, chunk_bytes: int, gathered: Gathered) -> None:
    messages = group.messages
    count = len(messages)
    sizes = [len(message.body) + len(message.header) for message in messages]
    total = sum(sizes)
    gathered.message_count += count
    step = count
    if total > chunk_bytes and count > 1:
        # Even parts: no small rest at the end.
        step = max(1, -(-count // -(-total // chunk_bytes)))
    for start in range(0, count, step):
        if step == count:
            part, live_bytes = messages, total
            places = [(lane, ranges_of(positions), total) for lane, positions in group.places]
        else:
            part = messages[start : start + step]
            live_bytes = sum(sizes[start : start + step])
            places = [
                (lane, ranges_of(positions[start : start + step]), live_bytes)
                for lane, positions in group.places
            ]
        gathered.chunks.append((encode_chunk(part), part, places))
        gathered.records_bytes_max += _RECORD_BYTES
        for _, ranges, _ in places:
            gathered.records_bytes_max += _INTEGER_BYTES * (len(ranges) + 4)


def _acknowledge(
    state: State, acknowledged: list[tuple[int, int, StoredMessage]], gathered: Gathered
) -> dict[int, set[int]]:
    """Record what leaves its lane; return (by lane) the positions that this very batch publishes."""
    cancelled: dict[int, set[int]] = {}
    current = -1
    first = expected = live_bytes = start = 0
    lane: Lane | None = None
    for number, position, message in acknowledged:
        if number == current and position == expected:
            expected += 1
            live_bytes += len(message.body) + len(message.header)
            continue
        if lane is not None and expected > first:
            rows = (acknowledged, start)
            _bury(state, lane, first, expected, live_bytes, rows, gathered, cancelled)
        # Each row made its run one longer.
        start += expected - first
        if number != current:
            current = number
            lane = state.find(number)
            if lane is None:
                # Never written: everything of it is in this batch.
                lane = state.lane(number)
        first = position
        expected = position + 1
        live_bytes = len(message.body) + len(message.header)
    if lane is not None:
        rows = (acknowledged, start)
        _bury(state, lane, first, expected, live_bytes, rows, gathered, cancelled)
    return cancelled


def _bury(
    state: State,
    lane: Lane,
    first: int,
    end: int,
    live_bytes: int,
    rows: tuple[list[tuple[int, int, StoredMessage]], int],
    gathered: Gathered,
    cancelled: dict[int, set[int]],
) -> None:
    if end <= lane.next and lane.alive_in(first, end) == end - first:
        index = lane.runs.find(first)
        if index >= 0 and lane.runs.figures[index * RUN_FIELDS + LAST] >= end - 1:
            segment = lane.runs.figures[index * RUN_FIELDS + SEGMENT]
            gone = [segment, end - first, live_bytes]
            record: Record = (ACKNOWLEDGE, lane.number, [first, end - first], gone)
            gathered.acknowledged.append(record)
            gathered.records_bytes_max += _RECORD_BYTES + 5 * _INTEGER_BYTES
            state.apply(record, 0, 0)
            return
    # Spans segments, or names what is dead already or not written yet: one by one.
    number = lane.number
    acknowledged, start = rows
    for position in range(first, end):
        if position >= lane.next:
            cancelled.setdefault(number, set()).add(position)
        elif lane.is_alive(position):
            index = lane.runs.find(position)
            segment = lane.runs.figures[index * RUN_FIELDS + SEGMENT] if index >= 0 else 0
            message = acknowledged[start + position - first][2]
            gone = [segment, 1, len(message.body) + len(message.header)] if index >= 0 else []
            record = (ACKNOWLEDGE, number, [position, 1], gone)
            gathered.acknowledged.append(record)
            gathered.records_bytes_max += _RECORD_BYTES + 5 * _INTEGER_BYTES
            state.apply(record, 0, 0)


def _change_bytes_max(state: State, change: tuple[Any, ...]) -> int:
    if change[0] == CHANGE_DEFINE:
        return _RECORD_BYTES + len(encode_value(change[1:]))
    if change[0] == CHANGE_PURGE:
        lane = state.find(change[1])
        run_count = 1 + len(lane.runs) if lane is not None else 1
        return _RECORD_BYTES + _INTEGER_BYTES * (len(change[3]) + 3 * run_count)
    return _RECORD_BYTES


SizesOf = Callable[[Lane, list[int], int], int]
"""The bytes of living messages of a lane together; the last argument is what each counts that cannot be read."""


def change_record(state: State, change: tuple[Any, ...], sizes_of: SizesOf) -> Record:
    """Give the record of a change; `sizes_of` is asked by purges that leave something."""
    kind = change[0]
    if kind == CHANGE_DEFINE:
        return (DEFINE, change[1], change[2])
    if kind == CHANGE_DROP_LANE:
        return (DROP_LANE, change[1])
    if kind == CHANGE_HORIZON:
        return (HORIZON, change[1], change[2])
    if kind == CHANGE_REQUEUE:
        return (REQUEUE, change[1], change[2], change[3])
    assert kind == CHANGE_PURGE, f"unknown change {change!r}"
    _, number, end, keep = change
    lane = state.lane(number)
    kept = sorted({position for position in keep if position < end and lane.is_alive(position)})
    return (PURGE, number, end, kept, _purge_figures(lane, end, kept, sizes_of))


def _purge_figures(lane: Lane, end: int, kept: list[int], sizes_of: SizesOf) -> list[int]:
    """What goes from each run: whole runs by their figures, others by what stays in them."""
    gone: list[int] = []
    for index in range(len(lane.runs)):
        segment, first, last, count, size_bytes = lane.runs.run(index)
        if first >= end:
            break
        stay = [position for position in kept if first <= position <= last]
        if last >= end:
            position = lane.next_alive(end)
            while position <= last and position < lane.next:
                stay.append(position)
                position = lane.next_alive(position + 1)
        stay_bytes = min(size_bytes, sizes_of(lane, stay, size_bytes // count)) if stay else 0
        gone += [segment, count - len(stay), size_bytes - stay_bytes]
    return gone
