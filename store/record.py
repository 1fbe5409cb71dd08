"""Records, message chunks and batch headers as bytes: the only module that knows msgpack.

A batch is a header, chunks, and one msgpack array of records.  A chunk is one msgpack array of whole
messages that lie in the same lanes, located and checksummed by its PUBLISH record, so that replay reads the
records only and a queue reads nothing but its own messages.  Every record is a tuple that starts with its
kind.  Layouts: FORMAT.md.  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, final

import msgpack

from store.checksum import crc32
from store.interface import StoredMessage

PUBLISH: Final = 1
ACKNOWLEDGE: Final = 2
PURGE: Final = 3
DROP_LANE: Final = 4
DEFINE: Final = 5
HORIZON: Final = 6
REQUEUE: Final = 7
OPENING: Final = 8
DEFINITIONS: Final = 9
MOVED: Final = 10

RECORD_KINDS: Final[dict[int, str]] = {
    PUBLISH: "publish",
    ACKNOWLEDGE: "acknowledge",
    PURGE: "purge",
    DROP_LANE: "drop_lane",
    DEFINE: "define",
    HORIZON: "horizon",
    REQUEUE: "requeue",
    OPENING: "opening",
    DEFINITIONS: "definitions",
    MOVED: "moved",
}

Record = tuple[Any, ...]
"""(kind, …); the fields of each kind are in FORMAT.md."""

BATCH_MAGIC: Final = b"gmB1"
BATCH_ALIGN: Final = 64
_BATCH: Final = struct.Struct("<4sIQQIIQIII8xI")
BATCH_HEADER_BYTES: Final = _BATCH.size

FLAG_OPENING: Final = 1
LARGE_BYTES: Final = 1 << 20
"""A body of so much is put into its chunk by one copy, without the packer."""

_BATCH_FIELDS: Final = struct.Struct("<4sIQQIIQIII8x")
_CRC: Final = struct.Struct("<I")

# Made once: a packer's buffer costs page faults.  Shared between threads, as each pack is one call under the
# interpreter's lock.
_packer = msgpack.Packer(use_bin_type=True, buf_size=1 << 20)


@final
class BatchHeader:
    """The fixed fields of a batch."""

    __slots__ = (
        "body_bytes",
        "crc",
        "durable",
        "epoch",
        "flags",
        "number",
        "previous_crc",
        "record_count",
        "records_bytes",
    )

    def __init__(
        self,
        epoch: int,
        number: int,
        durable: int,
        records_bytes: int,
        record_count: int,
        body_bytes: int,
        previous_crc: int,
        flags: int,
        crc: int = 0,
    ) -> None:
        self.epoch = epoch
        self.number = number
        self.durable = durable
        self.records_bytes = records_bytes
        self.record_count = record_count
        self.body_bytes = body_bytes
        self.previous_crc = previous_crc
        self.flags = flags
        self.crc = crc

    @property
    def total_bytes(self) -> int:
        """Length on disk with the padding that follows."""
        return aligned(BATCH_HEADER_BYTES + self.records_bytes + self.body_bytes)


def aligned(size_bytes: int) -> int:
    """Round up to where the next batch may start."""
    return (size_bytes + BATCH_ALIGN - 1) & -BATCH_ALIGN


def encode_header(header: BatchHeader, records: bytes, salt: int) -> bytes:
    """Give the header's bytes, with the checksum of header and records; sets `header.crc`."""
    fields = _BATCH_FIELDS.pack(
        BATCH_MAGIC,
        header.epoch,
        header.number,
        header.durable,
        header.records_bytes,
        header.record_count,
        header.body_bytes,
        header.previous_crc,
        header.flags,
        0,
    )
    header.crc = crc32(records, crc32(fields, salt))
    return fields + _CRC.pack(header.crc)


def decode_header(raw: bytes) -> BatchHeader | None:
    """Read the fields; None if these are not the bytes of a header.  The checksum is not looked at."""
    if len(raw) < BATCH_HEADER_BYTES or raw[:4] != BATCH_MAGIC:
        return None
    _, epoch, number, durable, records, count, body, previous, flags, _, crc = _BATCH.unpack(
        raw[:BATCH_HEADER_BYTES]
    )
    return BatchHeader(epoch, number, durable, records, count, body, previous, flags, crc)


def is_intact(raw: bytes, header: BatchHeader, records: bytes, salt: int) -> bool:
    """Whether header and records are what was written into the segment with this salt."""
    fields = raw[: _BATCH_FIELDS.size]
    return crc32(records, crc32(fields, salt)) == header.crc


def encode_records(records: list[Record]) -> bytes:
    """Pack all records of a batch in one call."""
    packed: bytes = _packer.pack(records)
    return packed


def decode_records(raw: bytes) -> list[Record]:
    """Unpack the records of a batch.  Raises ValueError when they make no sense."""
    records: list[Record] = decode_value(raw)
    return records


_trace_of: Final = operator.attrgetter("trace")


def encode_chunk(messages: list[StoredMessage]) -> bytes:
    """Pack whole messages, bodies and all, in one call."""
    rows: list[tuple[Any, ...]] = [
        (
            m.exchange,
            m.routing_key,
            m.format,
            m.header,
            m.body,
            m.is_persistent,
            m.priority,
            m.published_at,
            m.expires_at,
        )
        for m in messages
    ]
    if any(map(_trace_of, messages)):
        # Only what links carry pays for it.
        rows = [(*row, m.trace) for row, m in zip(rows, messages, strict=True)]
    if len(rows) == 1 and len(messages[0].body) >= LARGE_BYTES:
        return _encode_large(rows[0])
    packed: bytes = _packer.pack(rows)
    return packed


def encode_single(message: StoredMessage) -> bytes:
    """Give the chunk of one message as `encode_chunk` does: ten thousand queues get one each in a batch."""
    if message.trace or len(message.body) >= LARGE_BYTES:
        return encode_chunk([message])
    row = (
        message.exchange,
        message.routing_key,
        message.format,
        message.header,
        message.body,
        message.is_persistent,
        message.priority,
        message.published_at,
        message.expires_at,
    )
    packed: bytes = _packer.pack((row,))
    return packed


_CHUNK_FIELDS: Final = 9
"""Of a message in a chunk, without a trace."""


def _encode_large(row: tuple[Any, ...]) -> bytes:
    """The same bytes by another way: the packer would copy the body twice, and its buffer keep the room for ever."""
    body = row[4]
    pack = _packer.pack
    parts = [b"\x91", bytes((0x90 + len(row),)), *map(pack, row[:4])]
    parts += [b"\xc6", len(body).to_bytes(4, "big"), body, *map(pack, row[5:])]
    return b"".join(parts)


def debt_of(records: list[Record]) -> int:
    """How many records a replay of these costs as much as.

    What moves counts for each lane that it touches.  A chunk for one lane counts half: 1.3 us with its decoding, measured
    with ten thousand packed lanes, where others take up to 3.
    """
    single_count = moved_count = 0
    for record in records:
        if record[0] == PUBLISH:
            single_count += len(record[4]) == 1
        elif record[0] == MOVED:
            moved_count += len(record[3])
    return len(records) - single_count // 2 + moved_count


def decode_chunk(raw: bytes) -> list[StoredMessage]:
    """Make the messages of a chunk."""
    messages = []
    make = StoredMessage.__new__
    for row in decode_value(raw):
        trace = row.pop() if len(row) > _CHUNK_FIELDS else b""
        # As its constructor would, without the call: draining a backlog is mostly this.
        message = make(StoredMessage)
        (
            message.exchange,
            message.routing_key,
            message.format,
            message.header,
            body,
            message.is_persistent,
            message.priority,
            message.published_at,
            message.expires_at,
        ) = row
        message.body = body
        message.trace = trace
        message.size = len(body) + len(message.header)
        messages.append(message)
    return messages


def encode_value(value: object) -> bytes:
    """Pack anything made of numbers, text, bytes, lists and maps."""
    packed: bytes = _packer.pack(value)
    return packed


def decode_value(raw: bytes) -> Any:
    """Unpack one value; lists come as lists.  Raises ValueError when the bytes make no sense."""
    try:
        return msgpack.unpackb(raw, raw=False, strict_map_key=False)
    except (msgpack.UnpackException, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"not msgpack: {error!r}") from error


def decode_start(raw: bytes, count: int) -> list[Any]:
    """Unpack the first elements of a packed list and leave the rest alone.  Raises ValueError when they make no sense."""
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=len(raw) + 1)
    unpacker.feed(raw)
    try:
        return [unpacker.unpack() for _ in range(min(count, unpacker.read_array_header()))]
    except (msgpack.UnpackException, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"not msgpack: {error!r}") from error


def ranges_of(positions: list[int]) -> list[int]:
    """Fold ascending positions into [first, count, first, count …]."""
    first = positions[0]
    count = len(positions)
    if positions[-1] - first + 1 == count:
        return [first, count]
    ranges = []
    start = expected = first
    for position in positions:
        if position != expected:
            ranges.append(start)
            ranges.append(expected - start)
            start = position
        expected = position + 1
    ranges.append(start)
    ranges.append(expected - start)
    return ranges


def positions_of(ranges: Sequence[int]) -> Iterable[int]:
    """Unfold [first, count …] into positions."""
    if len(ranges) == 2:
        return range(ranges[0], ranges[0] + ranges[1])
    return [
        position
        for index in range(0, len(ranges), 2)
        for position in range(ranges[index], ranges[index] + ranges[index + 1])
    ]
