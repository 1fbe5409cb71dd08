"""A segment: one preallocated file of batches, appended to by one epoch only.

Invariants: batches lie back to back from SEGMENT_HEADER_BYTES on, each seeded with the segment's random salt, so that
neither old bytes nor a message body that is a copy of a journal can pass for one; nothing is ever
overwritten or truncated.  Layout: FORMAT.md.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, final

from store.checksum import crc32
from store.errors import Corrupt
from store.files import File, FileSystem
from store.record import (
    BATCH_ALIGN,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    MOVED,
    PUBLISH,
    BatchHeader,
    Record,
    aligned,
    decode_header,
    decode_records,
    decode_start,
    encode_header,
    encode_records,
    is_intact,
)

SEGMENT_MAGIC: Final = b"gmSEGM1\n"
SEGMENT_HEADER_BYTES: Final = 4096
_HEADER: Final = struct.Struct("<8sIIQQI")
_CRC: Final = struct.Struct("<I")
NUMBER_BITS: Final = 40
_SCAN_BYTES: Final = 1 << 20


def segment_id(epoch: int, number: int) -> int:
    """Fold epoch and number into the one integer that records and indexes use; it sorts in order."""
    return epoch << NUMBER_BITS | number


def segment_name(segment: int) -> str:
    """Give the file name of a segment."""
    return f"{segment >> NUMBER_BITS:06d}-{segment & (1 << NUMBER_BITS) - 1:012d}.seg"


def sidecar_name(segment: int, epoch: int) -> str:
    """Give the file name of the sidecar that `epoch` writes for a segment."""
    return f"{segment_name(segment)[:-4]}.{epoch:06d}.idx"


def segment_of_name(name: str) -> int | None:
    """Give the segment that a segment's or sidecar's file name belongs to, or None."""
    stem = name.split(".", 1)
    epoch, dash, number = stem[0].partition("-")
    if len(stem) != 2 or not dash or not epoch.isdecimal() or not number.isdecimal():
        return None
    return segment_id(int(epoch), int(number))


@final
class Batch:
    """A batch as read back: its header, its records, and where it and its chunks lie."""

    __slots__ = ("file_bytes", "header", "offset", "records", "segment")

    def __init__(
        self,
        segment: int,
        offset: int,
        header: BatchHeader,
        records: list[Record],
        file_bytes: int,
    ) -> None:
        self.segment = segment
        self.offset = offset
        self.header = header
        self.records = records
        self.file_bytes = file_bytes

    @property
    def chunks_offset(self) -> int:
        """Where in the segment the first chunk starts."""
        return self.offset + BATCH_HEADER_BYTES

    @property
    def end(self) -> int:
        """Where in the segment the next batch starts."""
        return self.offset + self.header.total_bytes


def chunks_of(batch: Batch) -> Iterator[tuple[int, int, int, list[list[Any]]]]:
    """Every chunk of a batch: offset in the segment, size, checksum, and places (lane, ranges, …)."""
    for record in batch.records:
        if record[0] == PUBLISH:
            yield batch.chunks_offset + record[1], record[2], record[3], record[4]
        elif record[0] == MOVED:
            for offset, size_bytes, crc, places in record[2]:
                yield batch.chunks_offset + offset, size_bytes, crc, places


@final
class Segment:
    """An open segment file."""

    __slots__ = ("file", "id", "path", "salt", "size_bytes")

    def __init__(self, id: int, path: str, file: File, salt: int, size_bytes: int) -> None:
        self.id = id
        self.path = path
        self.file = file
        self.salt = salt
        self.size_bytes = size_bytes

    def read_batch(self, offset: int, is_first_only: bool = False) -> Batch | None:
        """Read header and records (or the first of them) at `offset`; None unless all are whole and intact."""
        if offset + BATCH_HEADER_BYTES > self.size_bytes:
            return None
        raw = self.file.read(offset, BATCH_HEADER_BYTES)
        header = decode_header(raw)
        if header is None or header.epoch != self.id >> NUMBER_BITS:
            return None
        if offset + header.total_bytes > self.size_bytes:
            return None
        records = self.file.read(
            offset + BATCH_HEADER_BYTES + header.body_bytes, header.records_bytes
        )
        if not is_intact(raw, header, records, self.salt):
            return None
        try:
            decoded = decode_start(records, 1) if is_first_only else decode_records(records)
        except ValueError as error:
            raise Corrupt(self.path, offset, f"batch {header.number}: {error}") from error
        return Batch(self.id, offset, header, decoded, self.size_bytes)

    def batches(self) -> Iterator[Batch]:
        """The batches from the start on, up to the first that is not whole.  Raises Corrupt, OSError."""
        offset = SEGMENT_HEADER_BYTES
        while (batch := self.read_batch(offset)) is not None:
            yield batch
            offset = batch.end

    def read_chunk(self, offset: int, size_bytes: int, crc: int) -> bytes:
        """Read and check a chunk.  Raises Corrupt."""
        raw = self.file.read(offset, size_bytes)
        if len(raw) != size_bytes or crc32(raw, self.salt) != crc:
            raise Corrupt(self.path, offset, f"messages ({size_bytes} bytes) fail their checksum")
        return raw

    def find_batch(self, offset: int, number_min: int) -> Batch | None:
        """Search from `offset` to the end for an intact batch numbered `number_min` or higher."""
        offset = aligned(offset)
        while offset < self.size_bytes:
            block = self.file.read(offset, _SCAN_BYTES)
            at = block.find(BATCH_MAGIC)
            while at >= 0:
                if at % BATCH_ALIGN == 0:
                    batch = self.read_batch(offset + at)
                    if batch is not None and batch.header.number >= number_min:
                        return batch
                at = block.find(BATCH_MAGIC, at + 1)
            if len(block) < _SCAN_BYTES:
                break
            offset += len(block)
        return None

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def find_salt(segment: Segment) -> int | None:
    """Work out the salt of a segment whose header is lost; None unless a batch bears it out.

    A checksum depends on its seed in a way that can be run backwards: each batch that is whole gives the salt, and two that
    give the same prove it (or the records of one make sense).
    """
    offset = SEGMENT_HEADER_BYTES
    found: list[int] = []
    while len(found) < 2:
        raw = segment.file.read(offset, BATCH_HEADER_BYTES)
        header = decode_header(raw)
        if header is None or offset + header.total_bytes > segment.size_bytes:
            break
        start = offset + BATCH_HEADER_BYTES + header.body_bytes
        records = segment.file.read(start, header.records_bytes)
        fields = raw[: BATCH_HEADER_BYTES - _CRC.size]
        changed = header.crc ^ crc32(records, crc32(fields))
        found.append(_run_back(changed, len(fields) + len(records)))
        offset += header.total_bytes
    return found[0] if found and found.count(found[0]) == len(found) else None


def _run_back(difference: int, byte_count: int) -> int:
    """From the difference that two seeds make after some bytes, the difference of the seeds."""
    by_top = {_step(index) >> 24: (index, _step(index)) for index in range(256)}
    for _ in range(byte_count):
        index, entry = by_top[difference >> 24]
        difference = ((difference ^ entry) << 8 & 0xFFFFFFFF) | index
    return difference


def _step(value: int) -> int:
    """One byte through the checksum's polynomial."""
    for _ in range(8):
        value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


def create_segment(
    files: FileSystem,
    folder: str,
    id: int,
    salt: int,
    size_bytes: int,
    is_prewritten: bool,
) -> Segment:
    """Make a segment and return once its space, header and name are on stable storage."""
    path = f"{folder}/{segment_name(id)}"
    file = files.create(path)
    try:
        file.reserve(size_bytes, is_prewritten)
        epoch, number = id >> NUMBER_BITS, id & (1 << NUMBER_BITS) - 1
        fields = _HEADER.pack(SEGMENT_MAGIC, epoch, 0, number, size_bytes, salt)
        file.write(0, [fields, _CRC.pack(crc32(fields))])
        file.sync()
        files.sync_folder(folder)
    except BaseException:
        file.close()
        raise
    return Segment(id, path, file, salt, size_bytes)


def open_segment(files: FileSystem, folder: str, id: int) -> Segment:
    """Open a segment for reading.  Raises Corrupt when the header is not its own."""
    path = f"{folder}/{segment_name(id)}"
    try:
        file = files.open(path)
    except FileNotFoundError as error:
        raise Corrupt(path, 0, "the segment is missing") from error
    raw = file.read(0, _HEADER.size + _CRC.size)
    reason = ""
    if len(raw) < _HEADER.size + _CRC.size or raw[:8] != SEGMENT_MAGIC:
        reason = "not the header of a segment"
    elif crc32(raw[: _HEADER.size]) != _CRC.unpack(raw[_HEADER.size :])[0]:
        reason = "the segment's header fails its checksum"
    else:
        _, epoch, _, number, size_bytes, salt = _HEADER.unpack(raw[: _HEADER.size])
        if segment_id(epoch, number) != id:
            reason = f"the header belongs to {segment_name(segment_id(epoch, number))}"
    if reason:
        file.close()
        raise Corrupt(path, 0, reason)
    return Segment(id, path, file, salt, size_bytes)


def encode_batch(
    header: BatchHeader, records: list[Record], chunks: list[bytes], salt: int
) -> list[bytes]:
    """Give the buffers of a batch, padding included; fills in the lengths and checksum of `header`."""
    packed = encode_records(records)
    header.records_bytes = len(packed)
    header.record_count = len(records)
    header.body_bytes = sum(map(len, chunks))
    used = BATCH_HEADER_BYTES + len(packed) + header.body_bytes
    parts = [encode_header(header, packed, salt), *chunks, packed]
    if used % BATCH_ALIGN:
        parts.append(bytes(aligned(used) - used))
    return parts
