"""Reads stored messages back: by lane and position, through extents in memory or in sidecars.

Keeps a bounded number of open segments and of decoded bytes; checks every chunk and page it reads.  A sidecar is derived: where
it cannot be read, its segment is.  Called with the journal's lock held.  Tests: tests/unit/store/test_journal_traps.py and the store's suite.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, final

from store.checkpoint import decode_page
from store.errors import Corrupt
from store.files import FileSystem
from store.index import Extent, Lane, first_of
from store.interface import StoredMessage
from store.record import decode_chunk, positions_of
from store.runs import Page
from store.segment import Segment, chunks_of, open_segment, sidecar_name

_LOG: Final = logging.getLogger("store")
_REBUILT_MAX: Final = 50_000
"""Chunks of a segment that are remembered in the place of its sidecar; of more only one lane's."""
Row = tuple[int, StoredMessage]


@final
class Reader:
    """Finds messages by lane and position."""

    __slots__ = (
        "_cache",
        "_cache_bytes",
        "_cache_bytes_max",
        "_damaged_sidecars",
        "_files",
        "_folder",
        "_open_max",
        "_rebuilt_extents",
        "_rebuilt_of",
        "_segments",
        "unwritten",
    )

    def __init__(self, files: FileSystem, folder: str, open_max: int, cache_bytes_max: int) -> None:
        self._files = files
        self._folder = folder
        self._open_max = open_max
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._cache: OrderedDict[tuple[int, int], tuple[int, list[StoredMessage]]] = OrderedDict()
        self._cache_bytes = 0
        self._cache_bytes_max = cache_bytes_max
        self._damaged_sidecars: set[str] = set()
        # Of one segment, the last whose sidecar could not be read, for all its lanes (0) or one.
        self._rebuilt_of = (0, 0)
        self._rebuilt_extents: dict[int, list[Extent]] = {}
        # Chunks of the batch that is being written: not in the file yet.
        self.unwritten: dict[tuple[int, int], list[StoredMessage]] = {}

    def rows(self, lane: Lane, first: int, count_max: int, bytes_max: int) -> list[Row]:
        """The living messages from `first` on, in order: at least as many as the limits ask for, or all.  Raises Corrupt."""
        rows: list[Row] = []
        size_bytes = 0
        for extent in self._extents(lane, first):
            # Extents come by first position; those of one batch may overlap, others never do.
            is_after = not rows or rows[-1][0] < extent[0]
            if is_after and rows and (len(rows) >= count_max or size_bytes >= bytes_max):
                break
            messages = self._chunk(extent)
            ranges = extent[6]
            positions = positions_of(ranges) if ranges else range(extent[0], extent[1] + 1)
            part = list(zip(positions, messages, strict=True))
            # With gaps, what is alive in between belongs to other chunks: look one by one.
            if (
                extent[0] < first
                or len(ranges) > 2
                or lane.alive_in(extent[0], extent[1] + 1) < len(part)
            ):
                part = [row for row in part if row[0] >= first and lane.is_alive(row[0])]
            rows += part
            size_bytes += sum([len(row[1].body) + len(row[1].header) for row in part])
            if not is_after:
                rows.sort(key=_position_of)
        return rows

    def sizes_of(self, lane: Lane, positions: list[int], guess_bytes: int) -> int:
        """Header and body bytes of the messages at ascending living positions.

        From the first that cannot be read on, which is logged, each counts `guess_bytes`: a purge must not fail because of
        messages that stay.
        """
        total_bytes = at = 0
        while at < len(positions):
            try:
                rows = self.rows(lane, positions[at], 1, 1)
            except (Corrupt, OSError) as error:
                _LOG.error(
                    "lane %d: the sizes of what a purge leaves are guessed: %s", lane.number, error
                )
                return total_bytes + guess_bytes * (len(positions) - at)
            assert rows, f"lane {lane.number} lost {positions[at]}"
            assert rows[0][0] == positions[at], f"{lane.number}: {rows[0][0]} for {positions[at]}"
            for position, message in rows:
                if at < len(positions) and position == positions[at]:
                    at += 1
                    total_bytes += len(message.body) + len(message.header)
        return total_bytes

    def _extents(self, lane: Lane, first: int) -> Iterator[Extent]:
        start = max(first, lane.head)
        runs = lane.runs
        for index in range(runs.find_from(start), len(runs)):
            segment, run_first, last, _, _ = runs.run(index)
            # What a run's chunks say of positions below its first was moved to another run.
            low = max(start, run_first)
            pages = runs.pages_of(index)
            for at, page in enumerate(pages):
                if page[4] >= low:
                    before = pages[at + 1][3] if at + 1 < len(pages) else last + 1
                    for extent in self._page(segment, lane.number, page, before):
                        if extent[1] >= low and lane.is_any_alive(max(low, extent[0]), extent[1]):
                            yield extent
            for extents in (lane.frozen, lane.extents):
                for at in range(bisect_left(extents, run_first, key=first_of), len(extents)):
                    extent = extents[at]
                    if extent[0] > last:
                        break
                    if (
                        extent[1] >= low
                        and extent[2] == segment
                        and lane.is_any_alive(max(low, extent[0]), extent[1])
                    ):
                        yield extent

    def _page(self, segment: int, lane: int, page: Page, before: int) -> list[Extent]:
        """The chunks that a page tells, all of which start below `before`."""
        path = f"{self._folder}/{sidecar_name(segment, page[0])}"
        try:
            file = self._files.open(path)
            try:
                raw = file.read(page[1], page[2])
            finally:
                file.close()
            return decode_page(raw, path, page[1], segment, lane)
        except (OSError, Corrupt) as error:
            if isinstance(error, FileNotFoundError):
                error = Corrupt(path, page[1], "the sidecar is missing")
            if path not in self._damaged_sidecars:
                self._damaged_sidecars.add(path)
                _LOG.error("%s; its segment is read instead", error)
            for _ in range(2):
                rebuilt = self._rebuilt(segment, lane)
                found = [e for e in rebuilt if page[3] <= e[0] < before and e[1] <= page[4]]
                if found and found[0][0] == page[3] and max([e[1] for e in found]) == page[4]:
                    return found
                # It may have been read before this page was written.
                self._rebuilt_of = (0, 0)
            raise Corrupt(
                path, page[1], f"its segment lacks what this page told ({error})"
            ) from error

    def _rebuilt(self, id: int, lane: int) -> list[Extent]:
        """What a lane's pages for a segment are derived from: its chunks, read from the segment's batches.  Raises Corrupt."""
        if self._rebuilt_of not in ((id, 0), (id, lane)):
            self._rebuilt_of, self._rebuilt_extents = (0, 0), {}
            found: dict[int, list[Extent]] = {}
            only = count = 0
            source, end = self.segment(id), 0
            for batch in source.batches():
                end = batch.end
                for offset, size_bytes, crc, places in chunks_of(batch):
                    for number, ranges, *_ in places:
                        if only in (0, number):
                            last = ranges[-2] + ranges[-1] - 1
                            extent = (ranges[0], last, id, offset, size_bytes, crc, ranges)
                            found.setdefault(number, []).append(extent)
                            count += 1
                if count > _REBUILT_MAX and not only:
                    only, found = lane, {lane: found.get(lane, [])}
            if source.find_batch(end + 1, 0) is not None:
                raise Corrupt(source.path, end, "a batch is damaged")
            for extents in found.values():
                extents.sort(key=first_of)
            self._rebuilt_of, self._rebuilt_extents = (id, only), found
        return self._rebuilt_extents.get(lane, [])

    def _chunk(self, extent: Extent) -> list[StoredMessage]:
        key = (extent[2], extent[3])
        messages = self.unwritten.get(key)
        if messages is not None:
            return messages
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached[1]
        segment = self.segment(extent[2])
        raw = segment.read_chunk(extent[3], extent[4], extent[5])
        try:
            messages = decode_chunk(raw)
        except (ValueError, TypeError) as error:
            raise Corrupt(segment.path, extent[3], f"messages make no sense: {error}") from error
        self._cache[key] = (len(raw), messages)
        self._cache_bytes += len(raw)
        while self._cache_bytes > self._cache_bytes_max and len(self._cache) > 1:
            _, (size_bytes, _) = self._cache.popitem(last=False)
            self._cache_bytes -= size_bytes
        return messages

    def segment(self, id: int) -> Segment:
        """The segment, opened for reading.  Raises Corrupt."""
        segment = self._segments.get(id)
        if segment is None:
            segment = self._segments[id] = open_segment(self._files, self._folder, id)
            if len(self._segments) > self._open_max:
                self._segments.popitem(last=False)[1].close()
        else:
            self._segments.move_to_end(id)
        return segment

    def forget(self, id: int) -> None:
        """Close a segment that is to be unlinked."""
        segment = self._segments.pop(id, None)
        if segment is not None:
            segment.close()
        if id == self._rebuilt_of[0]:
            self._rebuilt_of, self._rebuilt_extents = (0, 0), {}

    def close(self) -> None:
        """Close all segments."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self._cache.clear()
        self._cache_bytes = 0


def _position_of(row: Row) -> int:
    return row[0]
