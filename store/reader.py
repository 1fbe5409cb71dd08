"""Reads stored messages back: by lane and position, through extents in memory or in sidecars.

Keeps a bounded number of open segments and of decoded bytes; checks every chunk and page it reads.  Called with
the journal's lock held.  Tests: tests/unit/store/test_journal_traps.py and the store's suite.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from typing import final

from store.checkpoint import decode_page
from store.errors import Corrupt
from store.files import FileSystem
from store.index import Extent, Lane, first_of
from store.interface import StoredMessage
from store.record import decode_chunk, positions_of
from store.runs import Page
from store.segment import Segment, open_segment, sidecar_name

Row = tuple[int, StoredMessage]


@final
class Reader:
    """Finds messages by lane and position."""

    __slots__ = (
        "_cache",
        "_cache_bytes",
        "_cache_bytes_max",
        "_files",
        "_folder",
        "_open_max",
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
            part = list(zip(positions_of(extent[6]), messages, strict=True))
            # With gaps, what is alive in between belongs to other chunks: look one by one.
            if (
                extent[0] < first
                or len(extent[6]) > 2
                or lane.alive_in(extent[0], extent[1] + 1) < len(part)
            ):
                part = [row for row in part if row[0] >= first and lane.is_alive(row[0])]
            rows += part
            size_bytes += sum([len(row[1].body) + len(row[1].header) for row in part])
            if not is_after:
                rows.sort(key=_position_of)
        return rows

    def size_of(self, lane: Lane, position: int) -> int:
        """Header and body bytes of the message at a living position.  Raises Corrupt."""
        found = self.rows(lane, position, 1, 1)
        assert found, f"lane {lane.number} lost position {position}"
        assert found[0][0] == position, f"lane {lane.number} has {found[0][0]} for {position}"
        message = found[0][1]
        return len(message.body) + len(message.header)

    def _extents(self, lane: Lane, first: int) -> Iterator[Extent]:
        start = max(first, lane.head)
        runs = lane.runs
        for index in range(runs.find_from(start), len(runs)):
            segment, run_first, last, _, _ = runs.run(index)
            # What a run's chunks say of positions below its first was moved to another run.
            low = max(start, run_first)
            for page in runs.pages_of(index):
                if page[4] >= low:
                    for extent in self._page(segment, lane.number, page):
                        if extent[1] >= low and lane.is_any_alive(extent[0], extent[1]):
                            yield extent
            for extents in (lane.frozen, lane.extents):
                for at in range(bisect_left(extents, run_first, key=first_of), len(extents)):
                    extent = extents[at]
                    if extent[0] > last:
                        break
                    if (
                        extent[1] >= low
                        and extent[2] == segment
                        and lane.is_any_alive(extent[0], extent[1])
                    ):
                        yield extent

    def _page(self, segment: int, lane: int, page: Page) -> list[Extent]:
        path = f"{self._folder}/{sidecar_name(segment, page[0])}"
        try:
            file = self._files.open(path)
        except FileNotFoundError as error:
            raise Corrupt(path, page[1], "the sidecar is missing") from error
        try:
            raw = file.read(page[1], page[2])
        finally:
            file.close()
        return decode_page(raw, path, page[1], segment, lane)

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
            messages = decode_chunk(raw, extent[2], extent[3])
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

    def close(self) -> None:
        """Close all segments."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self._cache.clear()
        self._cache_bytes = 0


def _position_of(row: Row) -> int:
    return row[0]
