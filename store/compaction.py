"""Gives the space of mostly dead segments back: what lives there is copied to the end of the journal, in small groups.

A copy and its taking effect are one `moved` record in the batch that carries the copy: after a crash a message lies in one
place, never in two or none.  The old segment then holds nothing alive and goes like any dead one.  Reading is done
aside; what died meanwhile is left out when the batch is built.  Tests: tests/unit/store/test_compaction.py,
tests/property/test_store_crash.py.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Final, final

from store.errors import Corrupt
from store.files import FileSystem
from store.index import State
from store.interface import StoredMessage
from store.record import decode_chunk, encode_chunk, positions_of, ranges_of
from store.runs import FIRST, SEGMENT
from store.segment import (
    Batch,
    chunks_of,
    open_segment,
    segment_name,
)

_LOG: Final = logging.getLogger("store")
_ROW_BYTES_MAX: Final = 64

Moves = list[tuple[int, int, int, int, int]]
"""(lane, first and last position, count, bytes) of each run that loses its lowest messages."""


@final
class Item:
    """A chunk with living messages, as found in the old segment."""

    __slots__ = ("messages", "places")

    def __init__(self, messages: list[StoredMessage], places: list[tuple[int, list[int]]]) -> None:
        self.messages = messages
        # (lane, position of each message)
        self.places = places


@final
class Moved:
    """A group of chunks, packed anew with what still lives: the content of one `moved` record."""

    __slots__ = ("chunks", "moves", "source")

    def __init__(self, source: int) -> None:
        self.source = source
        # (packed chunk, its messages, [(lane, ranges)])
        self.chunks: list[tuple[bytes, list[StoredMessage], list[tuple[int, list[int]]]]] = []
        self.moves: Moves = []

    @property
    def records_bytes_max(self) -> int:
        """The most that its record takes."""
        ranges = sum(len(place[1]) + 4 for chunk in self.chunks for place in chunk[2])
        return _ROW_BYTES_MAX * (2 + len(self.chunks) + len(self.moves)) + 9 * ranges


def find_sparse(state: State, excluded: set[int], ratio: float, used_bytes_min: int) -> int | None:
    """Choose the segment whose living messages take the smallest share of its file, if that is below `ratio`.

    None while all segments together take less than `used_bytes_min`.
    """
    if sum(figures.size_bytes for figures in state.segments.values()) < used_bytes_min:
        return None
    best: int | None = None
    for figures in state.segments.values():
        if figures.count > 0 and figures.size_bytes and figures.id not in excluded:
            share = figures.living_bytes / figures.size_bytes
            if share < ratio:
                best, ratio = figures.id, share
    return best


@final
class Compactor:
    """Empties one segment.  `prepare` runs aside, `take` with the journal's lock held."""

    __slots__ = (
        "_batches",
        "_group",
        "_group_bytes",
        "_groups",
        "_lock",
        "_segment",
        "_state",
        "source",
    )

    def __init__(
        self,
        files: FileSystem,
        folder: str,
        source: int,
        state: State,
        lock: AbstractContextManager[object],
        group_bytes: int,
    ) -> None:
        self.source = source
        self._segment = open_segment(files, folder, source)
        self._state = state
        self._lock = lock
        self._group_bytes = group_bytes
        self._batches = self._segment.batches()
        self._groups: list[list[Item]] = []
        self._group: list[Item] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a group waits to be taken."""
        return self._group is not None

    def prepare(self) -> bool:
        """Read the next group; False when the segment has no more.  Raises Corrupt, OSError."""
        while not self._groups:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._groups = _groups(self._items(batch), self._group_bytes)
        self._group = self._groups.pop(0)
        return True

    def _items(self, batch: Batch) -> list[Item]:
        found = []
        with self._lock:
            for offset, size_bytes, crc, places in chunks_of(batch):
                living = [
                    (place[0], place[1])
                    for place in places
                    if self._lives(place[0], place[1][0], place[1][-2] + place[1][-1] - 1)
                ]
                if living:
                    found.append((offset, size_bytes, crc, living))
        items = []
        for offset, size_bytes, crc, living in found:
            raw = self._segment.read_chunk(offset, size_bytes, crc)
            try:
                messages = decode_chunk(raw)
            except (ValueError, TypeError) as error:
                raise Corrupt(self._segment.path, offset, f"messages: {error}") from error
            items.append(Item(messages, [(n, list(positions_of(ranges))) for n, ranges in living]))
        return items

    def _lives(self, number: int, first: int, last: int) -> bool:
        return _run_of(self._state, number, first, last, self.source) >= 0

    def take(self) -> Moved | None:
        """What of the group that was read lives now; None if nothing does.  Raises Corrupt when the index disagrees."""
        group, self._group = self._group, None
        assert group is not None, "prepare found a group"
        moved = Moved(self.source)
        rows: dict[tuple[int, int], list[int]] = {}
        for item in group:
            self._pack(item, moved, rows)
        for (number, run_first), (first, last, count, size_bytes) in sorted(rows.items()):
            living = self._state.lanes[number].alive_in(run_first, last + 1)
            if living != count:
                reason = (
                    f"{count} messages of lane {number} found up to position {last}, {living} known"
                )
                raise Corrupt(self._segment.path, 0, reason)
            moved.moves.append((number, first, last, count, size_bytes))
        return moved if moved.moves else None

    def _pack(self, item: Item, moved: Moved, rows: dict[tuple[int, int], list[int]]) -> None:
        kept: set[int] = set()
        lanes = []
        for number, positions in item.places:
            run_first = _run_of(self._state, number, positions[0], positions[-1], self.source)
            if run_first < 0:
                continue
            lane = self._state.lanes[number]
            living = [i for i, position in enumerate(positions) if lane.is_alive(position)]
            if not living:
                continue
            kept.update(living)
            lanes.append((number, positions))
            messages = item.messages
            size_bytes = sum(len(messages[i].body) + len(messages[i].header) for i in living)
            row = rows.setdefault((number, run_first), [positions[0], 0, 0, 0])
            row[0] = min(row[0], positions[0])
            # To the last that the old chunk names, dead or not: no reader may come back to that chunk.
            row[1] = max(row[1], positions[-1])
            row[2] += len(living)
            row[3] += size_bytes
        if lanes:
            order = sorted(kept)
            messages = [item.messages[i] for i in order]
            places = [(n, ranges_of([positions[i] for i in order])) for n, positions in lanes]
            moved.chunks.append((encode_chunk(messages), messages, places))

    def close(self) -> None:
        """Close the segment."""
        self._segment.close()


def _run_of(state: State, number: int, first: int, last: int, source: int) -> int:
    """The first position of the run of `source` that living messages of first … last belong to; -1: there are none."""
    lane = state.find(number)
    if lane is None:
        return -1
    position = lane.next_alive(first)
    if position >= lane.next or position > last:
        return -1
    index = lane.runs.find(position)
    if index < 0:
        return -1
    figures = lane.runs.run(index)
    return figures[FIRST] if figures[SEGMENT] == source else -1


def _groups(items: list[Item], group_bytes: int) -> list[list[Item]]:
    """Cut a batch's chunks into groups where no lane's positions of one lie among those of another."""
    # By lane: the lowest position of this item and all later ones, and where the next later item is.
    lowest: dict[int, tuple[int, int]] = {}
    later: list[list[tuple[int, int]]] = []
    for index in range(len(items) - 1, -1, -1):
        found = []
        for number, positions in items[index].places:
            known = lowest.get(number, (1 << 63, 0))
            found.append(known)
            lowest[number] = (min(positions[0], known[0]), index)
        later.append(found)
    later.reverse()
    groups: list[list[Item]] = []
    group: list[Item] = []
    highest: dict[int, int] = {}
    # No cut before this item: some lane goes on below what it has already.
    open_until = size_bytes = 0
    for index, item in enumerate(items):
        group.append(item)
        size_bytes += sum(len(m.body) + len(m.header) for m in item.messages)
        for (number, positions), (low, following) in zip(item.places, later[index], strict=True):
            top = highest[number] = max(positions[-1], highest.get(number, -1))
            if low <= top:
                open_until = max(open_until, following)
        if size_bytes >= group_bytes and index >= open_until:
            groups.append(group)
            group, size_bytes = [], 0
    if group:
        groups.append(group)
    return groups


def complain(source: int, error: BaseException) -> None:
    """Say that a segment cannot be compacted: it stays as it is."""
    _LOG.error("%s cannot be compacted and stays: %s", segment_name(source), error)
