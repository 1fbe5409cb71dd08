"""The end of the journal: where the next batch goes, and how one is put together there.

Called with the journal's lock held.  Afterwards the state is as of the new batch, which is not written yet: its
messages are in `Reader.unwritten` until it is.  Tests: tests/unit/store/test_journal_traps.py, the suite.
"""

from __future__ import annotations

from typing import final

from store.batch import Gathered, change_record
from store.checkpoint import Place
from store.checksum import crc32
from store.compaction import Moved
from store.index import State
from store.reader import Reader
from store.record import (
    BATCH_HEADER_BYTES,
    DEFINITIONS,
    MOVED,
    PUBLISH,
    BatchHeader,
    Record,
    debt_of,
    encode_value,
)
from store.segment import NUMBER_BITS, SEGMENT_HEADER_BYTES, Segment, encode_batch
from store.supply import SegmentSupply


@final
class Batch:
    """A batch ready to be written; without parts when all its units cancelled out."""

    __slots__ = ("commit", "number", "offset", "parts", "record_count", "segment", "size_bytes")

    def __init__(
        self, commit: int, number: int, segment: Segment, offset: int, parts: list[bytes]
    ) -> None:
        self.commit = commit
        self.number = number
        self.segment = segment
        self.offset = offset
        self.parts = parts
        self.size_bytes = 0
        self.record_count = 0


@final
class Tail:
    """The current segment and the numbers that go on from batch to batch."""

    __slots__ = ("_state", "_supply", "crc", "durable", "number", "offset", "sealed", "segment")

    def __init__(self, state: State, segment: Segment, supply: SegmentSupply, after: Place) -> None:
        self._state = state
        self._supply = supply
        self.segment = segment
        self.offset = SEGMENT_HEADER_BYTES
        self.number = after.batch
        self.crc = after.crc
        self.durable = after.batch
        # Segments that were left behind and that the journal has to close.
        self.sealed: list[Segment] = []

    def place(self) -> Place:
        """The last batch, and where the next one is looked for."""
        return Place(self.number, self.crc, self.segment.id, self.offset)

    def empty(self, commit: int) -> Batch:
        """A batch of units of which nothing remains."""
        return Batch(commit, self.number, self.segment, self.offset, [])

    def add(self, commit: int, gathered: Gathered, reader: Reader) -> Batch:
        """Choose the batch's place, then let its messages and changes take effect there.  Raises Full."""
        state = self._state
        need_bytes = BATCH_HEADER_BYTES + gathered.size_bytes_max + 64
        records = gathered.acknowledged
        if self.offset + need_bytes > self.segment.size_bytes:
            definitions: Record = (DEFINITIONS, state.definitions.copy())
            self.sealed.append(self.segment)
            self.segment = self._supply.take(need_bytes + 64 + len(encode_value(definitions)))
            self.offset = SEGMENT_HEADER_BYTES
            records = [definitions, *records]
        segment = self.segment.id
        salt = self.segment.salt
        chunks_offset = self.offset + BATCH_HEADER_BYTES
        relative = 0
        chunks: list[bytes] = []
        for packed, messages, places in gathered.chunks:
            record: Record = (PUBLISH, relative, len(packed), crc32(packed, salt), places)
            state.apply(record, segment, chunks_offset)
            reader.unwritten[segment, chunks_offset + relative] = messages
            records.append(record)
            chunks.append(packed)
            relative += len(packed)
        if gathered.moved is not None:
            record = self._move(gathered.moved, chunks_offset, relative, chunks, reader)
            state.apply(record, segment, chunks_offset)
            records.append(record)
        for change in gathered.changes:
            record = change_record(state, change, reader.sizes_of)
            state.apply(record, segment, 0)
            records.append(record)
        return self.close_batch(commit, records, chunks, 0)

    def _move(
        self, moved: Moved, chunks_offset: int, relative: int, chunks: list[bytes], reader: Reader
    ) -> Record:
        """Put moved chunks behind those of the batch; returns their record."""
        rows = []
        for packed, messages, places in moved.chunks:
            rows.append((relative, len(packed), crc32(packed, self.segment.salt), places))
            reader.unwritten[self.segment.id, chunks_offset + relative] = messages
            chunks.append(packed)
            relative += len(packed)
        return (MOVED, moved.source, rows, moved.moves)

    def close_batch(
        self, commit: int, records: list[Record], chunks: list[bytes], flags: int
    ) -> Batch:
        """Number the batch, encode it, and move the end of the journal behind it."""
        segment, offset = self.segment, self.offset
        number = self.number + 1
        epoch = segment.id >> NUMBER_BITS
        header = BatchHeader(epoch, number, self.durable, 0, 0, 0, self.crc, flags)
        parts = encode_batch(header, records, chunks, segment.salt)
        total_bytes = header.total_bytes
        assert offset + total_bytes <= segment.size_bytes, "a batch was larger than its estimate"
        self.number = number
        self.crc = header.crc
        self.offset = offset + total_bytes
        figures = self._state.segment(segment.id)
        figures.last_batch = number
        figures.used_bytes = self.offset
        figures.size_bytes = segment.size_bytes
        batch = Batch(commit, number, segment, offset, parts)
        batch.size_bytes = total_bytes
        batch.record_count = debt_of(records)
        return batch
