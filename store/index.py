"""What is alive: lanes with their runs and dead positions, segments, definitions.

`State.apply` is the one place where records take effect: the owner that writes them and the recovery that
replays them go through the same code, so they cannot differ.  Nothing here costs memory per stored
message: a lane is a head, a next position, one run per segment, and at most one bit for each dead position
above the head; and a lane that nobody touches is the packed bytes of the last checkpoint.  Pure: no I/O, no
clock.  Tests: tests/unit/store/test_index.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from store.positions import SHIFT, PositionSet
from store.record import (
    ACKNOWLEDGE,
    DEFINE,
    DEFINITIONS,
    DROP_LANE,
    HORIZON,
    MOVED,
    OPENING,
    PUBLISH,
    PURGE,
    REQUEUE,
    Record,
    decode_value,
)
from store.runs import BYTES, COUNT, FIRST, LAST, RUN_FIELDS, SEGMENT, Page, Runs

SUMMARY: Final = struct.Struct("<6q")
"""What a packed lane begins with: number, first, next, count, bytes, horizon."""

Extent = tuple[int, int, int, int, int, int, Sequence[int]]
"""(first, last, segment, offset, size_bytes, crc, ranges): a chunk, seen from one lane; ranges are empty where all of first … last
are in it."""


_Published = tuple[int, list[int], int, int, tuple[int, int]]
_Shifted = tuple[int, list[Extent], list[int]]


def first_of(extent: Extent) -> int:
    """The first position of a chunk in its lane."""
    return extent[0]


@final
class Lane:
    """One numbered sequence of positions.  Alive is what lies in [head, next) and is not dead."""

    __slots__ = (
        "bytes",
        "count",
        "dead",
        "extents",
        "frozen",
        "head",
        "horizon",
        "next",
        "number",
        "requeued",
        "runs",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.head = 0
        self.next = 0
        self.count = 0
        self.bytes = 0
        self.horizon = 0
        self.dead = PositionSet()
        self.requeued: dict[int, int] = {}
        self.runs = Runs()
        # Chunks since the last checkpoint began, and those that the running one is writing to sidecars, by first position.
        # Of those that lie in another segment than the run at their positions the messages were moved.
        self.extents: list[Extent] = []
        self.frozen: list[Extent] = []

    def is_alive(self, position: int) -> bool:
        """Whether a message is at the position."""
        return self.head <= position < self.next and position not in self.dead

    def is_any_alive(self, first: int, last: int) -> bool:
        """Whether a message is at any position of first … last."""
        if first < self.head:
            first = self.head
        return first <= last and self.dead.next_absent(first) <= last

    def next_alive(self, position: int) -> int:
        """The first position with a message at or above `position`; `next` when there is none."""
        found = self.dead.next_absent(max(position, self.head))
        return min(found, self.next)

    def alive_in(self, first: int, end: int) -> int:
        """How many messages lie in [first, end)."""
        if first < self.head:
            first = self.head
        if end > self.next:
            end = self.next
        if first >= end:
            return 0
        return end - first - self.dead.count_in(first, end) if self.dead else end - first

    def bury(self, first: int, end: int) -> None:
        """Mark [first, end) dead; figures are the caller's business."""
        if first <= self.head:
            if end > self.head:
                self._advance(end)
        else:
            self.dead.add(first, end)
        if self.requeued:
            if end - first < len(self.requeued):
                for position in range(first, end):
                    self.requeued.pop(position, None)
            else:
                for position in [p for p in self.requeued if first <= p < end]:
                    del self.requeued[position]

    def _advance(self, position: int) -> None:
        dead = self.dead
        if dead:
            position = min(dead.next_absent(position), self.next)
            if position >> SHIFT != self.head >> SHIFT or position == self.next:
                dead.forget_below(position)
        self.head = position

    def extend(
        self, segment: int, ranges: list[int], size_bytes: int, offset: int, chunk: tuple[int, int]
    ) -> int:
        """Take in new messages that lie in one chunk; returns how many."""
        first = ranges[0]
        end = ranges[-2] + ranges[-1]
        if first >= self.next:
            if first > self.next:
                self._skip(self.next, first)
            self.next = end
            if len(ranges) > 2:
                for index in range(0, len(ranges) - 2, 2):
                    gap = ranges[index] + ranges[index + 1]
                    self._skip(gap, ranges[index + 2])
                count = end - first - self.dead.count_in(first, end)
            else:
                count = end - first
        else:
            count = self._interleave(ranges, end)
        runs = self.runs
        figures = runs.figures
        if figures and figures[SEGMENT - RUN_FIELDS] == segment:
            figures[COUNT - RUN_FIELDS] += count
            figures[BYTES - RUN_FIELDS] += size_bytes
            if figures[LAST - RUN_FIELDS] < end - 1:
                figures[LAST - RUN_FIELDS] = end - 1
            if figures[FIRST - RUN_FIELDS] > first:
                figures[FIRST - RUN_FIELDS] = first
        else:
            runs.insert(len(runs), segment, first, end - 1, count, size_bytes)
        self.count += count
        self.bytes += size_bytes
        extents = self.extents
        gaps = ranges if len(ranges) > 2 else ()
        extents.append((first, end - 1, segment, offset, chunk[0], chunk[1], gaps))
        if len(extents) > 1 and extents[-2][0] > first:
            # Chunks of one batch may interleave; readers want them by first position.
            extents.sort(key=first_of)
        return count

    def _skip(self, first: int, end: int) -> None:
        # Positions that no stored message has: transient ones, or pairs that cancelled out.
        if self.head == first:
            self.head = end
        else:
            self.dead.add(first, end)

    def _interleave(self, ranges: list[int], end: int) -> int:
        """Take positions below `next` that were taken for gaps: another chunk of the same batch has its neighbors."""
        count = 0
        if end > self.next:
            self._skip(self.next, end)
            self.next = end
        for index in range(0, len(ranges), 2):
            for position in range(ranges[index], ranges[index] + ranges[index + 1]):
                count += 1
                if position < self.head:
                    self.dead.add(position, self.head)
                    self.head = position
                if position in self.dead:
                    self.dead.remove(position)
        return count

    def subtract(self, index: int, count: int, size_bytes: int) -> None:
        """Take messages that died off the figures of their run."""
        self.runs.subtract(index, count, size_bytes)
        self.count -= count
        self.bytes -= size_bytes

    def move(
        self, index: int, extents: list[Extent], last: int, count: int, size_bytes: int
    ) -> None:
        """Let the messages of a run up to position `last` lie in other chunks from now on."""
        runs = self.runs
        figures = runs.figures
        segment, first = extents[0][2], extents[0][0]
        at = index * RUN_FIELDS
        before = at - RUN_FIELDS
        if index and figures[before + SEGMENT] == segment and figures[before + LAST] < first:
            figures[before + LAST] = last
            figures[before + COUNT] += count
            figures[before + BYTES] += size_bytes
        else:
            runs.insert(index, segment, figures[at + FIRST], last, count, size_bytes)
            index += 1
        figures[index * RUN_FIELDS + FIRST] = last + 1
        runs.subtract(index, count, size_bytes)
        self.extents += extents
        self.extents.sort(key=first_of)

    def shift(self, source: int, extents: list[Extent], moved: list[int]) -> None:
        """Take a row of a `moved` record: first, last, count, bytes.  Raises ValueError if they are not in `source`."""
        first, last, count, size_bytes = moved
        index = self.runs.find(last)
        if index < 0 or self.runs.figures[index * RUN_FIELDS + SEGMENT] != source:
            raise ValueError(f"lane {self.number}: positions {first} to {last} are not in {source}")
        mine = sorted((e for e in extents if first <= e[0] <= last), key=first_of)
        self.move(index, mine, last, count, size_bytes)

    def add_pages(self, segment: int, pages: list[Page]) -> None:
        """Take in pages that were written for a run of the segment, unless it is gone or was moved meanwhile."""
        index = self.runs.find_from(pages[-1][4])
        if index < len(self.runs):
            figures = self.runs.run(index)
            if figures[SEGMENT] == segment and figures[FIRST] <= pages[-1][4]:
                self.runs.add_pages(index, pages)

    def summary(self) -> tuple[int, int, int, int, int, int]:
        """What an opening tells of the lane: number, first, next, count, bytes, horizon."""
        first = self.head if self.count else self.next
        return self.number, first, self.next, self.count, self.bytes, self.horizon

    @classmethod
    def thaw(cls, frozen: list[Any]) -> Lane:
        """Make the lane that `freeze` gave."""
        # Ten thousand at a start: nothing is made twice.
        lane = cls.__new__(cls)
        lane.number, lane.head, lane.next, lane.horizon = frozen[:4]
        lane.dead = PositionSet.thaw(frozen[4])
        lane.requeued = frozen[5]
        lane.runs = Runs.thaw(frozen[6])
        lane.extents = []
        lane.frozen = []
        lane.count = sum(lane.runs.figures[COUNT::RUN_FIELDS])
        lane.bytes = sum(lane.runs.figures[BYTES::RUN_FIELDS])
        return lane


@final
class SegmentState:
    """What is known of a segment: the messages of it that live, all there ever were, and where its batches end.

    Each message counts once for each lane that it lies in, with header and body.
    """

    __slots__ = ("bytes", "count", "id", "last_batch", "size_bytes", "total_count", "used_bytes")

    def __init__(
        self,
        id: int,
        count: int = 0,
        last_batch: int = 0,
        used_bytes: int = 0,
        bytes: int = 0,
        total_count: int = 0,
        size_bytes: int = 0,
    ) -> None:
        self.id = id
        self.count = count
        self.last_batch = last_batch
        self.used_bytes = used_bytes
        self.bytes = bytes
        self.total_count = total_count
        self.size_bytes = size_bytes

    @property
    def living_bytes(self) -> int:
        """About what a copy of the living messages would take: by their bytes, and by their share of what was written."""
        if not self.total_count:
            return 0
        return max(self.bytes, self.used_bytes * self.count // self.total_count)


@final
class State:
    """Everything that a checkpoint holds.

    `lanes` has those that were touched lately; all others are in `packed` alone, as the last checkpoint has them.
    `before_change`, while a checkpoint is being taken, is told each lane before it changes.
    """

    __slots__ = (
        "before_change",
        "deferred",
        "definitions",
        "lanes",
        "next_lane",
        "packed",
        "segments",
        "touched",
    )

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self.lanes: dict[int, Lane] = {}
        self.next_lane = 1
        self.segments: dict[int, SegmentState] = {}
        self.touched: set[int] = set()
        self.packed: dict[int, bytes] = {}
        # What was replayed of lanes that nobody has looked at yet: what `Lane.extend` takes, or what `Lane.shift` does.
        self.deferred: dict[int, list[_Published | _Shifted]] = {}
        self.before_change: Callable[[Lane], None] | None = None

    def find(self, number: int) -> Lane | None:
        """The lane, to be looked at; None if there is none."""
        lane = self.lanes.get(number)
        if lane is None:
            blob = self.packed.get(number)
            later = self.deferred.pop(number, None)
            if blob is not None:
                lane = self.lanes[number] = Lane.thaw(decode_value(blob[SUMMARY.size :]))
            elif later is not None:
                lane = self.lanes[number] = Lane(number)
            if lane is not None and later is not None:
                for change in later:
                    if len(change) == 5:
                        lane.extend(*change)
                    else:
                        lane.shift(*change)
        return lane

    def lane(self, number: int) -> Lane:
        """The lane, to be changed; made when it is first heard of."""
        lane = self.find(number)
        if lane is None:
            lane = self.lanes[number] = Lane(number)
            if number >= self.next_lane:
                self.next_lane = number + 1
        elif self.before_change is not None:
            self.before_change(lane)
        self.touched.add(number)
        return lane

    def forget_quiet(self) -> None:
        """Keep of the lanes that nothing changed since the last checkpoint their packed form alone."""
        touched, packed = self.touched, self.packed
        for number in [n for n in self.lanes if n not in touched and n in packed]:
            del self.lanes[number]

    def summaries(self) -> list[tuple[int, int, int, int, int, int]]:
        """What an opening tells of each lane: number, first, next, count, bytes, horizon."""
        lanes, deferred = self.lanes, self.deferred
        found = [lane.summary() for lane in lanes.values()]
        for number, blob in self.packed.items():
            if number not in lanes and number not in deferred:
                found.append(SUMMARY.unpack_from(blob))
        for number, extents in deferred.items():
            known = self.packed.get(number)
            _, first, next, count, size_bytes, horizon = (
                SUMMARY.unpack_from(known) if known is not None else (number, 0, 0, 0, 0, 0)
            )
            for change in extents:
                if len(change) != 5:
                    continue
                ranges, living_bytes = change[1:3]
                if not count:
                    first = ranges[0]
                count += sum(ranges[1::2])
                size_bytes += living_bytes
                first = min(first, ranges[0])
                next = max(next, ranges[-2] + ranges[-1])
            found.append((number, first, next, count, size_bytes, horizon))
        return found

    @property
    def lane_count(self) -> int:
        """How many lanes there are."""
        return len(self.packed.keys() | self.lanes.keys() | self.deferred.keys())

    def replay(self, record: Record, segment: int, chunks_offset: int) -> None:
        """Let a record take effect as `apply` does; what is published to lanes that are packed waits there.

        A start must not unpack ten thousand lanes because each got a message.
        """
        if record[0] == MOVED:
            self._move(record, segment, chunks_offset, is_deferred=True)
            return
        if record[0] != PUBLISH:
            self.apply(record, segment, chunks_offset)
            return
        _, offset, size_bytes, crc, places = record
        figures = self.segment(segment)
        for number, ranges, living_bytes in places:
            count = ranges[1] if len(ranges) == 2 else sum(ranges[1::2])
            lane = self.lanes.get(number)
            extent = (segment, ranges, living_bytes, chunks_offset + offset, (size_bytes, crc))
            if lane is not None:
                lane.extend(*extent)
            else:
                known = self.deferred.get(number)
                if known is None:
                    self.deferred[number] = [extent]
                    if number >= self.next_lane:
                        self.next_lane = number + 1
                else:
                    known.append(extent)
            self.touched.add(number)
            figures.count += count
            figures.total_count += count
            figures.bytes += living_bytes

    def segment(self, id: int) -> SegmentState:
        """The segment's figures, made when it is first heard of."""
        state = self.segments.get(id)
        if state is None:
            state = self.segments[id] = SegmentState(id)
        return state

    def apply(self, record: Record, segment: int, chunks_offset: int) -> None:
        """Let a record of a batch take effect.  Raises ValueError for an unknown kind."""
        kind = record[0]
        if kind == PUBLISH:
            self._publish(record, segment, chunks_offset)
        elif kind == ACKNOWLEDGE:
            self._acknowledge(record)
        elif kind == DEFINE:
            if record[2] is None:
                self.definitions.pop(record[1], None)
            else:
                self.definitions[record[1]] = record[2]
        elif kind == PURGE:
            self._purge(record)
        elif kind == DROP_LANE:
            self._drop_lane(record[1])
        elif kind == HORIZON:
            lane = self.lane(record[1])
            lane.horizon = max(lane.horizon, record[2])
        elif kind == REQUEUE:
            lane = self.lane(record[1])
            if lane.is_alive(record[2]):
                lane.requeued[record[2]] = record[3]
        elif kind == MOVED:
            self._move(record, segment, chunks_offset)
        elif kind == DEFINITIONS:
            self.definitions = record[1]
        elif kind != OPENING:
            raise ValueError(f"unknown record kind {kind}")

    def _publish(self, record: Record, segment: int, chunks_offset: int) -> None:
        _, offset, size_bytes, crc, places = record
        count = total_bytes = 0
        chunk = (size_bytes, crc)
        for lane, ranges, live_bytes in places:
            count += self.lane(lane).extend(
                segment, ranges, live_bytes, chunks_offset + offset, chunk
            )
            total_bytes += live_bytes
        figures = self.segment(segment)
        figures.count += count
        figures.total_count += count
        figures.bytes += total_bytes

    def _acknowledge(self, record: Record) -> None:
        _, number, ranges, gone = record
        lane = self.lane(number)
        for index in range(0, len(ranges), 2):
            lane.bury(ranges[index], ranges[index] + ranges[index + 1])
        if gone:
            self._subtract(lane, lane.runs.find(ranges[0]), gone)

    def _subtract(self, lane: Lane, index: int, gone: list[int]) -> None:
        segment, count, size_bytes = gone
        if index < 0 or lane.runs.figures[index * RUN_FIELDS + SEGMENT] != segment:
            raise ValueError(f"lane {lane.number}: a run of segment {segment} is not there")
        run_bytes = lane.runs.figures[index * RUN_FIELDS + BYTES]
        if size_bytes > run_bytes or count == lane.runs.figures[index * RUN_FIELDS + COUNT]:
            # Only where a purge had to guess: with the last message goes what is left.
            size_bytes = run_bytes
        lane.subtract(index, count, size_bytes)
        figures = self.segment(segment)
        figures.count -= count
        figures.bytes -= size_bytes

    def _purge(self, record: Record) -> None:
        _, number, end, keep, gone = record
        lane = self.lane(number)
        first = 0
        end = min(end, lane.next)
        for position in keep:
            if position < end and lane.is_alive(position):
                lane.bury(first, position)
                first = position + 1
        if first < end:
            lane.bury(first, end)
        # From the last run on, as those that are emptied go.
        for at in range(len(gone) - 3, -1, -3):
            self._subtract(lane, at // 3, gone[at : at + 3])

    def _drop_lane(self, number: int) -> None:
        if number >= self.next_lane:
            self.next_lane = number + 1
        if self.find(number) is not None:
            lane = self.lane(number)
            del self.lanes[number]
            for index in range(len(lane.runs)):
                segment, _, _, count, size_bytes = lane.runs.run(index)
                figures = self.segment(segment)
                figures.count -= count
                figures.bytes -= size_bytes
        self.packed.pop(number, None)
        self.touched.discard(number)

    def _move(
        self, record: Record, segment: int, chunks_offset: int, is_deferred: bool = False
    ) -> None:
        """Let messages lie where they were copied to: in the same batch, so never in two places or none."""
        _, source, chunks, moves = record
        extents: dict[int, list[Extent]] = {}
        for offset, size_bytes, crc, places in chunks:
            at = chunks_offset + offset
            for number, ranges in places:
                last = ranges[-2] + ranges[-1] - 1
                extents.setdefault(number, []).append(
                    (ranges[0], last, segment, at, size_bytes, crc, ranges)
                )
        left, taken = self.segment(source), self.segment(segment)
        for number, *moved in moves:
            count, size_bytes = moved[2:]
            if is_deferred and number not in self.lanes and number in self.packed:
                self.deferred.setdefault(number, []).append((source, extents[number], moved))
                self.touched.add(number)
            else:
                self.lane(number).shift(source, extents[number], moved)
            left.count -= count
            left.bytes -= size_bytes
            taken.count += count
            taken.total_count += count
            taken.bytes += size_bytes

    def freeze(self) -> list[Any]:
        """Give all but the lanes as numbers, text and bytes."""
        return [
            self.next_lane,
            self.definitions.copy(),
            [
                [
                    s.id,
                    s.count,
                    s.last_batch,
                    s.used_bytes,
                    s.bytes,
                    s.total_count,
                    s.size_bytes,
                ]
                for s in self.segments.values()
            ],
        ]

    @classmethod
    def thaw(cls, frozen: list[Any], blobs: list[bytes]) -> State:
        """Make the state that `freeze` gave, with its lanes, which stay packed until they are touched."""
        state = cls()
        state.next_lane, state.definitions, segments = frozen
        for figures in segments:
            state.segments[figures[0]] = SegmentState(*figures)
        for blob in blobs:
            state.packed[SUMMARY.unpack_from(blob)[0]] = blob
        return state
