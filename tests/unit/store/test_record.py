"""Chunks: a large message is encoded by another way to the same bytes."""

from __future__ import annotations

import zlib

import msgpack
import pytest

from store import checksum
from store.interface import StoredMessage
from store.record import LARGE_BYTES, decode_chunk, encode_chunk


@pytest.mark.parametrize("trace", [b"", b"from afar"])
@pytest.mark.parametrize("size_bytes", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_a_large_message_is_one_row_like_any_other(size_bytes: int, trace: bytes) -> None:
    message = StoredMessage(
        "x", "key", 1, b"header", b"\xc6" * size_bytes, is_persistent=True, priority=4,
        published_at=1_700_000_000_000, expires_at=0, trace=trace,
    )  # fmt: skip
    packed = encode_chunk([message])
    row = ["x", "key", 1, b"header", message.body, True, 4, 1_700_000_000_000, 0]
    assert packed == msgpack.packb([[*row, trace] if trace else row])
    (back,) = decode_chunk(packed)
    assert back.body == message.body and back.trace == trace
    assert back.size == 6 + size_bytes


@pytest.mark.parametrize("start", [0, 1, 0xDEADBEEF])
def test_checksums_are_zlibs_with_or_without_isal(start: int) -> None:
    for raw in (b"", b"x", bytes(range(256)) * 70, b"\0" * 100_001):
        assert checksum.crc32(raw, start) == zlib.crc32(raw, start)
